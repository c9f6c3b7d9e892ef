"""Latest outcomes of messages, as the history tells them: ended or not, and what of each failed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Any, TypeVar
from uuid import UUID

from domain.origin import task_number
from recorder.models import Event
from recorder.reading import events_of

Place = tuple[int, int]
"""Partition and offset of a message of a known topic."""
T = TypeVar("T")
STEP_MESSAGES = 500
MOST_LIVES = 50
"""Of a deferred message, that are followed."""
TOLD = frozenset({
    "consumed", "task_failed", "task_completed", "task_cancelled", "task_replaced",
    "dead_lettered", "message_completed", "deferred",
})  # fmt: skip
ON_ITS_WAY = frozenset({"deferred"})
"""Fates of messages that run again later, by themselves."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """End of a task that failed for good, or (``task_id`` empty) of the message itself.

    ``letters`` are the places of its dead letters: topic, partition, offset. ``groups`` are the
    failure groups of its last attempt and its letters.
    """

    task_id: str
    kind: str
    at: datetime
    exit_code: int | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    letters: tuple[tuple[str, int, int], ...] = ()
    groups: frozenset[str] = frozenset()


@dataclass(slots=True, kw_only=True)
class Outcome:
    """What became of a message in its latest life. ``fate`` is empty while it has none.

    ``timestamp`` is its record time in ms, None where the history does not tell it. ``deferred_to``
    is where it waits in the retry topic: topic, partition, offset.
    """

    fate: str = ""
    at: datetime | None = None
    timestamp: int | None = None
    deferred_to: tuple[str, int, int] | None = None
    failures: dict[str, Failure] = field(default_factory=dict)
    labels: dict[str, Mapping[str, str]] = field(default_factory=dict)

    @property
    def has_ended(self) -> bool:
        """Whether it has a fate that is its last."""
        return bool(self.fate) and self.fate not in ON_ITS_WAY

    @property
    def has_failed(self) -> bool:
        """Whether it ended, and something of it had failed for good."""
        return self.has_ended and bool(self.failures)

    def go_on(self, later: Outcome) -> None:
        """Take in what became of it in its next life, in the retry topic; letters of that are told
        of the first one."""
        for task_id, failure in later.failures.items():
            known = self.failures.get(task_id)
            self.failures[task_id] = replace(failure, letters=known.letters if known else ())
        self.fate, self.at, self.deferred_to = later.fate, later.at, later.deferred_to

    def hear(self, event: Event) -> None:
        """Take in the next event of the message."""
        told: Mapping[str, Any] = event.data if isinstance(event.data, dict) else {}
        task_id = event.task_id or ""
        match event.kind:
            case "consumed":
                self.fate, self.failures, self.deferred_to = "", {}, None
                self.timestamp = told.get("timestamp", self.timestamp)
            case "task_failed":
                self.failures[task_id] = Failure(
                    task_id=task_id,
                    kind=str(told.get("failure", "")),
                    at=event.ts,
                    exit_code=event.exit_code,
                    labels=event.labels or {},
                    groups=_group(told),
                )
            case "task_completed" | "task_replaced":
                self.failures.pop(task_id, None)
                if event.labels:
                    self.labels[task_id] = event.labels
            case "deferred":
                places = ("retry_topic", "retry_partition", "retry_offset")
                topic, partition, offset = (told.get(name) for name in places)
                self.deferred_to = str(topic), int(partition or 0), int(offset or 0)
                for again in told.get("task_ids") or ():
                    self.failures.pop(again, None)
            case "dead_lettered":
                self._hear_letter(event, task_id, told)
            case "message_completed":
                self.fate, self.at = str(told.get("fate", "")), event.ts

    def _hear_letter(self, event: Event, task_id: str, told: Mapping[str, Any]) -> None:
        known = self.failures.get(task_id)
        place = (
            str(told.get("letter_topic", "")),
            int(told.get("letter_partition", -1)),
            int(told.get("letter_offset", -1)),
        )
        self.timestamp = told.get("timestamp", self.timestamp)
        self.failures[task_id] = Failure(
            task_id=task_id,
            kind=str(told.get("failure", "")),
            at=event.ts,
            exit_code=known.exit_code if known else None,
            labels=known.labels if known else self.labels.get(task_id, {}),
            letters=(*(known.letters if known else ()), place),
            groups=(known.groups if known else frozenset()) | _group(told),
        )


def _group(told: Mapping[str, Any]) -> frozenset[str]:
    return frozenset([str(told["group"])]) if told.get("group") else frozenset()


def outcomes(topic: str, places: Iterable[Place], runs: frozenset[UUID]) -> dict[Place, Outcome]:
    """Return the outcome of each message that these runs tell of, over its lives in the retry
    topic; in short queries."""
    found = _told(topic, places, runs)
    for _ in range(MOST_LIVES):
        waiting = {place: each.deferred_to for place, each in found.items() if each.deferred_to}
        told: dict[tuple[str, int, int], Outcome] = {}
        for retry_topic in {target[0] for target in waiting.values()}:
            targets = [target[1:] for target in waiting.values() if target[0] == retry_topic]
            for place, each in _told(retry_topic, targets, runs).items():
                told[retry_topic, *place] = each
        further = {place: told[target] for place, target in waiting.items() if target in told}
        for place, later in further.items():
            found[place].go_on(later)
        if not any(later.deferred_to for later in further.values()):
            break
    return found


def _told(topic: str, places: Iterable[Place], runs: frozenset[UUID]) -> dict[Place, Outcome]:
    found: dict[Place, Outcome] = {}
    for partition, offsets in by_partition(places).items():
        for part in in_steps(offsets, STEP_MESSAGES):
            # All kinds: asked for some, Postgres would rather read all rows of these.
            rows = Event.objects.defer("stdout", "stderr", "args").filter(
                topic=topic, partition=partition, offset__in=part
            )
            for event in events_of(row for row in rows if row.run in runs):
                if event.kind in TOLD and event.offset is not None:
                    found.setdefault((partition, event.offset), Outcome()).hear(event)
    return found


def by_partition(places: Iterable[Place]) -> dict[int, list[int]]:
    """Return the offsets of each partition, ascending."""
    found: dict[int, list[int]] = {}
    for partition, offset in sorted(set(places)):
        found.setdefault(partition, []).append(offset)
    return found


def numbers_of(task_ids: Iterable[str]) -> tuple[int, ...]:
    """Return the numbers of tasks that have to run again; empty: all tasks of the message.

    A task that replaced another one comes back by the one that it replaced. A task that several
    messages share, and a failure of the message itself, need the whole message.
    """
    found = set()
    for task_id in task_ids:
        number = task_number(task_id).partition(".")[0] if task_id else ""
        if not number.isdecimal():
            return ()
        found.add(int(number))
    return tuple(sorted(found))


def in_steps(rows: Sequence[T], size: int) -> Iterator[Sequence[T]]:
    """Return the rows in parts of that many, in their order."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
