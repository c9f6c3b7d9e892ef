"""The end of tasks, messages and batches: fan-out counted, completion hooks asked and delivered."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.fate import Fate
from domain.origin import MessageOrigin, Origin, Sources
from workers.handler import BatchGroup, overrides
from workers.pipeline.hooks import HookFailed
from workers.pipeline.life_cycle import Batch, LiveMessage, LiveTask, MessageState, TaskEnd, shared

if TYPE_CHECKING:
    from workers.pipeline.partition import PartitionWorker


class Completion:
    """One per partition and epoch; settles at once where the handler has no hook."""

    def __init__(self, partition: PartitionWorker) -> None:
        self._partition = partition
        self._tools = partition.tools
        self._has_message_hook = overrides(self._tools.handler, "on_message_complete")
        self._has_batch_hook = overrides(self._tools.handler, "on_batch_complete")

    @property
    def has_hooks(self) -> bool:
        """Whether the handler asks for all results of a message, or of a batch, together."""
        return self._has_message_hook or self._has_batch_hook

    def batch_of(self, messages: Sequence[LiveMessage]) -> Batch | None:
        """The messages of one arrange call, where the handler has ``on_batch_complete``."""
        return Batch(messages=messages, open=len(messages)) if self._has_batch_hook else None

    def task_ended(self, live: LiveTask, end: TaskEnd) -> None:
        """Count the end in each message of the task; the last task ends the message."""
        replaced = end.replaced_by
        for message in live.messages:
            assert message.parts is not None
            message.tasks.discard(live.task.id)
            if end.deferred is not None:
                message.again.append(end.deferred)
            elif self.has_hooks:
                self._keep(message, end)
            if replaced:
                message.parts.replace(len(replaced))
                message.tasks.update(task.id for task in replaced)
            elif message.parts.end(None if end.deferred else end.fate):
                self.message_ended(message)

    def _keep(self, message: LiveMessage, end: TaskEnd) -> None:
        """Hold what a completion hook will be shown, on the account of its message (law 3)."""
        if end.result is not None:
            message.results.append(end.result)
        if end.failure is not None and end.replaced_by is None:
            message.failures.append(end.failure)
        message.size_bytes += end.output_bytes
        self._tools.budget.charge(self._partition.claim, 0, end.output_bytes)
        self._partition.publish()

    def message_ended(self, message: LiveMessage) -> None:
        """All tasks of a message have ended."""
        assert message.parts is not None
        if message.again:
            self.leave((message,))
            self._partition.deferring.start(message)
            return
        if self._has_message_hook and message.parts.fate in (Fate.DELIVERED, Fate.SKIPPED):
            message.enter(MessageState.COMPLETING)
            self._partition.child(self._complete_message(message))
        else:
            self._end(message)

    async def _complete_message(self, message: LiveMessage) -> None:
        hook = self._tools.handler.on_message_complete
        await self._complete((message,), hook, message.group(), "message")
        if message.state is not MessageState.LEFT:
            self._end(message)

    def _end(self, message: LiveMessage) -> None:
        """Settle it; a member of a batch waits for the others."""
        batch = message.batch
        if batch is None:
            self._settle(message)
            return
        message.enter(MessageState.IN_BATCH)
        batch.open -= 1
        if batch.open == 0:
            self._start_batch(batch)

    def leave(self, messages: Iterable[LiveMessage]) -> None:
        """These are the heir's, or deferred: their batches end without them, with what is left."""
        batches: dict[int, Batch] = {}
        for message in messages:
            batch, message.batch = message.batch, None
            if batch is None or message.state is MessageState.COMPLETING_BATCH:
                continue
            batch.messages = [each for each in batch.messages if each is not message]
            batch.open -= message.state is not MessageState.IN_BATCH
            batches[id(batch)] = batch
        for batch in batches.values():
            if batch.messages and batch.open == 0:
                self._start_batch(batch)

    def split(self, messages: Iterable[LiveMessage]) -> None:
        """Let what has ended in a batch wait no longer for the rest, which becomes another one."""
        for batch in {id(message.batch): message.batch for message in messages}.values():
            if batch is None or not 0 < batch.open < len(batch.messages):
                continue
            rest = [one for one in batch.messages if one.state is not MessageState.IN_BATCH]
            batch.messages = [one for one in batch.messages if one.state is MessageState.IN_BATCH]
            other = Batch(messages=rest, open=len(rest))
            batch.open = 0
            for message in rest:
                message.batch = other
            self._start_batch(batch)

    def _start_batch(self, batch: Batch) -> None:
        for message in batch.messages:
            message.enter(MessageState.COMPLETING_BATCH)
        self._partition.child(self._complete_batch(tuple(batch.messages)))

    async def _complete_batch(self, messages: tuple[LiveMessage, ...]) -> None:
        group = BatchGroup(groups=tuple(message.group() for message in messages))
        await self._complete(messages, self._tools.handler.on_batch_complete, group, "batch")
        for message in messages:
            if message.state is not MessageState.LEFT:
                self._settle(message)

    def _settle(self, message: LiveMessage) -> None:
        assert message.parts is not None
        self._partition.settle(message, message.parts.fate)

    async def _complete(
        self, messages: tuple[LiveMessage, ...], hook: Callable[..., Any], group: Any, name: Any
    ) -> None:
        """Ask a completion hook and deliver its answer; one that raises dead-letters every message
        it is about (law 4)."""
        deliveries = self._partition.deliveries
        try:
            pairs = await self._ask(messages, hook, group, name)
            is_dead = pairs and Fate.DEAD_LETTERED is await deliveries.deliver(
                messages, pairs, None, hook.__name__
            )
        except HookFailed as failed:
            await deliveries.admit(messages)
            cause = DeadLetterCause(
                stage=Stage.COMPLETE,
                kind=FailureKind.HANDLER,
                reason=failed.detail,
                traceback=failed.trace,
            )
            for message in messages:
                await deliveries.bury(message, cause)
            is_dead = True
        if is_dead:
            for message in messages:
                assert message.parts is not None
                message.parts.add_fate(Fate.DEAD_LETTERED)

    async def _ask(
        self, messages: tuple[LiveMessage, ...], hook: Callable[..., Any], group: Any, name: Any
    ) -> list[tuple[Any, Origin]]:
        hooks, record = self._tools.hooks, messages[0].record
        began = hooks.clock.now()
        async with self._partition.guard.step(record.offset):
            answer = await hooks.call_list(
                hook, group, topic=record.topic, partition=record.partition
            )
        sources = self._sources(messages)
        pairs = [
            (payload, Origin(message=sources.lead, n=f"-{sources.suffix}", hook=name, index=index))
            for index, payload in enumerate(answer)
        ]
        seconds = hooks.clock.now() - began
        self._partition.teller.collected(record, hook.__name__, len(pairs), seconds)
        return pairs

    def _sources(self, messages: tuple[LiveMessage, ...]) -> Sources:
        """The messages behind a hook's group: those it is for, and those of their tasks."""
        found = {
            message.record.offset: MessageOrigin.of(message.record, self._tools.cluster)
            for message in messages
        }
        for origins in shared(messages):
            found.update(origins)
        return Sources.of(found.values())
