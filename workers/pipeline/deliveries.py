"""What leaves one partition: payloads for the sinks, and dead letters."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from domain.failure import DeadLetterCause
from domain.fate import Fate
from domain.origin import Origin
from sinks.router import DeliveryCall, Router
from workers.pipeline.guard import CrashGuard
from workers.pipeline.hooks import HookFailed
from workers.pipeline.letter_gate import LetterGate
from workers.pipeline.partition_state import MessageState


class Deliveries:
    """Knows which messages have payloads on their way."""

    __slots__ = ("_calls", "_gate", "_guard", "_router", "_waiting")

    def __init__(self, router: Router, guard: CrashGuard, gate: LetterGate) -> None:
        self._router = router
        self._guard = guard
        self._gate = gate
        self._calls: dict[DeliveryCall, tuple[MessageState, ...]] = {}
        self._waiting: dict[DeliveryCall, asyncio.Task[Any]] = {}

    @property
    def calls(self) -> Mapping[DeliveryCall, Sequence[MessageState]]:
        """The deliveries that have not ended, with the messages each is for."""
        return self._calls

    async def deliver(
        self,
        states: tuple[MessageState, ...],
        payloads: Sequence[tuple[Any, Origin]],
        task_id: str | None,
        hook: str,
    ) -> Fate:
        """Deliver what a hook gave. Raises HookFailed for a payload no sink can take."""
        offset = states[0].record.offset
        async with self._guard.work(offset, task_id or f"{hook} of {offset}"):
            return await self._deliver(states, payloads, task_id, hook)

    async def _deliver(
        self,
        states: tuple[MessageState, ...],
        payloads: Sequence[tuple[Any, Origin]],
        task_id: str | None,
        hook: str,
    ) -> Fate:
        router = self._router
        try:
            router.check([payload for payload, _ in payloads])
            first, *others = (state.record for state in states)
            call = router.start(payloads, record=first, task_id=task_id, others=others)
        except Exception as exc:
            raise HookFailed(hook, exc) from exc
        self._calls[call] = states
        current = asyncio.current_task()
        assert current is not None
        self._waiting[call] = current
        try:
            outcome = await call.wait(partial(self._gate.admit, states))
        finally:
            self._mark_out(call)
        return Fate.DEAD_LETTERED if outcome.dead_lettered else Fate.DELIVERED

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
            self._waiting[call].cancel()
        return True

    def _mark_out(self, call: DeliveryCall) -> None:
        self._waiting.pop(call, None)
        states = self._calls.pop(call, ())
        if call.is_out:
            for state in states:
                state.is_out = True

    async def admit(self, states: Sequence[MessageState]) -> None:
        """Wait until letters of these messages may be written (``LetterGate``)."""
        await self._gate.admit(states)

    async def bury(self, state: MessageState, cause: DeadLetterCause) -> None:
        """Write a dead letter of a message let in by the gate; returns when the topic has it
        (law 5)."""
        state.is_out = True
        await self._router.bury(state.record, cause)
        state.reason = cause.reason
