"""What became of the messages of a test."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.events import DeadLettered, Event, MessageCompleted, TaskCompleted, TaskFailed
from domain.failure import FailureKind
from domain.fate import Fate
from domain.message import Record
from domain.payload import Payload
from sinks.base import Delivery


class NoFate(AssertionError):
    """Messages without a fate: the time was up, or the worker could not go on."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """One attempt of a task: ``failure`` is None where it ended well, ``exit_code`` where no
    program ended by itself. ``number`` counts from 1."""

    partition: int
    offset: int
    task_id: str
    number: int
    args: Sequence[str]
    failure: FailureKind | None
    detail: str
    exit_code: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Letter:
    """One dead letter. ``stage`` is where it left: parse, arrange, task, collect, complete,
    deliver. ``traceback`` is that of the handler's error, '' without one."""

    partition: int
    offset: int
    stage: str
    kind: FailureKind
    reason: str
    attempts: int
    task_id: str | None
    sink: str | None
    traceback: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of all messages.

    ``fates`` and ``reasons`` are in the order in which the messages were given, ``payloads`` by
    sink in the order of delivery. ``committed`` is the next offset of each partition; None: nothing
    was committed.
    """

    fates: Sequence[Fate]
    reasons: Sequence[str]
    payloads: Mapping[str, Sequence[Payload]]
    letters: Sequence[Letter]
    attempts: Sequence[Attempt]
    committed: Mapping[int, int | None]


def outcome_of(
    records: Sequence[Record],
    events: Sequence[Event],
    deliveries: Sequence[Delivery],
    committed: Mapping[int, int | None],
) -> Outcome:
    """Make the outcome of what was told and delivered; each record has its fate."""
    ended = {
        (event.partition, event.offset): event
        for event in events
        if isinstance(event, MessageCompleted)
    }
    in_order = [ended[record.partition, record.offset] for record in records]
    payloads: dict[str, list[Payload]] = {}
    for delivery in deliveries:
        payloads.setdefault(delivery.payload.sink, []).append(delivery.payload)
    return Outcome(
        fates=[Fate(event.fate) for event in in_order],
        reasons=[event.reason for event in in_order],
        payloads=payloads,
        letters=[_letter(event) for event in events if isinstance(event, DeadLettered)],
        attempts=[
            _attempt(event) for event in events if isinstance(event, TaskCompleted | TaskFailed)
        ],
        committed=committed,
    )


def _letter(event: DeadLettered) -> Letter:
    return Letter(
        partition=event.partition,
        offset=event.offset,
        stage=event.stage,
        kind=FailureKind(event.failure),
        reason=event.reason,
        attempts=event.attempts,
        task_id=event.task_id,
        sink=event.sink,
        traceback=event.traceback,
    )


def _attempt(event: TaskCompleted | TaskFailed) -> Attempt:
    return Attempt(
        partition=event.partition,
        offset=event.offset,
        task_id=event.task_id,
        number=event.attempt,
        args=tuple(event.args),
        failure=FailureKind(event.failure) if isinstance(event, TaskFailed) else None,
        detail=event.detail if isinstance(event, TaskFailed) else "",
        exit_code=event.exit_code,
    )
