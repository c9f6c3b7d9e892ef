"""The hooks that end messages and batches, from the question to the delivery of the answer."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.fate import Fate
from domain.origin import MessageOrigin, Origin
from workers.handler import BatchGroup
from workers.hooks import HookFailed
from workers.ownership import Claim
from workers.partition_state import BatchState, MessageState, PartitionTools
from workers.partition_tell import PartitionTeller

Pairs = Sequence[tuple[Any, Origin]]
Deliver = Callable[[tuple[MessageState, ...], Pairs, str], Awaitable[Fate]]
"""Delivers a hook's payloads for these messages. Raises HookFailed for what no sink can take."""

Bury = Callable[[MessageState, DeadLetterCause], Awaitable[None]]


class Completion:
    """One per partition and epoch; stateless but for what it is bound to."""

    def __init__(
        self, claim: Claim, tools: PartitionTools, teller: PartitionTeller, deliver: Deliver,
        bury: Bury,
    ) -> None:  # fmt: skip
        self._claim = claim
        self._tools = tools
        self._teller = teller
        self._deliver = deliver
        self._bury = bury

    async def message(self, state: MessageState) -> None:
        """Ask ``on_message_complete``; a hook that raises dead-letters its message (law 4)."""
        hook = self._tools.handler.on_message_complete
        try:
            await self._finish((state,), hook, state.group(), "message")
        except HookFailed as failed:
            await self._bury_hook(state, failed)

    async def batch(self, batch: BatchState) -> None:
        """Ask ``on_batch_complete``; a hook that raises dead-letters every message of the batch."""
        states = tuple(batch.states)
        group = BatchGroup(groups=tuple(state.group() for state in states))
        try:
            await self._finish(states, self._tools.handler.on_batch_complete, group, "batch")
        except HookFailed as failed:
            for state in states:
                await self._bury_hook(state, failed)

    async def _finish(
        self, states: tuple[MessageState, ...], hook: Callable[..., Any], group: Any, name: Any
    ) -> None:
        tools, claim, record = self._tools, self._claim, states[0].record
        began = tools.clock.now()
        answer = await tools.hooks.call_list(
            hook, group, topic=claim.topic, partition=claim.partition
        )
        origin = MessageOrigin.of(record, tools.cluster)
        pairs = [
            (payload, Origin(message=origin, n="-", hook=name, index=index))
            for index, payload in enumerate(answer)
        ]
        self._teller.collected(record, hook.__name__, len(pairs), tools.clock.now() - began)
        if not pairs:
            return
        if await self._deliver(states, pairs, hook.__name__) is Fate.DEAD_LETTERED:
            for state in states:
                _mark_dead(state)

    async def _bury_hook(self, state: MessageState, failed: HookFailed) -> None:
        cause = DeadLetterCause(
            stage=Stage.COMPLETE,
            kind=FailureKind.HANDLER,
            reason=failed.detail,
            traceback=failed.trace,
        )
        await self._bury(state, cause)
        _mark_dead(state)


def _mark_dead(state: MessageState) -> None:
    if state.parts is not None:
        state.parts.mark(Fate.DEAD_LETTERED)
