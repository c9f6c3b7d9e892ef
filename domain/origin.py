"""Identity: where a payload comes from, the same when its messages are processed again."""

from __future__ import annotations

import re
from collections.abc import Iterable
from hashlib import sha256
from typing import Any, Literal

from domain.message import Message
from domain.value import value

OWN_HEADERS = "drakkar-"
"""Prefix of the names of all our headers; a sink sends none that a handler gave."""
REPLAY_HEADER = "drakkar-replay-of"
EDITED_HEADER = "drakkar-edited-by"
"""On a replay whose message a person changed: who it was."""
ONLY_TASKS_HEADER = "drakkar-only-tasks"
"""On a replay of which only some tasks are to run: their numbers, as ``0,3``."""
DEFERRED_TO_HEADER = "drakkar-deferred-to"
"""On a deferred message (``domain.deferral``): the retry topic in which it waits."""
MAX_ONLY_TASKS = 1000
"""Numbers that ``ONLY_TASKS_HEADER`` may hold."""

TASK_ID = r"\d+:\d+:\d+(?:~[0-9a-f]{32})?(?:\.r\d+)*"
"""Pattern of a task's id: ``partition:offset:n[~digest][.r<k>...]``."""

_OF_SEVERAL = re.compile(r"[:/](?:\d+|-)~[0-9a-f]{32}(?:\.r\d+)*(?:/\w+/\d+)?", re.ASCII)

HookName = Literal["collect", "message", "batch"]

_ORIGIN = re.compile(
    r"(?P<cluster>[A-Za-z0-9._-]{1,63})/(?P<topic>[A-Za-z0-9._-]{1,249})"
    r"/(?P<partition>0|[1-9][0-9]{0,9})/(?P<offset>0|[1-9][0-9]{0,18})"
    r"/(?P<timestamp>0|-?[1-9][0-9]{0,18})"
)
_TASK_NUMBERS = re.compile(r"[0-9]{1,9}(?:,[0-9]{1,9})*", re.ASCII)
_MAX_PARTITION, _MAX_LONG = 2**31 - 1, 2**63 - 1
_DIGEST_CHARACTERS = 32


@value(frozen=True, slots=True, kw_only=True)
class MessageOrigin:
    """``cluster/topic/partition/offset/record time in ms`` of the first life of a message."""

    cluster: str
    topic: str
    partition: int
    offset: int
    timestamp: int

    def __str__(self) -> str:
        return f"{self.cluster}/{self.topic}/{self.partition}/{self.offset}/{self.timestamp}"

    @classmethod
    def parse(cls, text: str) -> MessageOrigin:
        """Read the text form, exactly as ``str`` writes it. Raises ValueError when it is none."""
        found = _ORIGIN.fullmatch(text)
        if found is None:
            raise ValueError(
                f"origin: expected cluster/topic/partition/offset/time, got {text[:100]!r}"
            )
        partition, offset, timestamp = (
            int(found[name]) for name in ("partition", "offset", "timestamp")
        )
        if partition > _MAX_PARTITION or max(offset, timestamp, ~timestamp) > _MAX_LONG:
            raise ValueError(f"origin: expected numbers of a Kafka record, got {text[:100]!r}")
        return cls(
            cluster=found["cluster"],
            topic=found["topic"],
            partition=partition,
            offset=offset,
            timestamp=timestamp,
        )

    @classmethod
    def of(cls, message: Message[Any], cluster: str) -> MessageOrigin:
        """Return the origin of a message: that of the message it replays, else its own place.

        A replay header counts where ``replayed`` says so.
        """
        origin = replayed(message) if message.headers else None
        return origin or cls(
            cluster=cluster,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp=message.timestamp,
        )


def replayed(message: Message[Any]) -> MessageOrigin | None:
    """Return the origin that the replay header of a message names; None: it is no replay.

    The header counts only where it is well formed and names the record's own topic: replays go to
    the topic they came from, and a header that was copied from the input of another stage to its
    output says nothing about the output. In a retry topic it counts where the record names that
    topic as the one in which it waits.
    """
    text = message.header(REPLAY_HEADER)
    if text is None:
        return None
    try:
        origin = MessageOrigin.parse(text)
    except ValueError:
        return None
    is_here = message.topic in (origin.topic, message.header(DEFERRED_TO_HEADER))
    return origin if is_here else None


def only_tasks(message: Message[Any]) -> frozenset[int] | None:
    """Return the numbers of the tasks that alone are to run of a replay; None: all of them.

    On what is no replay the header says nothing. Raises ValueError when it is malformed.
    """
    text = message.header(ONLY_TASKS_HEADER) if message.headers else None
    if text is None or replayed(message) is None:
        return None
    if _TASK_NUMBERS.fullmatch(text) is None or text.count(",") >= MAX_ONLY_TASKS:
        raise ValueError(
            f"{ONLY_TASKS_HEADER}: expected at most {MAX_ONLY_TASKS:,} task numbers such as 0,3, "
            f"got {text[:100]!r}"
        )
    return frozenset(map(int, text.split(",")))


@value(frozen=True, slots=True, kw_only=True)
class Sources:
    """Messages that a task or a payload is made from, named alike by every run.

    ``lead`` is the lowest of their origins. ``suffix`` is empty where there is no other; else ``~``
    and a digest of the partition, offset and record time of all, in order, so that another set of
    messages has another name however it overlaps. A message and its replay in one set count
    as two.
    """

    lead: MessageOrigin
    suffix: str

    @classmethod
    def of(cls, origins: Iterable[MessageOrigin]) -> Sources:
        """Name at least one origin; their order does not matter."""
        ordered = sorted(origins, key=_order)
        if len(ordered) == 1:
            return cls(lead=ordered[0], suffix="")
        places = "\n".join(f"{one.partition}/{one.offset}/{one.timestamp}" for one in ordered)
        return cls(
            lead=ordered[0], suffix=f"~{sha256(places.encode()).hexdigest()[:_DIGEST_CHARACTERS]}"
        )


def _order(origin: MessageOrigin) -> tuple[str, str, int, int, int]:
    return origin.cluster, origin.topic, origin.partition, origin.offset, origin.timestamp


@value(frozen=True, slots=True, kw_only=True)
class Origin:
    """Source of one payload. ``n`` is the task's number as ``task_number`` gives it; for
    message and batch hooks ``-`` and the suffix of their ``Sources``."""

    message: MessageOrigin
    n: str
    hook: HookName
    index: int

    def delivery_id(self, delivery_key: str | None = None) -> str:
        """Return an id that any run that makes the payload again gives it; a ``delivery_key``
        counts alone."""
        if delivery_key is not None:
            return f"{self.message.cluster}/{self.message.topic}/key:{delivery_key}"
        return f"{self.message}/{self.n}/{self.hook}/{self.index}"


def task_number(task_id: str) -> str:
    """``n`` with its digest and ``.r`` suffixes from ``partition:offset:n[~digest][.r<k>...]``."""
    return task_id.rsplit(":", 1)[1]


def is_of_several(identity: str) -> bool:
    """Whether a task id, or a delivery id without a key, names what several messages made."""
    return "/key:" not in identity and _OF_SEVERAL.search(identity) is not None


def is_own_header(name: str) -> bool:
    """Whether a header is one of ours, which no output takes over from its input."""
    return name.lower().startswith(OWN_HEADERS)
