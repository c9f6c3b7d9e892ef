"""Dead letters: the original record byte for byte, and headers that say why it is here.

A letter is written or waits: ``write`` returns only when the topic has it (law 5). A topic
that takes nothing holds every letter; one letter too large is set aside and holds its partition.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Protocol

from domain.failure import DeadLetterCause
from domain.message import Record
from domain.parking import ParkingCause
from domain.retry import Backoff
from sinks.base import PermanentError, SinkError, UnknownError
from sinks.chance import chance
from sinks.config import DeadLettersConfig
from sinks.letter import LetterStamp, letter_headers

TIMEOUT_SECONDS = 10.0
BACKOFF = Backoff(initial_seconds=0.5, factor=2, max_seconds=10, jitter=0.2)
ANEW_ATTEMPTS = 8
"""Failures in a row, about a minute, after which the topic's client is made anew."""
ASIDE_SECONDS = 10.0
"""When a letter set aside is tried again: an operator may have raised the topic's limit."""
LIGHTER = ("drakkar-payload", "drakkar-traceback")
"""Headers that a letter too large for the topic loses, in this order."""
HASTE_SECONDS = 0.5
"""Longest rest while an epoch ends."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterReceipt:
    """Place where a letter was stored."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterHold:
    """A partition of the source waits for a letter of its own (``is_held``), or no longer does."""

    topic: str
    partition: int
    cause: ParkingCause
    is_held: bool
    detail: str = ""


class LetterTopic(Protocol):
    """Topic of letters; one record at a time, from the writer's own thread."""

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


class DeadLetterWriter:
    """Writes letters one after the other on a thread of its own; the happy path never comes here.

    ``on_hold`` is called on the loop when a partition begins or ceases to wait for a letter.
    """

    def __init__(
        self,
        topic: Callable[[], LetterTopic],
        stamp: LetterStamp,
        *,
        wall: Callable[[], float],
        on_hold: Callable[[LetterHold], None],
        aside_seconds: float = ASIDE_SECONDS,
    ) -> None:
        self._make_topic = topic
        self._stamp = stamp
        self._wall = wall
        self._on_hold = on_hold
        self._letters: queue.SimpleQueue[_Letter | None] = queue.SimpleQueue()
        self._line = _Line(aside_seconds)
        self._holds: Counter[tuple[str, int, ParkingCause]] = Counter()
        self._is_hasty = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._main, name="dead-letters", daemon=True)
        self._loop: asyncio.AbstractEventLoop | None = None

    @property
    def cluster(self) -> str:
        """Whose letters these are."""
        return self._stamp.cluster

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

    def hasten(self) -> None:
        """Try the topic again soon: an epoch that ends cannot wait as long as the writer rests."""
        if not self._is_hasty:
            self._is_hasty = True
            self._letters.put(None)

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
        while not self._closing.is_set():
            if self._is_hasty:
                self._is_hasty = False
                self._line.hasten(time.monotonic())
            letter = self._line.next(time.monotonic())
            if letter is None:
                self._take_in()
            elif letter.done.cancelled():
                self._free(letter)
            else:
                self._try(topic, letter)
        topic.close()

    def _take_in(self) -> None:
        """Wait for a new letter, until one of those in line is due."""
        with suppress(queue.Empty):
            letter = self._letters.get(timeout=self._line.wait_seconds(time.monotonic()))
            if letter is not None:
                self._line.add(letter)
                if self._line.refusal:
                    self._hold(letter, ParkingCause.DEAD_LETTERS, self._line.refusal)

    def _try(self, topic: LetterTopic, letter: _Letter) -> None:
        try:
            receipt = self._write_once(topic, letter)
        except PermanentError as exc:
            self._set_aside(letter, ParkingCause.DEAD_LETTER_TOO_LARGE, str(exc))
        except UnknownError as exc:
            self._set_aside(letter, ParkingCause.DEAD_LETTERS, str(exc))
            topic.close()  # whoever is at fault, the next try is made over another client
        except SinkError as exc:
            refusal = f"the dead-letter topic takes no letter: {exc}"
            self._line.topic_is_down(letter, refusal, time.monotonic())
            if self._line.attempts % ANEW_ATTEMPTS == 0:
                topic.close()  # its client may answer and be of no use: the next try makes another
            for waiting in self._line.waiting():
                self._hold(waiting, ParkingCause.DEAD_LETTERS, self._line.refusal)
        except Exception as exc:  # noqa: BLE001 - one strange letter must not end the thread
            self._set_aside(letter, ParkingCause.DEAD_LETTERS, f"{type(exc).__name__}: {exc}")
        else:
            self._line.topic_is_up()
            self._free(letter)
            self._post(_resolve, letter.done, receipt)

    def _write_once(self, topic: LetterTopic, letter: _Letter) -> LetterReceipt:
        """Store it, as light as need be. Raises PermanentError when that was not enough."""
        record = letter.record
        headers = letter_headers(record, letter.cause, self._stamp, self._wall())
        dropped = 0
        while True:
            kept = [
                header
                for place, header in enumerate(headers)
                if place < len(record.headers) or header[0] not in LIGHTER[:dropped]
            ]
            try:
                return topic.write_letter(record.key, record.value, kept, record.partition)
            except PermanentError:
                if dropped == len(LIGHTER):
                    raise
                dropped += 1

    def _set_aside(self, letter: _Letter, cause: ParkingCause, detail: str) -> None:
        self._line.set_aside(letter, time.monotonic())
        where = f"letter of {letter.record.topic} offset {letter.record.offset}"
        self._hold(letter, cause, f"{where}: {detail}")

    def _hold(self, letter: _Letter, cause: ParkingCause, detail: str) -> None:
        if letter.held_for == cause:
            return
        self._free(letter)
        letter.held_for = cause
        where = (letter.record.topic, letter.record.partition, cause)
        self._holds[where] += 1
        self._say(where, is_held=True, detail=detail)

    def _free(self, letter: _Letter) -> None:
        if letter.held_for is None:
            return
        where = (letter.record.topic, letter.record.partition, letter.held_for)
        letter.held_for = None
        self._holds[where] -= 1
        if not self._holds[where]:
            del self._holds[where]
            self._say(where, is_held=False)

    def _say(
        self, where: tuple[str, int, ParkingCause], *, is_held: bool, detail: str = ""
    ) -> None:
        topic, partition, cause = where
        hold = LetterHold(
            topic=topic, partition=partition, cause=cause, is_held=is_held, detail=detail
        )
        self._post(self._on_hold, hold)

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        """Tell the loop; a loop already closed wants to hear nothing more."""
        with suppress(RuntimeError):
            if self._loop is not None:
                self._loop.call_soon_threadsafe(call, *args)


