"""Deferred messages: what the headers of their record in the retry topic say.

A message some tasks of which are to run again later is written, key and value as they were, to the
retry topic of its cluster, and its offset passes. The headers say which life it goes on with.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from domain.fate import Fate
from domain.message import Header, Message, Record
from domain.origin import (
    DEFERRED_TO_HEADER,
    MAX_ONLY_TASKS,
    ONLY_TASKS_HEADER,
    REPLAY_HEADER,
    MessageOrigin,
    replayed,
)
from domain.value import value

DUE_HEADER = "drakkar-due"
"""When it is to run again: milliseconds since the epoch."""
ATTEMPTS_HEADER = "drakkar-attempts"
"""Attempts made of each task that runs again, as ``0=2,3=1``."""
FATE_HEADER = "drakkar-fate"
"""Fate of those tasks of the message that have ended for good."""
FROM_HEADER = "drakkar-deferred-from"
"""``topic/partition/offset`` of the record in whose place it stands."""
OWN_HEADERS = frozenset(
    {
        REPLAY_HEADER, DEFERRED_TO_HEADER, ONLY_TASKS_HEADER, DUE_HEADER, ATTEMPTS_HEADER,
        FATE_HEADER, FROM_HEADER,
    }
)  # fmt: skip
"""Headers that a deferral writes, in place of those that the message has."""

_DUE = re.compile(r"[0-9]{1,15}", re.ASCII)
_ATTEMPTS = re.compile(r"[0-9]{1,9}=[0-9]{1,6}(?:,[0-9]{1,9}=[0-9]{1,6})*", re.ASCII)
_FATES = {fate.value: fate for fate in Fate if fate is not Fate.DEFERRED}


@value(frozen=True, slots=True, kw_only=True)
class Deferral:
    """State of a message between two of its lives. ``due_at`` is UTC epoch seconds; ``attempts``
    holds the attempts made by the number of each task that runs again; ``fate`` is that of the
    tasks that do not."""

    origin: MessageOrigin
    due_at: float
    attempts: Mapping[int, int]
    fate: Fate = Fate.FILTERED

    def headers(self, record: Record, topic: str) -> list[Header]:
        """Return the headers with which the message is written to the retry topic: its own, and
        those of its state."""
        numbers = sorted(self.attempts)
        written = {
            REPLAY_HEADER: str(self.origin),
            DEFERRED_TO_HEADER: topic,
            ONLY_TASKS_HEADER: ",".join(map(str, numbers)),
            DUE_HEADER: str(max(0, round(self.due_at * 1000))),
            ATTEMPTS_HEADER: ",".join(f"{number}={self.attempts[number]}" for number in numbers),
            FATE_HEADER: self.fate.value,
            FROM_HEADER: f"{record.topic}/{record.partition}/{record.offset}",
        }
        return [*_others(record.headers), *((n, text.encode()) for n, text in written.items())]

    @classmethod
    def of(cls, record: Message[Any]) -> Deferral:
        """Read the state from a record of a retry topic. Raises ValueError naming the header that
        is missing or malformed."""
        origin = replayed(record)
        if origin is None or origin.topic == record.topic:
            raise ValueError(
                f"{REPLAY_HEADER}, {DEFERRED_TO_HEADER}: expected a message that a worker deferred "
                f"to {record.topic}, got another"
            )
        due = _read(record, DUE_HEADER, _DUE, "milliseconds since the epoch")
        attempts = _read(record, ATTEMPTS_HEADER, _ATTEMPTS, "attempts by task such as 0=2,3=1")
        pairs = [each.split("=") for each in attempts.split(",")]
        fate = _FATES.get(record.header(FATE_HEADER) or "")
        if fate is None or len(pairs) > MAX_ONLY_TASKS:
            raise ValueError(
                f"{FATE_HEADER}, {ATTEMPTS_HEADER}: expected one of {', '.join(_FATES)} and at "
                f"most {MAX_ONLY_TASKS:,} tasks, got {record.header(FATE_HEADER)!r} "
                f"and {len(pairs):,}"
            )
        return cls(
            origin=origin,
            due_at=int(due) / 1000.0,
            attempts={int(number): int(count) for number, count in pairs},
            fate=fate,
        )


def first_life(record: Record) -> Record:
    """Return the record as it stood where it was deferred first; any other record as it is.

    The time is that of its origin; the headers of deferrals are left out.
    """
    origin = replayed(record) if record.headers else None
    if origin is None or origin.topic == record.topic:
        return record
    return replace(
        record,
        topic=origin.topic,
        partition=origin.partition,
        offset=origin.offset,
        timestamp=origin.timestamp,
        headers=tuple(_others(record.headers)),
    )


def _others(headers: Sequence[Header]) -> list[Header]:
    return [header for header in headers if header[0] not in OWN_HEADERS]


def _read(record: Message[Any], name: str, form: re.Pattern[str], expected: str) -> str:
    text = record.header(name) or ""
    if form.fullmatch(text) is None:
        raise ValueError(f"{name}: expected {expected}, got {text[:100]!r}")
    return text
