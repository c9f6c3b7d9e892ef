"""How a launch is bounded: which of its limits are its cgroup's, and which of each process."""

from __future__ import annotations

import logging
from typing import Literal

from domain.task import Limits
from workers.executor.cgroups import Cgroups

CgroupMode = Literal["off", "limited", "all"]

ProcessLimits = tuple[int | None, ...]
"""As ``RESOURCES`` of limited.py orders them."""
TreeBounds = tuple[int | None, int | None, float | None]
"""As ``Bounds`` of task_cgroup.py, in a form that a frame can hold."""

logger = logging.getLogger("drakkar.executor")

_NO_BOUNDS: TreeBounds = (None, None, None)


class Bounding:
    """Chooses for each launch. ``cgroups`` is None where tasks get none.

    Mode ``limited``: a task has a cgroup if it asks for a bound that one can set; ``all``: each
    task has one, for its account and its end. A ``cpu_quota`` that nothing here can bound is warned
    of once.
    """

    def __init__(self, mode: CgroupMode, cgroups: Cgroups | None) -> None:
        self._cgroups = cgroups if mode != "off" else None
        self._has_all = mode == "all"
        self._is_warned = False
        self._known: Limits | None = None
        self._answer = self._choose(None)

    def of(self, limits: Limits | None) -> tuple[ProcessLimits | None, TreeBounds | None]:
        """Return the limits of each process, None: no such limit; and the bounds of the cgroup,
        None: no cgroup."""
        if limits is not self._known:  # The configured ones, mostly.
            self._answer, self._known = self._choose(limits), limits
        return self._answer

    def _choose(self, limits: Limits | None) -> tuple[ProcessLimits | None, TreeBounds | None]:
        if limits is None:
            limits = Limits()
        memory, processes = limits.memory_bytes, limits.processes
        bounds = self._bounds(memory, processes, limits.cpu_quota)
        if bounds is not None:
            memory = memory if bounds[0] is None else None
            processes = processes if bounds[1] is None else None
        of_process = (limits.cpu_seconds, memory, limits.open_files, limits.file_bytes, processes)
        return (None if of_process == (None,) * 5 else of_process), bounds

    def _bounds(
        self, memory: int | None, processes: int | None, cpus: float | None
    ) -> TreeBounds | None:
        has_cpu = cpus is not None and self._has_cpu()
        if self._cgroups is None:
            return None
        in_force = self._cgroups.controllers
        bounds = (
            memory if "memory" in in_force else None,
            processes if "pids" in in_force else None,
            cpus if has_cpu else None,
        )
        return bounds if bounds != _NO_BOUNDS or self._has_all else None

    def _has_cpu(self) -> bool:
        if self._cgroups is not None and self._cgroups.hand_down_cpu():
            return True
        if not self._is_warned:
            self._is_warned = True
            logger.warning("cpu_quota is not in force: the worker's tasks get no cpu cgroups")
        return False
