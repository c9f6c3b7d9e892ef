"""Runs: each is one life of a worker or controller process."""

from __future__ import annotations

import os
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True, kw_only=True)
class RunDescription:
    """A run as it is stored; ``started_at`` is UTC epoch seconds, ``config`` is masked.

    ``process``, ``cgroups``, the versions and ``deployed_by``: see ``recorder.models.Run``.
    """

    id: uuid.UUID
    cluster: str
    worker: str
    host: str
    pid: int
    version: str
    isolation: str
    slots: int
    config_hash: str
    config: Mapping[str, Any]
    environment: Mapping[str, str]
    started_at: float
    process: str = ""
    cgroups: str = ""
    handler_version: str = ""
    program_version: str = ""
    deployed_by: str = ""


def uuid7(wall: float) -> uuid.UUID:
    """A UUIDv7 (RFC 9562) of that moment in UTC epoch seconds: ids sort by time."""
    value = (int(wall * 1000.0) & (1 << 48) - 1) << 80 | int.from_bytes(os.urandom(10), "big")
    value = value & ~(0xF << 76) | 0x7 << 76
    return uuid.UUID(int=value & ~(0x3 << 62) | 0x2 << 62)
