"""Runs of the control plane itself: the controller, and commands that have something to tell."""

from __future__ import annotations

import os
import socket

from recorder.runs import RunDescription, uuid7
from workers.clock import Clock
from workers.control_plane.queries import CONTROL_CLUSTER
from workers.version import VERSION


def control_run(name: str, clock: Clock) -> RunDescription:
    """Return the run of this process, of no cluster of anybody's, from now on."""
    return RunDescription(
        id=uuid7(clock.wall()),
        cluster=CONTROL_CLUSTER,
        worker=name,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=VERSION,
        isolation="",
        slots=0,
        config_hash="",
        config={},
        environment={},
        started_at=clock.wall(),
    )