class _Line:
    """Order of the letters. ``refusal`` is why the topic takes none now, or empty; ``attempts``
    how often it refused in a row."""

    def __init__(self, aside_seconds: float) -> None:
        self.refusal = ""
        self._aside_seconds = aside_seconds
        self._waiting: deque[_Letter] = deque()
        self._aside: deque[tuple[float, _Letter]] = deque()
        self._rest_until = 0.0
        self.attempts = 0

    def add(self, letter: _Letter) -> None:
        """At the end."""
        self._waiting.append(letter)

    def next(self, now: float) -> _Letter | None:
        """Return the letter to try now, taken out of the line."""
        if now < self._rest_until:
            return None
        if self._aside and self._aside[0][0] <= now:
            return self._aside.popleft()[1]
        return self._waiting.popleft() if self._waiting else None

    def wait_seconds(self, now: float) -> float | None:
        """Return the seconds until a letter is due; None when none is in line."""
        if self._waiting:
            return max(0.0, self._rest_until - now)
        return max(0.0, self._rest_until - now, self._aside[0][0] - now) if self._aside else None

    def waiting(self) -> Iterator[_Letter]:
        """Those that only wait for the topic."""
        return iter(self._waiting)

    def set_aside(self, letter: _Letter, now: float) -> None:
        """Not again before ``aside_seconds`` have passed."""
        self._aside.append((now + self._aside_seconds, letter))

    def topic_is_down(self, letter: _Letter, refusal: str, now: float) -> None:
        """This one is first again, after a rest."""
        self._waiting.appendleft(letter)
        self.refusal = refusal
        self.attempts += 1
        self._rest_until = now + BACKOFF.delay_seconds(self.attempts, chance())

    def hasten(self, now: float) -> None:
        """Rest no longer than a moment."""
        self._rest_until = min(self._rest_until, now + HASTE_SECONDS)

    def topic_is_up(self) -> None:
        """Forget the refusal: the topic took a letter."""
        self.refusal, self.attempts, self._rest_until = "", 0, 0.0


@dataclass(slots=True)
class _Letter:
    record: Record
    cause: DeadLetterCause
    done: asyncio.Future[LetterReceipt]
    held_for: ParkingCause | None = None


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
        """Write as ``LetterTopic`` says."""
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
