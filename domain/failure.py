"""Failure as a value: a kind to branch on and a detail to read."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from domain.payload import Payload
    from domain.task import Task, TaskResult


class FailureKind(StrEnum):
    """Why a task or message failed; docs/handler-guide.md says when each is told."""

    EXIT = "exit"
    SIGNAL = "signal"
    TIMEOUT = "timeout"
    STALLED = "stalled"
    SPAWN = "spawn"
    OUTPUT_LIMIT = "output_limit"
    OOM = "oom"
    PROTOCOL = "protocol"
    CANCELLED = "cancelled"
    LOST = "lost"
    HANDLER = "handler"
    PARSE = "parse"
    POISON = "poison"
    DELIVERY = "delivery"


class Stage(StrEnum):
    """Stage at which a dead letter left the pipeline (header ``drakkar-stage``)."""

    PARSE = "parse"
    ARRANGE = "arrange"
    TASK = "task"
    COLLECT = "collect"
    COMPLETE = "complete"
    DELIVER = "deliver"
    CRASH = "crash"


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskFailure:
    """One attempt of a task that did not end well. ``result`` holds what it printed, if it ran."""

    task: Task
    kind: FailureKind
    detail: str
    attempt: int
    result: TaskResult | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DeliveryError:
    """One failed attempt to deliver, after narrowing; ``payloads`` are those it concerns."""

    sink: str
    kind: str
    transient: bool
    attempt: int
    payloads: Sequence[Payload]
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetterCause:
    """Why a message or payload becomes a dead letter; the source of the letter's headers.

    ``labels`` are those of its task; None: it is of none, or its task is not known.
    """

    stage: Stage
    kind: FailureKind
    reason: str
    traceback: str = ""
    attempts: int = 0
    task_id: str = ""
    sink: str = ""
    payload: Payload | None = None
    delivery_id: str = ""
    labels: Mapping[str, str] | None = None
