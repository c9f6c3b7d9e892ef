"""Control actions: everything that an operator may ask of a worker, each declared once.

``Action`` is the table; confirm page, buttons, API, audit, docs/operations.md and the worker's
``CommandExecutor`` follow it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, ClassVar, Literal, Self

from pydantic import (
    AwareDatetime,
    Base64Bytes,
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from domain.masking import mask_text
from domain.message import MAX_CONTENT_BYTES
from domain.origin import TASK_ID
from domain.parking import SuspectDecision
from domain.task import MAX_NAME_BYTES

EXPIRY_SECONDS = 60.0
"""A request that no worker accepted within this time is never obeyed."""
SCOPES = "drakkar.scopes"
"""Key of ``request.META`` for the scopes of whoever sent it."""
MAX_REASON = 500
"""Characters of the reason that an operator may give."""
PARTITIONS = "partitions"
"""Argument of a request to the owners of many: each as ``topic/number``."""
MAX_PROBE_BYTES = MAX_CONTENT_BYTES * 4 // 3
Choices = Mapping[str, Mapping[str, str]]


class Arguments(BaseModel):
    """Arguments of an action. ``CONTENTS`` are no part of what it is on, and never shown; of
    ``CHOICES`` the operator takes one on the confirm page, and fills ``ENTRIES`` in there (with
    their labels) before the effect is shown."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    CONTENTS: ClassVar[frozenset[str]] = frozenset()
    CHOICES: ClassVar[Choices] = {}
    ENTRIES: ClassVar[Mapping[str, str]] = {}

    @classmethod
    def target(cls) -> type[Arguments]:
        """Return the arguments that are known before the entries are filled in."""
        return cls

    @property
    def owned(self) -> tuple[str, int] | None:
        """Topic and number of the partition whose owner is meant; None: of none."""
        return None


class NoArguments(Arguments):
    """No arguments: the action is on a whole worker."""


class PartitionArguments(Arguments):
    """Partition of a source topic."""

    topic: str = Field(min_length=1, max_length=249)
    partition: int = Field(ge=0, lt=2**31)

    @property
    def owned(self) -> tuple[str, int]:
        """The partition itself."""
        return self.topic, self.partition


class UnparkArguments(PartitionArguments):
    """``start`` is needed where the offset is out of range: where to go on. ``suspect`` is needed
    where workers died: what becomes of the suspected message."""

    CHOICES: ClassVar[Choices] = {
        "start": {"earliest": "the earliest offset", "latest": "the latest offset"},
        "suspect": {
            SuspectDecision.RUN: "run the message again",
            SuspectDecision.SKIP: "skip the message",
            SuspectDecision.DEAD_LETTER: "dead-letter the message",
        },
    }

    start: Literal["earliest", "latest"] | None = None
    suspect: SuspectDecision | None = None


class MoveArguments(PartitionArguments):
    """Where a paused partition is to be read from: an ``offset``, or the first message at or after
    a ``time``. ``expected`` is its committed offset as whoever asks knows it."""

    ENTRIES: ClassVar[Mapping[str, str]] = {
        "offset": "offset",
        "time": "or first message at or after",
    }

    offset: int | None = Field(None, ge=0, lt=2**63)
    time: AwareDatetime | None = None
    expected: int = Field(ge=0, lt=2**63)

    @classmethod
    def target(cls) -> type[Arguments]:
        """Return the partition."""
        return PartitionArguments

    @model_validator(mode="after")
    def _is_one_place(self) -> Self:
        if (self.offset is None) == (self.time is None):
            raise ValueError("offset or time: expected one of them")
        return self


class GroupArguments(Arguments):
    """Group of tasks, by the name that the handler gave it."""

    ENTRIES: ClassVar[Mapping[str, str]] = {"group": "group"}

    group: str = Field(min_length=1, max_length=MAX_NAME_BYTES)

    @classmethod
    def target(cls) -> type[Arguments]:
        """Return nothing: the name is filled in."""
        return NoArguments


