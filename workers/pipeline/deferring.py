"""Delayed retries that leave the commit path: whole messages, written to the retry topic."""

from __future__ import annotations

from typing import TYPE_CHECKING

from domain.deferral import Deferral
from domain.fate import Fate
from domain.origin import MAX_ONLY_TASKS, MessageOrigin, task_number
from sinks.record_writer import TooLarge
from workers.log import log
from workers.pipeline.life_cycle import LiveMessage, LiveTask, MessageState

if TYPE_CHECKING:
    from workers.pipeline.partition import PartitionWorker


class Deferring:
    """One per partition and epoch: says which tasks may run again in another life of their message,
    and writes that message once its other tasks have ended."""

    def __init__(self, partition: PartitionWorker) -> None:
        self._partition = partition
        self._tools = partition.tools

    def may(self, live: LiveTask) -> bool:
        """Whether a task's message may be deferred for it; else it waits for its retry in place.

        Of a deferred message the tasks that run again are named by number, and found by arranging
        it alone: so not for a task of several messages, nor of one that shares another, nor for one
        made by ``Replace``; nor for one with a key, for which those behind it wait. Completion
        hooks need all results together: there only for a message that has this task alone.
        """
        if self._tools.retries is None or len(live.messages) != 1 or live.task.key is not None:
            return False
        (message,) = live.messages
        if message.shared_with or not task_number(live.task.id).isdecimal():
            return False
        if self._partition.completion.has_hooks:
            is_alone = message.tasks == {live.task.id} and not message.again
            return is_alone and not (message.results or message.failures)
        return len(message.again) < MAX_ONLY_TASKS

    def start(self, message: LiveMessage) -> None:
        """Write a message all whose tasks have ended, some of them until later."""
        message.enter(MessageState.DEFERRING)
        self._partition.child(self._write(message))

    async def _write(self, message: LiveMessage) -> None:
        retries = self._tools.retries
        assert retries is not None
        assert message.parts is not None
        deferral = Deferral(
            origin=MessageOrigin.of(message.record, self._tools.cluster),
            due_at=max(again.due_at for again in message.again),
            attempts={int(task_number(a.task.id)): a.attempt for a in message.again},
            fate=message.parts.fate,
        )
        was_out, message.is_out = message.is_out, True
        try:
            receipt = await retries.write(message.record, deferral)
        except TooLarge as exc:
            message.is_out = was_out
            self._run_in_place(message, str(exc))
            return
        if message.state is not MessageState.LEFT:
            self._partition.teller.deferred(message, deferral, receipt)
            self._partition.settle(message, Fate.DEFERRED)

    def _run_in_place(self, message: LiveMessage, detail: str) -> None:
        """The retry topic cannot take it, ever: its tasks wait here for their retries."""
        if message.state is MessageState.LEFT:
            return
        assert message.parts is not None
        place = f"{message.record.topic}/{message.record.partition}@{message.record.offset}"
        log.warning("not_deferred", message=place, detail=detail)
        message.enter(MessageState.RUNNING)
        message.batch = self._partition.completion.batch_of((message,))
        again, message.again = message.again, []
        message.parts.reopen(len(again))
        message.tasks.update(one.task.id for one in again)
        now = self._tools.clock.wall()
        for one in again:
            rest = max(0.0, one.due_at - now)
            self._partition.tasks.start(one.task, (message,), one.attempt, rest)
