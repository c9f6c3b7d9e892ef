"""One ``arrange`` call: parse, skip other clusters' replays, ask the handler, check its answer."""

from __future__ import annotations

import asyncio
import reprlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.deferral import Deferral
from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.message import Message, Record
from domain.origin import (
    ONLY_TASKS_HEADER,
    REPLAY_HEADER,
    MessageOrigin,
    Sources,
    only_tasks,
    replayed,
)
from domain.task import Task, accepted, claimed_sources
from domain.text_bounds import TextBounds
from domain.tracebacks import error_text, traceback_of
from workers.handler import Handler, Pending
from workers.pipeline.hooks import HookFailed, Hooks, is_cancelled, is_to_obey


@dataclass(slots=True, kw_only=True)
class Arrangement:
    """Outcome of one batch: each record stands in exactly one of ``parsed``, ``skipped``, ``dead``
    and ``unparsed``; ``tasks`` have their ids and source offsets."""

    records: Sequence[Record]
    parsed: dict[int, Message[Any]] = field(default_factory=dict)
    tasks: list[Task] = field(default_factory=list)
    skipped: dict[int, str] = field(default_factory=dict)
    dead: dict[int, DeadLetterCause] = field(default_factory=dict)
    unparsed: dict[int, str] = field(default_factory=dict)
    duration_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Arranging:
    """Arranges batches of one cluster; stateless."""

    handler: Handler[Any]
    hooks: Hooks
    cluster: str
    on_parse_error: str
    retry_topic: str | None = None

    async def arrange(self, records: Sequence[Record], pending: Pending) -> Arrangement:
        """Arrange a batch; one bad message takes no other along."""
        began = self.hooks.clock.now()
        arranged = Arrangement(records=records)
        for record in records:
            self._parse(record, arranged)
        if arranged.parsed:
            await self._ask_all(arranged, pending)
        arranged.duration_seconds = self.hooks.clock.now() - began
        return arranged

    def _parse(self, record: Record, arranged: Arrangement) -> None:
        if record.headers and record.header(REPLAY_HEADER) is not None:
            origin = MessageOrigin.of(record, self.cluster)
            if origin.cluster != self.cluster:
                reason = self.hooks.bounds.reason(f"replay of cluster {origin.cluster}")
                arranged.skipped[record.offset] = reason
                return
        if record.topic == self.retry_topic:
            try:
                Deferral.of(record)
            except ValueError as exc:
                arranged.dead[record.offset] = DeadLetterCause(
                    stage=Stage.PARSE, kind=FailureKind.PARSE, reason=str(exc)
                )
                return
        try:
            payload = self.handler.parse(record)
        except BaseException as exc:
            if is_to_obey(exc):
                raise
            self._refuse(record, exc, arranged)
            return
        arranged.parsed[record.offset] = Message(
            topic=record.topic,
            partition=record.partition,
            offset=record.offset,
            key=record.key,
            value=record.value,
            headers=record.headers,
            timestamp=record.timestamp,
            payload=payload,
        )

    def _refuse(self, record: Record, error: BaseException, arranged: Arrangement) -> None:
        reason = f"parse raised {error_text(error)}"
        if self.on_parse_error == "dead_letter":
            self.hooks.figures_of("parse").errors += 1
            arranged.dead[record.offset] = DeadLetterCause(
                stage=Stage.PARSE,
                kind=FailureKind.PARSE,
                reason=reason,
                traceback=traceback_of(error),
            )
            return
        self.hooks.count_error("parse", error)
        if self.on_parse_error == "skip":
            arranged.skipped[record.offset] = reason
        else:
            arranged.unparsed[record.offset] = reason

    async def _ask_all(self, arranged: Arrangement, pending: Pending) -> None:
        """Ask about all messages at once, but for those that are arranged alone: a deferred one,
        and one of which some tasks are to run, have the tasks that a call of their own gives."""
        together: list[Message[Any]] = []
        alone: list[Message[Any]] = []
        for message in arranged.parsed.values():
            (alone if message.headers and _is_alone(message) else together).append(message)
        if together:
            await self._ask_whole(together, pending, arranged)
        for message in alone:
            if is_cancelled():
                raise asyncio.CancelledError
            await self._ask_alone(message, pending, arranged)

    async def _ask_whole(
        self, messages: list[Message[Any]], pending: Pending, arranged: Arrangement
    ) -> None:
        try:
            arranged.tasks.extend(await self._ask(messages, pending))
        except HookFailed as failure:
            if len(messages) == 1:
                self._bury(messages[0], failure, arranged)
                return
            for message in messages:
                # Whom an earlier one kept from its cancellation, nobody would cancel again.
                if is_cancelled():
                    raise asyncio.CancelledError from None
                await self._ask_alone(message, pending, arranged)

    async def _ask_alone(
        self, message: Message[Any], pending: Pending, arranged: Arrangement
    ) -> None:
        try:
            arranged.tasks.extend(await self._ask([message], pending))
        except HookFailed as failure:
            self._bury(message, failure, arranged)

    async def _ask(self, messages: list[Message[Any]], pending: Pending) -> list[Task]:
        first = messages[0]
        answer = await self.hooks.call_list(
            self.handler.arrange, messages, pending, topic=first.topic, partition=first.partition
        )
        try:
            tasks = number_tasks(answer, messages, self.hooks.bounds, self.cluster)
            return _chosen(tasks, only_tasks(first)) if len(messages) == 1 else tasks
        except Exception as exc:
            raise HookFailed("arrange", exc) from exc

    @staticmethod
    def _bury(message: Message[Any], failure: HookFailed, arranged: Arrangement) -> None:
        del arranged.parsed[message.offset]
        arranged.dead[message.offset] = DeadLetterCause(
            stage=Stage.ARRANGE,
            kind=FailureKind.HANDLER,
            reason=failure.detail,
            traceback=failure.trace,
        )


