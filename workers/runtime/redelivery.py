"""Deliver a dead letter's payload through its sink's lane again, with its first delivery id."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from domain.events import Delivered, Tell
from domain.trace_context import TRACEPARENT
from sinks.base import Delivery, SinkError, TransientError, size_bytes
from sinks.lane import Lane
from sinks.lane_queue import Entry, FailedAttempt, Outcome, OutcomeKind
from sinks.letter import decode_payload, payload_kind, split_headers
from sinks.record_headers import record_headers
from sinks.record_reader import read_record
from sinks.replay_sink import RedeliveryOutcome
from workers.broker.named_topics import named_topics
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.control import Answer, LetterArguments

READ_SECONDS = 10.0
DELIVER_SECONDS = 30.0


class LetterGone(Exception):
    """Letter that the dead-letter topic does not hold any more."""


class Redelivery:
    """Reads letters of the cluster's own dead-letter topic, and delivers their payloads."""

    def __init__(self, config: ClusterConfig, *, clock: Clock, tell: Tell) -> None:
        self._letters = named_topics(config)[1]
        self._clock = clock
        self._tell = tell

    async def __call__(self, asked: LetterArguments, lanes: Mapping[str, Lane]) -> Answer:
        """Deliver one payload; not done when it was refused or not stored within 30 s."""
        try:
            headers = await asyncio.to_thread(self._read, asked.partition, asked.offset)
            delivery = _delivery(headers, lanes)
        except LetterGone as exc:
            return _answer(RedeliveryOutcome.GONE, str(exc))
        except (ValueError, SinkError) as exc:
            return _answer(RedeliveryOutcome.REFUSED, str(exc))
        lane = lanes[delivery.payload.sink]
        waiting = _Waiting(asyncio.get_running_loop().create_future())
        entry = Entry(delivery, waiting, 0, size_bytes(delivery.payload))
        is_queued = False
        try:
            async with asyncio.timeout(DELIVER_SECONDS):
                await lane.submit([entry])
                is_queued = True
                outcome = await waiting.settled_future
        except TimeoutError:
            is_back = not is_queued or lane.withdraw([entry]) == 1
            detail = f"not stored within {DELIVER_SECONDS:g} s: {waiting.last or 'it waits'}"
            return _answer(
                RedeliveryOutcome.REFUSED if is_back else RedeliveryOutcome.UNKNOWN, detail
            )
        if outcome.kind is not OutcomeKind.DELIVERED:
            return _answer(RedeliveryOutcome.REFUSED, outcome.reason or "the handler skipped it")
        self._tell(_event(delivery, entry, outcome, self._clock.wall()))
        return _answer(RedeliveryOutcome.STORED, f"stored by sink {delivery.payload.sink}")

    def _read(self, partition: int, offset: int) -> dict[str, bytes]:
        """Read the letter's own headers and the original's trace. Raises LetterGone, SinkError."""
        letters = self._letters
        found = read_record(
            letters.topic, partition, offset, brokers=letters.brokers,
            client={"log_level": 0, **letters.client}, timeout_seconds=READ_SECONDS,
        )  # fmt: skip
        if found is None:
            raise LetterGone(f"{letters.topic} does not hold {partition}:{offset} any more")
        original, own = split_headers(record_headers(found))
        kept = [header for header in original if header[0] == TRACEPARENT]
        return {name: value for name, value in [*kept, *own] if value is not None}


class _Waiting:
    """Owner of one entry in a lane, which waits for its end."""

    def __init__(self, settled: asyncio.Future[Outcome]) -> None:
        self.settled_future = settled
        self.last = ""

    def settled(self, entry: Entry, outcome: Outcome) -> None:
        """Take the outcome: the lane is done with it."""
        if not self.settled_future.done():
            self.settled_future.set_result(outcome)

    def attempt_failed(self, entry: Entry, failed: FailedAttempt) -> None:
        """Do nothing: the lane goes on by itself."""
        self.last = failed.detail


def _delivery(headers: Mapping[str, bytes], lanes: Mapping[str, Lane]) -> Delivery:
    """Return the delivery as it was. Raises ValueError and TransientError."""
    raw = headers.get("drakkar-payload")
    if raw is None:
        raise ValueError("the letter holds no payload: replay it to the source")
    kind, name = payload_kind(raw)
    lane = lanes.get(name)
    if lane is None:
        raise ValueError(f"sink: expected one of {', '.join(lanes)}, got {name}")
    if not lane.is_opened:
        raise TransientError(f"sink {name} is not open: {lane.waiting_for or 'opening'}")
    if kind != lane.kind:
        raise ValueError(f"sink {name}: expected a payload of kind {lane.kind}, got {kind}")
    text = {name: content.decode("utf-8", "replace") for name, content in headers.items()}
    return Delivery(
        payload=decode_payload(raw, lane.payload),
        delivery_id=text["drakkar-delivery-id"],
        topic=text["drakkar-origin-topic"],
        partition=int(text["drakkar-origin-partition"]),
        offset=int(text["drakkar-origin-offset"]),
        task_id=text.get("drakkar-task-id") or None,
        traceparent=text.get("traceparent"),
    )


def _answer(arrival: RedeliveryOutcome, detail: str) -> Answer:
    return Answer(
        is_done=arrival is RedeliveryOutcome.STORED,
        detail=detail,
        result={"arrival": arrival.value},
    )


def _event(delivery: Delivery, entry: Entry, outcome: Outcome, at: float) -> Delivered:
    return Delivered(
        at=at,
        topic=delivery.topic,
        partition=delivery.partition,
        offset=delivery.offset,
        task_id=delivery.task_id,
        sink=delivery.payload.sink,
        sink_kind=delivery.payload.kind,
        delivery_id=delivery.delivery_id,
        attempt=entry.attempt,
        duration_ms=outcome.duration_seconds * 1000.0,
        queue_ms=max(0.0, entry.started_at - entry.queued_at) * 1000.0,
    )
