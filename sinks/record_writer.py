"""Writes records of the source to another topic, each until that topic has it.

``write`` returns only when the record is stored. A topic that takes nothing holds every record; one
that is too large is set aside and holds its partition, or is refused, as ``Trouble`` says.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from domain.message import Header, Record
from domain.parking import ParkingCause
from domain.retry import Backoff
from sinks.base import PermanentError, SinkError, UnknownError
from sinks.chance import chance

TIMEOUT_SECONDS = 10.0
BACKOFF = Backoff(initial_seconds=0.5, factor=2, max_seconds=10, jitter=0.2)
ANEW_ATTEMPTS = 8
"""Failures in a row, about a minute, after which the topic's client is made anew."""
ASIDE_SECONDS = 10.0
"""When a record set aside is tried again: an operator may have raised the topic's limit."""
HASTE_SECONDS = 0.5
"""Longest rest while an epoch ends."""

Headers = list[Header]


class TooLarge(Exception):
    """Raised for a record that the topic does not take however light it is made."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trouble:
    """How a writer's troubles are told: the name of its thread, in words that the topic takes
    nothing (``what``), and for what a partition is parked meanwhile. ``too_large`` None: a record
    too large is refused (``TooLarge``)."""

    thread: str
    what: str
    refused: ParkingCause
    too_large: ParkingCause | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordReceipt:
    """Place where a record was stored."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordHold:
    """A partition of the source waits for a record of its own (``is_held``), or no longer does."""

    topic: str
    partition: int
    cause: ParkingCause
    is_held: bool
    detail: str = ""


class RecordTopic(Protocol):
    """Topic that records are written to; one at a time, from the writer's own thread."""

    def write_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> RecordReceipt:
        """Store it. Raises SinkError; PermanentError when the record is too large."""

    def close(self) -> None:
        """Release everything."""