class KeyArguments(Arguments):
    """Key of tasks, as the handler gave it."""

    ENTRIES: ClassVar[Mapping[str, str]] = {"task_key": "key"}

    task_key: str = Field(min_length=1, max_length=MAX_NAME_BYTES)

    @classmethod
    def target(cls) -> type[Arguments]:
        """Return nothing: the key is filled in."""
        return NoArguments


class MatchArguments(Arguments):
    """Unfinished tasks for which all that is given holds, and the fate their messages get; the
    handler is not asked."""

    CHOICES: ClassVar[Choices] = {
        "decision": {"skip": "skip their messages", "dead_letter": "dead-letter their messages"}
    }
    ENTRIES: ClassVar[Mapping[str, str]] = {
        "label": "label (name=value)",
        "group": "group",
        "task_key": "key",
        "partition": "partition",
        "running_seconds": "running longer than (seconds)",
    }

    label: str | None = Field(None, max_length=512, pattern=r"^[^=]+=.*$")
    group: str | None = Field(None, min_length=1, max_length=MAX_NAME_BYTES)
    task_key: str | None = Field(None, min_length=1, max_length=MAX_NAME_BYTES)
    partition: int | None = Field(None, ge=0, lt=2**31)
    running_seconds: float | None = Field(None, ge=0, le=10**9, allow_inf_nan=False)
    decision: Literal["skip", "dead_letter"]

    @model_validator(mode="after")
    def _says_which(self) -> Self:
        if all(getattr(self, name) is None for name in self.ENTRIES):
            raise ValueError(f"which: expected at least one of {', '.join(self.ENTRIES)}")
        return self

    @classmethod
    def target(cls) -> type[Arguments]:
        """Return nothing: what must match is filled in."""
        return NoArguments

    def fits(
        self,
        *,
        labels: Mapping[str, str],
        group: str | None,
        task_key: str | None,
        partition: int | None,
        running_seconds: float | None,
    ) -> bool:
        """Whether a task is one of them; ``running_seconds`` None: it does not run."""
        name, _, text = (self.label or "").partition("=")
        least = self.running_seconds
        return (
            (self.label is None or labels.get(name) == text)
            and self.group in (None, group)
            and self.task_key in (None, task_key)
            and self.partition in (None, partition)
            and (least is None or (running_seconds is not None and running_seconds > least))
        )


class SinkArguments(Arguments):
    """Sink by its configured name."""

    sink: str = Field(min_length=1, max_length=255)


class CancelArguments(Arguments):
    """Task and the fate its message gets; the handler is not asked."""

    CHOICES: ClassVar[Choices] = {
        "decision": {"skip": "skip its message", "dead_letter": "dead-letter its message"}
    }

    task_id: str = Field(min_length=3, max_length=255, pattern=rf"^{TASK_ID}$")
    decision: Literal["skip", "dead_letter"]


class ProbeArguments(Arguments):
    """Message to run without sinks and commits; contents are base64, None is Kafka's none."""

    CONTENTS = frozenset({"key", "value", "headers", "timestamp"})

    partition: int = Field(0, ge=0, lt=2**31)
    offset: int = Field(0, ge=0, lt=2**63)
    timestamp: int = Field(0, ge=0, lt=2**63)
    key: Base64Bytes | None = Field(None, max_length=MAX_PROBE_BYTES)
    value: Base64Bytes | None = Field(None, max_length=MAX_PROBE_BYTES)
    headers: list[tuple[str, Base64Bytes | None]] = Field(default_factory=list, max_length=50)


class LetterArguments(Arguments):
    """Place in the cluster's dead-letter topic."""

    partition: int = Field(ge=0, lt=2**31)
    offset: int = Field(ge=0, lt=2**63)


