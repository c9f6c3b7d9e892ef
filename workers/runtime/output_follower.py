"""Fills the taps of live tails on the loop thread, from attempt to attempt of each task."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass

from domain.live_tail import Piece, TailFacts, TailState
from workers.consumer.ownership import Claim
from workers.executor.base import Chunk, Executor, Signs
from workers.pipeline.life_cycle import LEAVING, LiveTask, TaskState
from workers.pipeline.partition import PartitionWorker
from workers.runtime.live_tails import Tap

NO_FACTS = TailFacts(state=TailState.ABSENT)


class OutputFollower:
    """Follower of one worker's tasks. Its methods may be called from any thread; all they cause
    happens on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        executor: Executor,
        partitions: Callable[[], Mapping[Claim, PartitionWorker]],
    ) -> None:
        self._loop = loop
        self._executor = executor
        self._partitions = partitions
        self._followed: dict[Tap, _Attempt] = {}

    def follow(self, tap: Tap) -> None:
        """Begin to fill a tap, whether its task runs yet or not."""
        self._post(self._look, tap)

    def leave(self, tap: Tap) -> None:
        """Fill it no more."""
        self._post(self._leave, tap)

    def look(self, taps: Collection[Tap]) -> None:
        """Tell each tap how its task stands now, and follow the attempt that runs."""
        for tap in taps:
            self._post(self._look, tap)

    def _post(self, step: Callable[[Tap], None], tap: Tap) -> None:
        if not self._loop.is_closed():  # a worker that ends has no more to show
            self._loop.call_soon_threadsafe(step, tap)

    def _look(self, tap: Tap) -> None:
        live = self._task(tap.task_id)
        if live is None:
            self._leave(tap)
            tap.tell(NO_FACTS)
            return
        attempt = self._followed.get(tap)
        if attempt is None or attempt.is_over:
            attempt = self._followed[tap] = _Attempt(tap, live, live.attempt)
            attempt.is_over = not self._executor.follow(tap.task_id, attempt.hear)
        attempt.tell()

    def _leave(self, tap: Tap) -> None:
        attempt = self._followed.pop(tap, None)
        if attempt is not None:
            self._executor.unfollow(tap.task_id, attempt.hear)

    def _task(self, task_id: str) -> LiveTask | None:
        found = (partition.task(task_id) for partition in self._partitions().values())
        return next((live for live in found if live is not None), None)


@dataclass(slots=True, eq=False)
class _Attempt:
    """Attempt of a task whose output goes into a tap."""

    tap: Tap
    live: LiveTask
    number: int
    is_over: bool = False
    stdout_bytes: int | None = None
    stderr_bytes: int | None = None
    signs: Signs | None = None

    def hear(self, heard: Chunk | Signs | None) -> None:
        """Take what the executor tells."""
        match heard:
            case Chunk(stream=stream, offset=offset, data=data):
                written = offset + len(data)
                if stream == "stdout":
                    self.stdout_bytes = written
                else:
                    self.stderr_bytes = written
                if data:
                    self.tap.write(
                        Piece(attempt=self.number, stream=stream, offset=offset, data=bytes(data))
                    )
            case Signs():
                self.signs = heard
            case None:
                self.is_over = True
        self.tell()

    def tell(self) -> None:
        """Tell the tap how the task stands now."""
        live, signs = self.live, self.signs
        is_running = live.state is TaskState.RUNNING
        facts = TailFacts(
            state=_state_of(live.state),
            detail=live.partition.tasks.waits_for(live.task.id),
            attempt=self.number or None,
            pid=live.pid if is_running else None,
            slot=live.slot if is_running else None,
            elapsed_seconds=None if signs is None else signs.elapsed_seconds,
            cpu_seconds=None if signs is None else signs.cpu_seconds,
            rss_bytes=None if signs is None else signs.rss_bytes,
            processes=None if signs is None else signs.processes,
            stdout_bytes=self.stdout_bytes,
            stderr_bytes=self.stderr_bytes,
            progress=live.progress if is_running else None,
            note=(live.note or None) if is_running else None,
        )
        self.tap.tell(facts)


def _state_of(state: TaskState) -> TailState:
    if state is TaskState.RUNNING:
        return TailState.RUNNING
    return TailState.DELIVERING if state in LEAVING else TailState.WAITING
