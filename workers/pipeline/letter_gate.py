"""The gate that the dead letters of one partition pass, so that a flood ends at its bound.

Letters are written side by side: without it, as many more would be on their way as one batch has
messages when the fiftieth in a row is counted.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection, Sequence, Set
from dataclasses import dataclass

from domain.flood import FloodWatch
from workers.pipeline.partition_state import MessageState, shared


@dataclass(slots=True, eq=False)
class _Waiting:
    states: Sequence[MessageState]
    passing: asyncio.Future[None]
    task: asyncio.Task[object] | None


class LetterGate:
    """Lets in as many messages at a time as may be dead-lettered before it is a flood.

    Messages that end together (one task serves them, or one ``on_batch_complete``) pass together:
    one of them in, none of the others waits. Shut while the partition is parked for a flood. Loop
    thread only.
    """

    def __init__(self, flood: FloodWatch) -> None:
        self._flood = flood
        self._let_in: set[int] = set()
        self._waiting: list[_Waiting] = []
        self._is_shut = self._is_ending = False

    async def admit(self, states: Sequence[MessageState]) -> None:
        """Wait until letters of these messages may be written. Cancelled: none will be."""
        if self._may_pass(states):
            return
        loop = asyncio.get_running_loop()
        waiting = _Waiting(states, loop.create_future(), asyncio.current_task())
        self._waiting.append(waiting)
        try:
            await waiting.passing
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def settled(self, offset: int) -> None:
        """The message has its fate: there may be room for another."""
        self._let_in.discard(offset)
        if self._waiting:
            self._let_pass()

    def shut(self) -> None:
        """It is a flood: nothing passes before ``open``."""
        self._is_shut = True

    def open(self) -> None:
        """An operator has the partition go on."""
        self._is_shut = False
        self._let_pass()

    def end(self, finished: Set[int]) -> None:
        """The epoch ends: messages that are finished pass, all others are left to the heir."""
        self._is_ending = True
        for waiting in self._waiting:
            is_left = finished.isdisjoint(_offsets(waiting.states))
            if is_left and waiting.task is not None:
                waiting.task.cancel()
        self._let_pass()

    def _let_pass(self) -> None:
        for waiting in list(self._waiting):
            if not waiting.passing.done() and self._may_pass(waiting.states):
                self._waiting.remove(waiting)
                waiting.passing.set_result(None)

    def _may_pass(self, states: Sequence[MessageState]) -> bool:
        offsets = _offsets(states)
        has_room = not self._is_shut and (
            not self._let_in or len(self._let_in) + len(offsets) <= self._flood.room
        )
        if self._is_ending or has_room or not self._let_in.isdisjoint(_partners(states)):
            self._let_in |= offsets
            return True
        return False


def _offsets(states: Collection[MessageState]) -> set[int]:
    return {state.record.offset for state in states}


def _partners(states: Collection[MessageState]) -> set[int]:
    """The offsets of all messages that cannot end before these do, and of these."""
    found = _offsets(states)
    found.update(*shared(states))
    batches = {id(state.batch): state.batch for state in states if state.batch is not None}
    found.update(*(_offsets(batch.states) for batch in batches.values()))
    return found