class Target(StrEnum):
    """Whom an action is asked of: one worker (or the owner of a partition), each live worker of a
    cluster, or the cluster: kept in Postgres until it is ended, and read with each beat by all
    workers, those that start later too."""

    WORKER = "worker"
    WORKERS = "workers"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class ActionSpec:
    """Title of an action, its effect in words (page and docs), its arguments, and the scope that
    whoever asks must have.

    ``is_destructive``: what it ends cannot be had back. ``ended_by`` names the action that ends
    what this one began; until then it is taken up again by later runs of the worker's name.
    """

    title: str
    meaning: str
    arguments: type[Arguments] = NoArguments
    scope: str = "operate"
    target: Target = Target.WORKER
    is_destructive: bool = False
    ended_by: str = ""


class Action(StrEnum):
    """Control action; its word is stored and shown."""

    spec: ActionSpec

    def __new__(cls, word: str, spec: ActionSpec) -> Action:
        """Make a member that is its word."""
        member = str.__new__(cls, word)
        member._value_ = word
        member.spec = spec
        return member

    @classmethod
    def named(cls, word: str) -> Action:
        """Return the action of a word. Raises ValueError naming all of them."""
        for each in cls:
            if each == word:
                return each
        raise ValueError(f"action: expected one of {', '.join(cls)}, got {word[:40]!r}")

    PAUSE_INTAKE = (
        "pause_intake",
        ActionSpec(
            title="Pause intake",
            meaning="Takes in no further messages and stays a member of the group, also after a "
            "restart. What was taken in goes on.",
            ended_by="resume_intake",
        ),
    )
    RESUME_INTAKE = (
        "resume_intake",
        ActionSpec(
            title="Resume intake",
            meaning="Takes messages in again; after a drain it joins the group again.",
        ),
    )
    DRAIN = (
        "drain",
        ActionSpec(
            title="Drain",
            meaning="Takes nothing in, finishes what it has within the drain budget, leaves the "
            "group and stays up. Its partitions go to the other workers.",
            is_destructive=True,
        ),
    )
    STOP = (
        "stop",
        ActionSpec(
            title="Stop",
            meaning="Drains within the budget, then its process exits. Its partitions go to the "
            "other workers.",
            is_destructive=True,
        ),
    )
    PAUSE_PARTITION = (
        "pause_partition",
        ActionSpec(
            title="Pause partition",
            meaning="The partition rests, also with its next owners. What was taken in goes on; "
            "its lag grows.",
            arguments=PartitionArguments,
        ),
    )
    RESUME_PARTITION = (
        "resume_partition",
        ActionSpec(
            title="Resume partition",
            meaning="The partition goes on.",
            arguments=PartitionArguments,
        ),
    )
    UNPARK_PARTITION = (
        "unpark_partition",
        ActionSpec(
            title="Unpark partition",
            meaning="Tries again what the partition was parked for.",
            arguments=UnparkArguments,
        ),
    )
    REWIND_PARTITION = (
        "rewind_partition",
        ActionSpec(
            title="Rewind partition",
            meaning="The paused partition's commit goes back: its messages from there on run again "
            "once it is resumed, each with the identity that it has, so that sinks which store a "
            "delivery once still do.",
            arguments=MoveArguments,
            is_destructive=True,
        ),
    )
    SKIP_PARTITION = (
        "skip_partition",
        ActionSpec(
            title="Skip messages",
            meaning="The paused partition's commit goes on: the messages before that place have "
            "the fate skipped and are never run, unless it is rewound.",
            arguments=MoveArguments,
            is_destructive=True,
        ),
    )
    PAUSE_SINK = (
        "pause_sink",
        ActionSpec(
            title="Pause sink",
            meaning="This worker delivers nothing further to the sink, also after a restart; what "
            "waits for it fills its share, then intake stops.",
            arguments=SinkArguments,
            ended_by="resume_sink",
        ),
    )
    RESUME_SINK = (
        "resume_sink",
        ActionSpec(
            title="Resume sink",
            meaning="This worker delivers to the sink again.",
            arguments=SinkArguments,
        ),
    )
    TEST_SINK = (
        "test_sink",
        ActionSpec(
            title="Test connection",
            meaning="Opens a second connection to the sink and closes it; nothing is written.",
            arguments=SinkArguments,
        ),
    )
    CANCEL_TASK = (
        "cancel_task",
        ActionSpec(
            title="Cancel task",
            meaning="Asks the task's process to end (SIGTERM, after its grace SIGKILL; asked "
            "again: killed at once); its message gets the fate chosen here, and on_error "
            "is not asked.",
            arguments=CancelArguments,
            is_destructive=True,
        ),
    )
    CANCEL_MATCHING = (
        "cancel_matching",
        ActionSpec(
            title="Cancel all that match",
            meaning="Kills the processes of the tasks that match, and ends those that wait; their "
            "messages get the fate chosen here, and on_error is not asked. Messages that are not "
            "arranged yet have no tasks. Each live worker of the cluster is asked, and answers by "
            "itself.",
            arguments=MatchArguments,
            target=Target.WORKERS,
            is_destructive=True,
        ),
    )
    PAUSE_CLUSTER = (
        "pause_cluster",
        ActionSpec(
            title="Pause cluster",
            meaning="All workers of the cluster take in no further messages, those that start "
            "later too, until it is resumed. What was taken in goes on.",
            target=Target.CLUSTER,
        ),
    )
    RESUME_CLUSTER = (
        "resume_cluster",
        ActionSpec(
            title="Resume cluster",
            meaning="The workers of the cluster take messages in again; one whose own intake is "
            "paused does not.",
            target=Target.CLUSTER,
        ),
    )
    PAUSE_GROUP = (
        "pause_group",
        ActionSpec(
            title="Pause group",
            meaning="No worker of the cluster starts a task of the group, those that start later "
            "neither, until it is resumed; what runs goes on. Its messages keep their offsets and "
            "all after them from being committed, and when what waits fills the budget of a "
            "partition or worker, that takes nothing in for any group.",
            arguments=GroupArguments,
            target=Target.CLUSTER,
        ),
    )
    RESUME_GROUP = (
        "resume_group",
        ActionSpec(
            title="Resume group",
            meaning="Tasks of the group are started again.",
            arguments=GroupArguments,
            target=Target.CLUSTER,
        ),
    )
    PAUSE_KEY = (
        "pause_key",
        ActionSpec(
            title="Pause key",
            meaning="No worker of the cluster starts a task of the key, those that start later "
            "neither, until it is resumed; the one that has its turn goes on. Its messages keep "
            "their offsets and all after them from being committed, and when what waits fills the "
            "budget of its partition, that takes nothing in for any key.",
            arguments=KeyArguments,
            target=Target.CLUSTER,
        ),
    )
    RESUME_KEY = (
        "resume_key",
        ActionSpec(
            title="Resume key",
            meaning="Tasks of the key are started again.",
            arguments=KeyArguments,
            target=Target.CLUSTER,
        ),
    )
    PROBE = (
        "probe",
        ActionSpec(
            title="Probe",
            meaning="Runs one message through the handler and its program, with sinks and topics "
            "in memory: nothing is delivered, committed or recorded.",
            arguments=ProbeArguments,
        ),
    )
    DELIVER_LETTER = (
        "deliver_letter",
        ActionSpec(
            title="Deliver letter",
            meaning="Delivers the payload of a dead letter to its sink, with its first delivery "
            "id. Asked for by replays on the page of dead letters, which note it in the letter.",
            arguments=LetterArguments,
        ),
    )


