"""Dead letters: the original record byte for byte, and headers that say why it is here.

A letter is written or waits: ``write`` returns only when the topic has it (law 5).
"""

from __future__ import annotations

import asyncio
import base64
import queue
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any, Protocol

import orjson

from domain.failure import DeadLetterCause
from domain.message import Record
from domain.payload import Payload
from domain.retry import Backoff
from sinks.base import PermanentError, SinkError
from sinks.config import DeadLettersConfig

TIMEOUT_SECONDS = 10.0
BACKOFF = Backoff(initial_seconds=0.5, factor=2, max_seconds=10, jitter=0.2)
TEXT_LIMIT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterReceipt:
    """Where a letter was stored."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterStamp:
    """Who writes the letters."""

    cluster: str
    group: str
    worker: str


class LetterTopic(Protocol):
    """Where letters go; one record at a time, from the writer's own thread."""

    def write_letter(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> LetterReceipt:
        """Store it. Raises SinkError; PermanentError when the record is too large."""

    def close(self) -> None:
        """Release everything."""


def letter_headers(
    record: Record, cause: DeadLetterCause, stamp: LetterStamp, at: float
) -> list[tuple[str, bytes | None]]:
    """The headers of SPEC section 6, after the original's own."""
    texts = {
        "cluster": stamp.cluster,
        "group": stamp.group,
        "origin-topic": record.topic,
        "origin-partition": str(record.partition),
        "origin-offset": str(record.offset),
        "stage": cause.stage.value,
        "failure-kind": cause.kind.value,
        "reason": cause.reason[:TEXT_LIMIT],
        "attempts": str(cause.attempts),
        "task-id": cause.task_id,
        "sink": cause.sink,
        "worker": stamp.worker,
        "time": datetime.fromtimestamp(at, UTC).isoformat(),
        "delivery-id": cause.delivery_id,
        "traceback": cause.traceback[-TEXT_LIMIT:],
    }
    own = [(f"drakkar-{name}", text.encode("utf-8", "replace")) for name, text in texts.items()]
    if cause.payload is not None:
        own.append(("drakkar-payload", encode_payload(cause.payload)))
    return [*record.headers, *own]


def encode_payload(payload: Payload) -> bytes:
    """``{kind, sink, fields}``; bytes as ``{"$bytes": base64}``, times as ``{"$time": RFC
    3339}``."""
    values = {field.name: getattr(payload, field.name) for field in fields(payload)}
    values.pop("sink")
    body = {"kind": payload.kind, "sink": payload.sink, "fields": _encodable(values)}
    return orjson.dumps(body, default=str, option=orjson.OPT_NON_STR_KEYS)


def _encodable(value: Any) -> Any:
    if isinstance(value, bytes):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, dict):
        return {str(name): _encodable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    return value


class DeadLetterWriter:
    """Writes letters one after the other on a thread of its own; the happy path never comes here.

    ``on_writable(is_writable, detail)`` is called on the loop when the topic stops or starts to
    take
    letters.
    """

    def __init__(
        self,
        topic: Callable[[], LetterTopic],
        stamp: LetterStamp,
        *,
        wall: Callable[[], float],
        on_writable: Callable[[bool, str], None],
    ) -> None:
        self._make_topic = topic
        self._stamp = stamp
        self._wall = wall
        self._on_writable = on_writable
        self._letters: queue.SimpleQueue[_Letter | None] = queue.SimpleQueue()
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="dead-letters", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None
        self._is_writable = True

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; nothing is connected before the first letter."""
        self._loop = loop
        self._thread.start()

    async def write(self, record: Record, cause: DeadLetterCause) -> LetterReceipt:
        """Write a letter, however long it takes. Cancelled: it may or may not have been written."""
        loop = asyncio.get_running_loop()
        letter = _Letter(record, cause, loop.create_future())
        self._letters.put(letter)
        return await letter.done

    def close(self, timeout_seconds: float) -> bool:
        """End the thread; letters that still wait stay unwritten, their offsets do not pass."""
        self._closing.set()
        self._letters.put(None)
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _main(self) -> None:
        topic = self._make_topic()
        while (letter := self._letters.get()) is not None and not self._closing.is_set():
            self._write_for_ever(topic, letter)
        topic.close()

    def _write_for_ever(self, topic: LetterTopic, letter: _Letter) -> None:
        attempt = 0
        while not self._closing.is_set() and not letter.done.cancelled():
            try:
                receipt = self._write_once(topic, letter)
            except SinkError as exc:
                attempt += 1
                self._say(False, f"the dead-letter topic takes no letter: {exc}")
                self._closing.wait(BACKOFF.delay_seconds(attempt, random.random()))
                continue
            self._say(True, "")
            self._post(_resolve, letter.done, receipt)
            return

    def _write_once(self, topic: LetterTopic, letter: _Letter) -> LetterReceipt:
        """A letter too big for the topic loses its payload, then its traceback."""
        record = letter.record
        headers = letter_headers(record, letter.cause, self._stamp, self._wall())
        lighter = ("drakkar-payload", "drakkar-traceback")
        for dropped in range(len(lighter) + 1):
            kept = [header for header in headers if header[0] not in lighter[:dropped]]
            try:
                return topic.write_letter(record.key, record.value, kept, record.partition)
            except PermanentError as exc:
                refusal = exc
        raise SinkError(f"dead_letter_too_large: {refusal}") from refusal

    def _say(self, is_writable: bool, detail: str) -> None:
        if is_writable != self._is_writable:
            self._is_writable = is_writable
            self._post(self._on_writable, is_writable, detail)

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        if self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)


@dataclass(slots=True)
class _Letter:
    record: Record
    cause: DeadLetterCause
    done: asyncio.Future[LetterReceipt]


def _resolve(done: asyncio.Future[LetterReceipt], receipt: LetterReceipt) -> None:
    if not done.done():
        done.set_result(receipt)


class KafkaLetterTopic:
    """Letters in Kafka: in the record's own partition where there are as many, else by key."""

    def __init__(self, *, topic: str, brokers: str, client: dict[str, Any]) -> None:
        from sinks.backends.kafka import TopicWriter

        self._writer = TopicWriter(
            topic=topic, brokers=brokers, client=client, timeout_seconds=TIMEOUT_SECONDS
        )

    def write_letter(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> LetterReceipt:
        """See ``LetterTopic``."""
        from sinks.backends.kafka import translate

        record: dict[str, Any] = {"key": key, "value": value, "headers": headers}
        if partition < self._writer.partition_count():
            record["partition"] = partition
        report = self._writer.write([record])[0]
        if report.error is not None:
            raise translate(report.error, self._writer.topic)
        return LetterReceipt(
            topic=self._writer.topic, partition=report.partition, offset=report.offset
        )

    def close(self) -> None:
        """Release the producer."""
        self._writer.close()


def kafka_letters(
    config: DeadLettersConfig, *, topic: str, brokers: str, client: dict[str, Any]
) -> Callable[[], LetterTopic]:
    """Makes the letter topic of a cluster; ``brokers`` and ``client`` are the source's."""
    own_client = client if config.brokers is None else {}
    return lambda: KafkaLetterTopic(
        topic=topic, brokers=config.brokers or brokers, client={**own_client, **config.client}
    )