class RecordWriter:
    """Writes records one after the other on a thread of its own.

    ``on_hold`` is called on the loop when a partition begins or ceases to wait for a record.
    """

    def __init__(
        self,
        topic: Callable[[], RecordTopic],
        trouble: Trouble,
        *,
        on_hold: Callable[[RecordHold], None],
        aside_seconds: float = ASIDE_SECONDS,
    ) -> None:
        self._make_topic = topic
        self._trouble = trouble
        self._on_hold = on_hold
        self._entries: queue.SimpleQueue[_Entry | None] = queue.SimpleQueue()
        self._line = _Line(aside_seconds)
        self._holds: Counter[tuple[str, int, ParkingCause]] = Counter()
        self._is_hasty = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name=trouble.thread, daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin to serve; nothing is connected before the first record."""
        self._loop = loop
        self._thread.start()

    async def write(self, record: Record, forms: Callable[[], Iterable[Headers]]) -> RecordReceipt:
        """Write a record with the first of these headers with which it is not too large, however
        long it takes. Cancelled: it may or may not have been written. Raises TooLarge."""
        loop = asyncio.get_running_loop()
        entry = _Entry(record, forms, loop.create_future())
        self._entries.put(entry)
        return await entry.done

    def hasten(self) -> None:
        """Try the topic again soon: an epoch that ends cannot wait as long as the writer rests."""
        if not self._is_hasty:
            self._is_hasty = True
            self._entries.put(None)

    def close(self, timeout_seconds: float) -> bool:
        """End the thread; records that still wait stay unwritten, their offsets do not pass."""
        self._closing.set()
        self._entries.put(None)
        if self._thread.ident is None:
            return True
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _main(self) -> None:
        topic = self._make_topic()
        while not self._closing.is_set():
            if self._is_hasty:
                self._is_hasty = False
                self._line.hasten(time.monotonic())
            entry = self._line.next(time.monotonic())
            if entry is None:
                self._take_in()
            elif entry.done.cancelled():
                self._free(entry)
            else:
                self._try(topic, entry)
        topic.close()

    def _take_in(self) -> None:
        """Wait for a new record, until one of those in line is due."""
        with suppress(queue.Empty):
            entry = self._entries.get(timeout=self._line.wait_seconds(time.monotonic()))
            if entry is not None:
                self._line.add(entry)
                if self._line.refusal:
                    self._hold(entry, self._trouble.refused, self._line.refusal)

    def _try(self, topic: RecordTopic, entry: _Entry) -> None:
        try:
            receipt = _write_once(topic, entry)
        except PermanentError as exc:
            self._too_large(entry, exc)
        except UnknownError as exc:
            self._set_aside(entry, self._trouble.refused, str(exc))
            topic.close()  # whoever is at fault, the next try is made over another client
        except SinkError as exc:
            refusal = f"{self._trouble.what}: {exc}"
            self._line.topic_is_down(entry, refusal, time.monotonic())
            if self._line.attempts % ANEW_ATTEMPTS == 0:
                topic.close()  # its client may answer and be of no use: the next try makes another
            for waiting in self._line.waiting():
                self._hold(waiting, self._trouble.refused, self._line.refusal)
        except Exception as exc:  # noqa: BLE001 - one strange record must not end the thread
            self._set_aside(entry, self._trouble.refused, f"{type(exc).__name__}: {exc}")
        else:
            self._line.topic_is_up()
            self._free(entry)
            self._post(_resolve, entry.done, receipt)

    def _too_large(self, entry: _Entry, error: PermanentError) -> None:
        if self._trouble.too_large is not None:
            self._set_aside(entry, self._trouble.too_large, str(error))
            return
        self._free(entry)
        self._post(_refuse, entry.done, TooLarge(str(error)))

    def _set_aside(self, entry: _Entry, cause: ParkingCause, detail: str) -> None:
        self._line.set_aside(entry, time.monotonic())
        where = f"record of {entry.record.topic} offset {entry.record.offset}"
        self._hold(entry, cause, f"{where}: {detail}")

    def _hold(self, entry: _Entry, cause: ParkingCause, detail: str) -> None:
        if entry.held_for == cause:
            return
        self._free(entry)
        entry.held_for = cause
        where = (entry.record.topic, entry.record.partition, cause)
        self._holds[where] += 1
        self._say(where, is_held=True, detail=detail)

    def _free(self, entry: _Entry) -> None:
        if entry.held_for is None:
            return
        where = (entry.record.topic, entry.record.partition, entry.held_for)
        entry.held_for = None
        self._holds[where] -= 1
        if not self._holds[where]:
            del self._holds[where]
            self._say(where, is_held=False)

    def _say(
        self, where: tuple[str, int, ParkingCause], *, is_held: bool, detail: str = ""
    ) -> None:
        topic, partition, cause = where
        hold = RecordHold(
            topic=topic, partition=partition, cause=cause, is_held=is_held, detail=detail
        )
        self._post(self._on_hold, hold)

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        """Tell the loop; a loop already closed wants to hear nothing more."""
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call, *args)


def _write_once(topic: RecordTopic, entry: _Entry) -> RecordReceipt:
    """Store it, as light as need be. Raises PermanentError when that was not enough."""
    record, error = entry.record, None
    for headers in entry.forms():
        try:
            return topic.write_record(record.key, record.value, headers, record.partition)
        except PermanentError as exc:
            error = exc
    raise error or PermanentError("no form of the record")


class _Line:
    """Order of the records. ``refusal`` is why the topic takes none now, or empty; ``attempts``
    how often it refused in a row."""

    def __init__(self, aside_seconds: float) -> None:
        self.refusal = ""
        self._aside_seconds = aside_seconds
        self._waiting: deque[_Entry] = deque()
        self._aside: deque[tuple[float, _Entry]] = deque()
        self._rest_until = 0.0
        self.attempts = 0

    def add(self, entry: _Entry) -> None:
        """At the end."""
        self._waiting.append(entry)

    def next(self, now: float) -> _Entry | None:
        """Return the record to try now, taken out of the line."""
        if now < self._rest_until:
            return None
        if self._aside and self._aside[0][0] <= now:
            return self._aside.popleft()[1]
        return self._waiting.popleft() if self._waiting else None

    def wait_seconds(self, now: float) -> float | None:
        """Return the seconds until a record is due; None when none is in line."""
        if self._waiting:
            return max(0.0, self._rest_until - now)
        return max(0.0, self._rest_until - now, self._aside[0][0] - now) if self._aside else None

    def waiting(self) -> Iterator[_Entry]:
        """Those that only wait for the topic."""
        return iter(self._waiting)

    def set_aside(self, entry: _Entry, now: float) -> None:
        """Not again before ``aside_seconds`` have passed."""
        self._aside.append((now + self._aside_seconds, entry))

    def topic_is_down(self, entry: _Entry, refusal: str, now: float) -> None:
        """This one is first again, after a rest."""
        self._waiting.appendleft(entry)
        self.refusal = refusal
        self.attempts += 1
        self._rest_until = now + BACKOFF.delay_seconds(self.attempts, chance())

    def hasten(self, now: float) -> None:
        """Rest no longer than a moment."""
        self._rest_until = min(self._rest_until, now + HASTE_SECONDS)

    def topic_is_up(self) -> None:
        """Forget the refusal: the topic took a record."""
        self.refusal, self.attempts, self._rest_until = "", 0, 0.0


@dataclass(slots=True)
class _Entry:
    record: Record
    forms: Callable[[], Iterable[Headers]]
    done: asyncio.Future[RecordReceipt]
    held_for: ParkingCause | None = None


def _resolve(done: asyncio.Future[RecordReceipt], receipt: RecordReceipt) -> None:
    if not done.done():
        done.set_result(receipt)


def _refuse(done: asyncio.Future[RecordReceipt], error: TooLarge) -> None:
    if not done.done():
        done.set_exception(error)


class KafkaRecordTopic:
    """Records in Kafka: in the record's own partition where there are as many, else by key."""

    def __init__(self, *, topic: str, brokers: str, client: dict[str, Any]) -> None:
        from sinks.backends.kafka import TopicWriter

        self._writer = TopicWriter(
            topic=topic, brokers=brokers, client=client, timeout_seconds=TIMEOUT_SECONDS
        )

    def write_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> RecordReceipt:
        """Write as ``RecordTopic`` says."""
        from sinks.backends.kafka import translate

        record: dict[str, Any] = {"key": key, "value": value, "headers": headers}
        if partition < self._writer.partition_count():
            record["partition"] = partition
        report = self._writer.write([record])[0]
        if report.error is not None:
            raise translate(report.error, self._writer.topic)
        return RecordReceipt(
            topic=self._writer.topic, partition=report.partition, offset=report.offset
        )

    def close(self) -> None:
        """Release the producer."""
        self._writer.close()
