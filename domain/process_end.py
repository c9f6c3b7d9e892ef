"""Why a persistent process is replaced."""

from __future__ import annotations

from enum import StrEnum


class ProcessEnd(StrEnum):
    """Causes, as events and metrics name them."""

    ENDED = "ended"
    """It ended by itself, or was killed by somebody else."""
    KILLED = "killed"
    """Its request ran past its time or was cancelled."""
    PROTOCOL = "protocol"
    OUTPUT_LIMIT = "output_limit"
    NOT_READY = "not_ready"
    RECYCLED = "recycled"
    """It answered ``executor.persistent.max_requests``."""
