"""The end of messages and batches: their completion hooks, and the delivery of the answers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.fate import Fate
from domain.origin import MessageOrigin, Origin, Sources
from workers.consumer.ownership import Claim
from workers.handler import BatchGroup, overrides
from workers.pipeline.deliveries import Deliveries
from workers.pipeline.hooks import HookFailed
from workers.pipeline.live_task import TaskEnd
from workers.pipeline.partition_state import (
    BatchState,
    MessageState,
    PartitionTools,
    Spawn,
    shared,
)
from workers.pipeline.partition_tell import PartitionTeller


class Completion:
    """One per partition and epoch; leads to ``settle`` at once where the handler has no hook."""

    def __init__(
        self,
        claim: Claim,
        tools: PartitionTools,
        teller: PartitionTeller,
        deliveries: Deliveries,
        spawn: Spawn,
        settle: Callable[[MessageState, Fate], None],
        step: Callable[[int], AbstractAsyncContextManager[None]],
    ) -> None:
        self._claim = claim
        self._tools = tools
        self._teller = teller
        self._deliveries = deliveries
        self._spawn = spawn
        self._settle = settle
        self._step = step
        self._has_message_hook = overrides(tools.handler, "on_message_complete")
        self._has_batch_hook = overrides(tools.handler, "on_batch_complete")
        self._is_closed = False

    def close(self) -> None:
        """The epoch is over: nothing further gets a fate."""
        self._is_closed = True

    def batch_of(self, states: Sequence[MessageState]) -> BatchState | None:
        """The messages of one arrange call, where the handler has ``on_batch_complete``."""
        return BatchState(states=states, open=len(states)) if self._has_batch_hook else None

    def keep(self, state: MessageState, end: TaskEnd) -> bool:
        """Hold what a completion hook will be shown, on the account of its message (law 3)."""
        if not (self._has_message_hook or self._has_batch_hook):
            return False
        if end.result is not None:
            state.results.append(end.result)
        if end.failure is not None and end.replaced_by is None:
            state.failures.append(end.failure)
        size = end.output_bytes
        state.size_bytes += size
        self._tools.budget.charge(self._claim, 0, size)
        return True

    def message_ended(self, state: MessageState) -> None:
        """All tasks of a message have ended."""
        assert state.parts is not None
        hook_wanted = self._has_message_hook and state.parts.fate in (Fate.DELIVERED, Fate.SKIPPED)
        if hook_wanted:
            self._spawn(self._complete_message(state))
        else:
            self._message_hook_ended(state)

    async def _complete_message(self, state: MessageState) -> None:
        """Ask ``on_message_complete``; a hook that raises dead-letters its message (law 4)."""
        state.is_in_hook = True
        hook = self._tools.handler.on_message_complete
        try:
            await self._finish((state,), hook, state.group(), "message")
        except HookFailed as failed:
            await self._deliveries.admit((state,))
            await self._bury_hook(state, failed)
        state.is_in_hook = False
        self._message_hook_ended(state)

    def _message_hook_ended(self, state: MessageState) -> None:
        if self._is_closed or state.parts is None:
            return
        batch = state.batch
        if batch is None:
            self._settle(state, state.parts.fate)
            return
        state.has_ended = True
        batch.open -= 1
        if batch.open == 0:
            self._spawn(self._complete_batch(batch))

    def leave(self, states: Sequence[MessageState]) -> None:
        """These messages are the heir's: their batches end without them, with what is left."""
        batches: dict[int, BatchState] = {}
        for state in states:
            batch, state.batch = state.batch, None
            if batch is None:
                continue
            batch.states = [each for each in batch.states if each is not state]
            batch.open -= not state.has_ended
            batches[id(batch)] = batch
        for batch in batches.values():
            if batch.states and batch.open == 0:
                self._spawn(self._complete_batch(batch))

    def split(self, states: Iterable[MessageState]) -> None:
        """Let what has ended in a batch wait no longer for the rest, which becomes another one."""
        for batch in {id(state.batch): state.batch for state in states}.values():
            if batch is None or not 0 < batch.open < len(batch.states):
                continue
            rest = [state for state in batch.states if not state.has_ended]
            batch.states = [state for state in batch.states if state.has_ended]
            other = BatchState(states=rest, open=len(rest))
            batch.open = 0
            for state in rest:
                state.batch = other
            self._spawn(self._complete_batch(batch))

    async def _complete_batch(self, batch: BatchState) -> None:
        """Ask ``on_batch_complete``; a hook that raises dead-letters every message of the batch."""
        states = tuple(batch.states)
        for state in states:
            state.is_in_hook = True
        group = BatchGroup(groups=tuple(state.group() for state in states))
        try:
            await self._finish(states, self._tools.handler.on_batch_complete, group, "batch")
        except HookFailed as failed:
            await self._deliveries.admit(states)
            for state in states:
                await self._bury_hook(state, failed)
        for state in states:
            if not self._is_closed and state.parts is not None:
                self._settle(state, state.parts.fate)

    async def _finish(
        self, states: tuple[MessageState, ...], hook: Callable[..., Any], group: Any, name: Any
    ) -> None:
        tools, claim, record = self._tools, self._claim, states[0].record
        began = tools.clock.now()
        async with self._step(record.offset):
            answer = await tools.hooks.call_list(
                hook, group, topic=claim.topic, partition=claim.partition
            )
        sources = self._sources(states)
        pairs = [
            (payload, Origin(message=sources.lead, n=f"-{sources.suffix}", hook=name, index=index))
            for index, payload in enumerate(answer)
        ]
        self._teller.collected(record, hook.__name__, len(pairs), tools.clock.now() - began)
        if not pairs:
            return
        if await self._deliveries.deliver(states, pairs, None, hook.__name__) is Fate.DEAD_LETTERED:
            for state in states:
                _mark_dead(state)

    def _sources(self, states: tuple[MessageState, ...]) -> Sources:
        """The messages behind a hook's group: those it is for, and those of their tasks."""
        found = {
            state.record.offset: MessageOrigin.of(state.record, self._tools.cluster)
            for state in states
        }
        for origins in shared(states):
            found.update(origins)
        return Sources.of(found.values())

    async def _bury_hook(self, state: MessageState, failed: HookFailed) -> None:
        cause = DeadLetterCause(
            stage=Stage.COMPLETE,
            kind=FailureKind.HANDLER,
            reason=failed.detail,
            traceback=failed.trace,
        )
        await self._deliveries.bury(state, cause)
        _mark_dead(state)


def _mark_dead(state: MessageState) -> None:
    if state.parts is not None:
        state.parts.mark(Fate.DEAD_LETTERED)
