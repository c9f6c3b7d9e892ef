"""Identity: where a payload comes from, the same when its message is processed again."""

from __future__ import annotations

from typing import Any, Literal

from domain.message import Message
from domain.value import value

REPLAY_HEADER = "drakkar-replay-of"
EDITED_HEADER = "drakkar-edited-by"
"""On a replay whose message a person changed: who it was."""

HookName = Literal["collect", "message", "batch"]


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
        """Read the text form. Raises ValueError when it is not one."""
        cluster, topic, partition, offset, timestamp = text.split("/")
        return cls(
            cluster=cluster,
            topic=topic,
            partition=int(partition),
            offset=int(offset),
            timestamp=int(timestamp),
        )

    @classmethod
    def of(cls, message: Message[Any], cluster: str) -> MessageOrigin:
        """The origin of a message: that of the message it replays, else its own coordinates.

        A malformed replay header is not an identity; the message stands for itself then.
        """
        replayed = message.header(REPLAY_HEADER) if message.headers else None
        if replayed is not None:
            try:
                return cls.parse(replayed)
            except ValueError:
                pass
        return cls(
            cluster=cluster,
            topic=message.topic,
            partition=message.partition,
            offset=message.offset,
            timestamp=message.timestamp,
        )


@value(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where one payload comes from. ``n`` is the task's number with its ``.r`` suffixes, or
    ``-``."""

    message: MessageOrigin
    n: str
    hook: HookName
    index: int

    def delivery_id(self, delivery_key: str | None = None) -> str:
        """The same whenever any run makes the payload again; a ``delivery_key`` counts alone."""
        if delivery_key is not None:
            return f"{self.message.cluster}/{self.message.topic}/key:{delivery_key}"
        return f"{self.message}/{self.n}/{self.hook}/{self.index}"


def task_number(task_id: str) -> str:
    """``n`` with its ``.r`` suffixes from ``partition:offset:n[.r<k>...]``."""
    return task_id.rsplit(":", 1)[1]
