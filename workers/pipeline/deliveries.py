"""The way out of one partition: payloads for the sinks, and dead letters through their gate."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import partial
from typing import Any

from domain.failure import DeadLetterCause
from domain.fate import Fate
from domain.flood import FloodWatch
from domain.origin import Origin
from domain.task import Task
from sinks.router import DeliveryCall, Router
from workers.pipeline.guard import CrashGuard
from workers.pipeline.hooks import HookFailed
from workers.pipeline.life_cycle import (
    LiveMessage,
    LiveTask,
    MessageState,
    offsets_of,
    shared,
)


class Deliveries:
    """Knows which messages have payloads on their way."""

    __slots__ = ("_calls", "_gate", "_guard", "_router", "_tasks")

    def __init__(self, router: Router, guard: CrashGuard, gate: LetterGate) -> None:
        self._router = router
        self._guard = guard
        self._gate = gate
        self._calls: dict[DeliveryCall, Sequence[LiveMessage]] = {}
        self._tasks: dict[DeliveryCall, asyncio.Task[Any] | None] = {}

    @property
    def calls(self) -> Mapping[DeliveryCall, Sequence[LiveMessage]]:
        """The deliveries that have not ended, with the messages each is for."""
        return self._calls

    async def deliver(
        self,
        messages: Sequence[LiveMessage],
        payloads: Sequence[tuple[Any, Origin]],
        live: LiveTask | None,
        hook: str,
    ) -> Fate:
        """Deliver what a hook gave of a task, or of messages (None). Raises HookFailed for a
        payload no sink can take, and CancelledError for messages that were left (law 6)."""
        _refuse_left(messages)
        offset, task = messages[0].record.offset, None if live is None else live.task
        async with self._guard.work(offset, task.id if task else f"{hook} of {offset}"):
            call = self._started(messages, payloads, task, hook)
            self._calls[call] = messages
            self._tasks[call] = asyncio.current_task()
            try:
                outcome = await call.wait(partial(self._gate.admit, messages, live))
            finally:
                self._mark_out(call)
        return Fate.DEAD_LETTERED if outcome.dead_lettered else Fate.DELIVERED

    def _started(
        self,
        messages: Sequence[LiveMessage],
        payloads: Sequence[tuple[Any, Origin]],
        task: Task | None,
        hook: str,
    ) -> DeliveryCall:
        router = self._router
        try:
            router.check([payload for payload, _ in payloads])
            first, *others = [message.record for message in messages]
            task_id, labels = (task.id, task.labels) if task else (None, None)
            return router.start(
                payloads, record=first, task_id=task_id, labels=labels, others=others
            )
        except Exception as exc:
            raise HookFailed(hook, exc) from exc

    def held_up(self, *, by_failures: bool) -> list[DeliveryCall]:
        """Those of which nothing is out, and which a lane cannot deliver now."""
        return [call for call in self._calls if call.is_held_up(by_failures=by_failures)]

    def hasten(self) -> None:
        """Have the lanes try again soon: an epoch that ends cannot wait as long as they do."""
        self._router.hasten(self._calls.keys())

    def give_up(self, calls: Sequence[DeliveryCall]) -> bool:
        """End these without delivering any of it; False: one has gone out, and none is ended."""
        for place, call in enumerate(calls):
            if not call.take_back():
                for taken in calls[:place]:
                    taken.give_back()
                return False
        for call in calls:
            if (task := self._tasks[call]) is not None:
                task.cancel()
        return True

    def _mark_out(self, call: DeliveryCall) -> None:
        del self._tasks[call]
        messages = self._calls.pop(call)
        if call.is_out:
            for message in messages:
                message.is_out = True

    async def admit(self, messages: Sequence[LiveMessage], live: LiveTask | None = None) -> None:
        """Wait until letters of these messages may be written, of their task (None: of
        themselves); see ``LetterGate``. Raises CancelledError for messages that were left (law
        6)."""
        _refuse_left(messages)
        await self._gate.admit(messages, live)

    def joined(self) -> None:
        """A task waits for another of its key: who waits for letters may have to go first."""
        self._gate.recheck()

    async def bury(self, message: LiveMessage, cause: DeadLetterCause) -> None:
        """Write a dead letter of a message let in by the gate; returns when the topic has it
        (law 5). Raises CancelledError for a message that was left (law 6)."""
        _refuse_left((message,))
        message.is_out = True
        await self._router.bury(message.record, cause)
        message.reason = cause.reason


def _refuse_left(messages: Sequence[LiveMessage]) -> None:
    """A hook may swallow its cancellation and answer after the epoch is over."""
    if messages[0].state is MessageState.LEFT:
        raise asyncio.CancelledError


@dataclass(slots=True, eq=False)
class _Waiting:
    messages: Sequence[LiveMessage]
    live: LiveTask | None
    passing: asyncio.Future[None]
    task: asyncio.Task[object] | None


class LetterGate:
    """Lets in as many messages at a time as may be dead-lettered before it is a flood.

    Letters are written side by side: without it, as many more would be on their way as one batch
    has messages when the fiftieth in a row is counted.

    Messages that end together (one task serves them, or one ``on_batch_complete``) pass together:
    one of them in, none of the others waits. So does a task for whose end tasks of these wait:
    its ``followers``. Shut while the partition is parked for a flood. Loop thread only.
    """

    def __init__(
        self, flood: FloodWatch, followers: Callable[[LiveTask], Sequence[LiveTask]]
    ) -> None:
        self._flood = flood
        self._followers = followers
        self._let_in: set[int] = set()
        self._waiting: list[_Waiting] = []
        self._is_shut = self._is_ending = False

    async def admit(self, messages: Sequence[LiveMessage], live: LiveTask | None = None) -> None:
        """Wait until letters of these messages may be written, of their task (None: of
        themselves). Cancelled: none will be."""
        if self._may_pass(messages, live):
            self.recheck()
            return
        loop = asyncio.get_running_loop()
        waiting = _Waiting(messages, live, loop.create_future(), asyncio.current_task())
        self._waiting.append(waiting)
        try:
            await waiting.passing
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)

    def settled(self, offset: int) -> None:
        """The message has its fate: there may be room for another."""
        self._let_in.discard(offset)
        self.recheck()

    def recheck(self) -> None:
        """Let those pass that may now."""
        if self._waiting:
            self._let_pass()

    def shut(self) -> None:
        """Let nothing pass before ``open``: it is a flood."""
        self._is_shut = True

    def open(self) -> None:
        """An operator has the partition go on."""
        self._is_shut = False
        self._let_pass()

    def end(self, finished: Set[int]) -> None:
        """The epoch ends: messages that are finished pass, all others are left to the heir."""
        self._is_ending = True
        for waiting in self._waiting:
            is_left = finished.isdisjoint(offsets_of(waiting.messages))
            if is_left and waiting.task is not None:
                waiting.task.cancel()
        self._let_pass()

    def _let_pass(self) -> None:
        has_passed = True
        while has_passed:  # Each that passes may have to wait for others.
            has_passed = False
            for waiting in list(self._waiting):
                if not waiting.passing.done() and self._may_pass(waiting.messages, waiting.live):
                    self._waiting.remove(waiting)
                    waiting.passing.set_result(None)
                    has_passed = True

    def _may_pass(self, messages: Sequence[LiveMessage], live: LiveTask | None) -> bool:
        offsets = offsets_of(messages)
        has_room = not self._is_shut and (
            not self._let_in or len(self._let_in) + len(offsets) <= self._flood.room
        )
        if self._is_ending or has_room or not self._let_in.isdisjoint(self._behind(messages, live)):
            self._let_in |= offsets
            return True
        return False

    def _behind(self, messages: Sequence[LiveMessage], live: LiveTask | None) -> set[int]:
        """The offsets of all messages that cannot end before these and their task do."""
        found = _partners(messages)
        if live is not None:
            for follower in self._followers(live):
                found |= _partners(follower.messages)
        return found


def _partners(messages: Collection[LiveMessage]) -> set[int]:
    """The offsets of all messages that end no earlier than these do, and of these."""
    found = offsets_of(messages)
    found.update(*shared(messages))
    batches = {
        id(message.batch): message.batch for message in messages if message.batch is not None
    }
    found.update(*(offsets_of(batch.messages) for batch in batches.values()))
    return found