class Subject(StrEnum):
    """What a pause of a whole cluster is on."""

    CLUSTER = "cluster"
    GROUP = "group"
    KEY = "key"


PAUSED_BY = {
    Action.PAUSE_CLUSTER: Subject.CLUSTER,
    Action.PAUSE_GROUP: Subject.GROUP,
    Action.PAUSE_KEY: Subject.KEY,
}
"""Actions that pause something on all workers of a cluster."""
RESUMED_BY = {
    Action.RESUME_CLUSTER: Subject.CLUSTER,
    Action.RESUME_GROUP: Subject.GROUP,
    Action.RESUME_KEY: Subject.KEY,
}
"""Actions that end such a pause."""
MAX_PAUSED = 100
"""Groups, and keys, that may be paused at once in one cluster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """Request behind something: its id, who sent it, and the reason given; empty: unknown."""

    request: str = ""
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterPauses:
    """Everything that is paused on all workers of a cluster; ``asked`` are the requests that began
    it, by subject and name."""

    is_paused: bool = False
    groups: frozenset[str] = frozenset()
    keys: frozenset[str] = frozenset()
    asked: Mapping[tuple[str, str], Asked] = field(default_factory=dict, compare=False)


LASTING = {each: end for each in Action for end in Action if each.spec.ended_by == end}
"""Actions that later runs of the worker take up again, and what ends each."""
ENDS = {end: begun for begun, end in LASTING.items()}
SHOWN_ARGUMENTS = tuple(
    dict.fromkeys(
        name
        for each in Action
        for name in each.spec.arguments.model_fields
        if name not in each.spec.arguments.CONTENTS
    )
)
"""Names of all arguments but contents, for the audit."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    """Request as the worker sees it; ``id`` is the row's, ``actor`` who sent it, ``reason`` what
    they gave as one."""

    id: str
    action: Action
    arguments: Arguments
    actor: str = ""
    reason: str = ""

    @property
    def target(self) -> str:
        """Target for events and pages; empty: the worker."""
        return target_text(self.action, self.arguments.model_dump())


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """Outcome of a command in words for the operator; ``result`` is a document to show."""

    is_done: bool
    detail: str
    result: Mapping[str, Any] | None = None


def target_text(action: Action, arguments: Mapping[str, Any]) -> str:
    """Return what an action is on: its arguments without contents, in words."""
    if isinstance(partitions := arguments.get(PARTITIONS), list):
        return f"{len(partitions)} partition{'s' if len(partitions) != 1 else ''}"
    contents = action.spec.arguments.CONTENTS
    return " ".join(
        str(value)
        for name, value in arguments.items()
        if value is not None and name not in contents
    )


def checked_reason(text: str) -> str:
    """Return the reason given for a request, on one line and with secrets masked. Raises
    ValueError for a longer one than is kept."""
    plain = "".join(each if each.isprintable() else " " for each in text)
    reason = mask_text(" ".join(plain.split()))
    if len(reason) > MAX_REASON:
        raise ValueError(
            f"reason: expected at most {MAX_REASON} characters, got {len(reason)}: shorten it"
        )
    return reason


def check_arguments(action: str, arguments: Mapping[str, Any]) -> tuple[Action, Arguments]:
    """Read an action and its arguments. Raises ValueError naming the key, expected and got."""
    known = Action.named(action)
    return known, _checked(known.spec.arguments, arguments)


def check_target(action: Action, arguments: Mapping[str, Any]) -> Arguments:
    """Read what an action is on, of arguments that may still lack entries. Raises ValueError."""
    kind = action.spec.arguments.target()
    return _checked(kind, {n: text for n, text in arguments.items() if n in kind.model_fields})


def _checked(kind: type[Arguments], arguments: Mapping[str, Any]) -> Arguments:
    try:
        return kind.model_validate(dict(arguments))
    except ValidationError as exc:
        first = exc.errors()[0]
        key = ".".join(str(part) for part in first["loc"]) or "arguments"
        said = first["msg"].removeprefix("Value error, ")
        raise ValueError(f"{key}: {said}, got {first['input']!r}") from None