def _is_alone(message: Message[Any]) -> bool:
    origin = replayed(message)
    if origin is None:
        return False
    return origin.topic != message.topic or message.header(ONLY_TASKS_HEADER) is not None


def _chosen(tasks: list[Task], numbers: frozenset[int] | None) -> list[Task]:
    """Return the tasks of these numbers. Raises ValueError when there are not as many."""
    if numbers is None:
        return tasks
    missing = sorted(number for number in numbers if number >= len(tasks))
    if missing:
        raise ValueError(
            f"{ONLY_TASKS_HEADER}: expected numbers of the {len(tasks)} tasks that arrange gave, "
            f"got {reprlib.repr(missing)}"
        )
    return [task for number, task in enumerate(tasks) if number in numbers]


def number_tasks(
    tasks: Sequence[Task] | None,
    messages: Sequence[Message[Any]],
    bounds: TextBounds,
    cluster: str,
) -> list[Task]:
    """Take tasks into the framework's own form and give them their ids.

    A task of one message is ``partition:offset:n``, one of several
    ``partition:lowest offset:n~digest`` (see ``Sources``); those of a deferred message are named
    after its first life, so that they are the same tasks. ``n`` counts from 0 the tasks of just
    these messages, so that it does not depend on what else the call arranged. Raises ValueError
    when a source offset is not of this call, or is missing where the call had several messages;
    TypeError for what is not a task or no executor could take.
    """
    by_offset = {message.offset: message for message in messages}
    first = messages[0]
    deferred = replayed(first) if first.headers else None
    if deferred is not None and deferred.topic == first.topic:
        deferred = None
    counts: dict[tuple[int, str], int] = {}
    numbered: list[Task] = []
    for task in tasks or ():
        sources = _sources(claimed_sources(task), by_offset)
        suffix = _suffix(sources, by_offset, cluster) if len(sources) > 1 else ""
        n = counts.get((sources[0], suffix), 0)
        counts[sources[0], suffix] = n + 1
        place = f"{first.partition}:{sources[0]}"
        if deferred is not None:
            place = f"{deferred.partition}:{deferred.offset}"
        task_id = f"{place}:{n}{suffix}"
        numbered.append(accepted(task, bounds, task_id=task_id, source_offsets=sources))
    return numbered


def _suffix(sources: Sequence[int], by_offset: Mapping[int, Message[Any]], cluster: str) -> str:
    return Sources.of(MessageOrigin.of(by_offset[offset], cluster) for offset in sources).suffix


def _sources(claimed: tuple[int, ...], offsets: Collection[int]) -> tuple[int, ...]:
    if len(claimed) == 1 and claimed[0] in offsets:
        return claimed
    if not claimed and len(offsets) == 1:
        return tuple(offsets)
    sources = tuple(sorted(set(claimed)))
    if not sources or not set(sources).issubset(offsets):
        raise ValueError(
            f"source_offsets: expected offsets of this call ({min(offsets)}..{max(offsets)}), "
            f"got {reprlib.repr(list(claimed))}"
        )
    return sources
