"""What an operator may ask of a worker: the vocabulary, its arguments, how an answer looks.

Pure: requests are read by ``control_inbox`` and obeyed by ``obeying``.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, ClassVar, Literal

from pydantic import Base64Bytes, BaseModel, ConfigDict, Field, ValidationError

from domain.message import MAX_CONTENT_BYTES
from domain.origin import TASK_ID
from domain.parking import SuspectDecision

EXPIRY_SECONDS = 60.0
"""A request that no worker accepted within this time is never obeyed."""
MAX_PROBE_BYTES = MAX_CONTENT_BYTES * 4 // 3


class Action(StrEnum):
    """Everything that can be asked; the word is stored and shown."""

    PAUSE_INTAKE = "pause_intake"
    RESUME_INTAKE = "resume_intake"
    DRAIN = "drain"
    STOP = "stop"
    PAUSE_PARTITION = "pause_partition"
    RESUME_PARTITION = "resume_partition"
    UNPARK_PARTITION = "unpark_partition"
    PAUSE_SINK = "pause_sink"
    RESUME_SINK = "resume_sink"
    TEST_SINK = "test_sink"
    CANCEL_TASK = "cancel_task"
    PROBE = "probe"
    DELIVER_LETTER = "deliver_letter"


class _Arguments(BaseModel):
    """``UNSEEN`` are contents: they are no part of what an action is on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    UNSEEN: ClassVar[frozenset[str]] = frozenset()


class NoArguments(_Arguments):
    """For actions on a whole worker."""


class PartitionArguments(_Arguments):
    """A partition of a source topic."""

    topic: str = Field(min_length=1, max_length=249)
    partition: int = Field(ge=0, lt=2**31)


class UnparkArguments(PartitionArguments):
    """``start`` is needed where the offset is out of range: where to go on. ``suspect`` is needed
    where workers died: what becomes of the suspected message."""

    start: Literal["earliest", "latest"] | None = None
    suspect: SuspectDecision | None = None


class SinkArguments(_Arguments):
    """A sink by its configured name."""

    sink: str = Field(min_length=1, max_length=255)


class CancelArguments(_Arguments):
    """A task and the fate its message gets; the handler is not asked."""

    task_id: str = Field(min_length=3, max_length=255, pattern=rf"^{TASK_ID}$")
    decision: Literal["skip", "dead_letter"]


class ProbeArguments(_Arguments):
    """A message to run without sinks and commits; contents are base64, None is Kafka's none."""

    UNSEEN = frozenset({"key", "value", "headers", "timestamp"})

    partition: int = Field(0, ge=0, lt=2**31)
    offset: int = Field(0, ge=0, lt=2**63)
    timestamp: int = Field(0, ge=0, lt=2**63)
    key: Base64Bytes | None = Field(None, max_length=MAX_PROBE_BYTES)
    value: Base64Bytes | None = Field(None, max_length=MAX_PROBE_BYTES)
    headers: list[tuple[str, Base64Bytes | None]] = Field(default_factory=list, max_length=50)


class LetterArguments(_Arguments):
    """A place in the cluster's dead-letter topic."""

    partition: int = Field(ge=0, lt=2**31)
    offset: int = Field(ge=0, lt=2**63)


ARGUMENTS: Mapping[Action, type[_Arguments]] = {
    Action.PAUSE_INTAKE: NoArguments,
    Action.RESUME_INTAKE: NoArguments,
    Action.DRAIN: NoArguments,
    Action.STOP: NoArguments,
    Action.PAUSE_PARTITION: PartitionArguments,
    Action.RESUME_PARTITION: PartitionArguments,
    Action.UNPARK_PARTITION: UnparkArguments,
    Action.PAUSE_SINK: SinkArguments,
    Action.RESUME_SINK: SinkArguments,
    Action.TEST_SINK: SinkArguments,
    Action.CANCEL_TASK: CancelArguments,
    Action.PROBE: ProbeArguments,
    Action.DELIVER_LETTER: LetterArguments,
}
"""What each action needs to know."""

OPPOSITES = {
    Action.PAUSE_INTAKE: Action.RESUME_INTAKE,
    Action.PAUSE_SINK: Action.RESUME_SINK,
}
"""Pauses that a restart of the worker keeps, and what ends them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """A request as the worker sees it; ``id`` is the row's."""

    id: str
    action: Action
    arguments: _Arguments

    @property
    def target(self) -> str:
        """What it acts on, for events and pages; empty: the worker."""
        return target_text(self.action, self.arguments.model_dump())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What came of an command, in words for the operator; ``result`` is a document to show."""

    is_done: bool
    detail: str
    result: Mapping[str, Any] | None = None


def target_text(action: Action, arguments: Mapping[str, Any]) -> str:
    """What an action is on: its arguments without contents, in words."""
    unseen = ARGUMENTS[action].UNSEEN
    return " ".join(str(v) for name, v in arguments.items() if v and name not in unseen)


def check_arguments(action: str, arguments: Mapping[str, Any]) -> tuple[Action, _Arguments]:
    """Read an action and its arguments. Raises ValueError naming the key, expected and got."""
    try:
        known = Action(action)
    except ValueError:
        expected = ", ".join(Action)
        raise ValueError(f"action: expected one of {expected}, got {action!r}") from None
    try:
        return known, ARGUMENTS[known].model_validate(dict(arguments))
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "arguments"
        raise ValueError(f"{key}: {first['msg']}, got {first['input']!r}") from None
