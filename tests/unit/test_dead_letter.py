"""What a letter says, and how letters wait for their topic."""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import UTC, date, datetime, timedelta, timezone
from types import MappingProxyType
from typing import Any

import orjson
import pytest

from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.message import Message, Record
from domain.parking import ParkingCause
from domain.payload import (
    HttpPayload,
    KafkaPayload,
    MemoryPayload,
    Payload,
    PostgresPayload,
    Upsert,
)
from sinks.base import ConfigError, PermanentError, TransientError, UnknownError
from sinks.dead_letter import DeadLetterWriter
from sinks.letter import TEXT_LIMIT, LetterStamp, encode_payload, letter_headers
from sinks.record_writer import RecordHold, RecordReceipt

DEADLINE_SECONDS = 10.0
AT = datetime(2026, 1, 2, 3, 4, 5, 678000, tzinfo=UTC)
STAMP = LetterStamp(cluster="main", group="g", worker="w-1")
Headers = list[tuple[str, bytes | None]]


def record(offset: int = 7, partition: int = 3, headers: Any = ()) -> Record:
    return Message(
        topic="requests",
        partition=partition,
        offset=offset,
        key=b"\xff\x00key",
        value=b"\x00\xfevalue",
        headers=headers,
        timestamp=1,
        payload=None,
    )


def cause(**fields: Any) -> DeadLetterCause:
    defaults: dict[str, Any] = {
        "stage": Stage.DELIVER,
        "kind": FailureKind.DELIVERY,
        "reason": "refused",
        "traceback": "Traceback ...",
        "attempts": 4,
        "task_id": "3:7:0",
        "sink": "rows",
        "delivery_id": "main/requests/3/7",
    }
    return DeadLetterCause(**{**defaults, **fields})


def test_every_header_after_the_originals_own() -> None:
    own: Headers = [("traceparent", b"00-x"), ("odd", None), ("odd", b"\xff")]
    written = letter_headers(record(headers=own), cause(), STAMP, AT.timestamp())
    assert written[:3] == own
    assert dict(written[3:]) == {
        "drakkar-cluster": b"main",
        "drakkar-group": b"g",
        "drakkar-origin-topic": b"requests",
        "drakkar-origin-partition": b"3",
        "drakkar-origin-offset": b"7",
        "drakkar-stage": b"deliver",
        "drakkar-failure-kind": b"delivery",
        "drakkar-reason": b"refused",
        "drakkar-attempts": b"4",
        "drakkar-task-id": b"3:7:0",
        "drakkar-sink": b"rows",
        "drakkar-worker": b"w-1",
        "drakkar-time": b"2026-01-02T03:04:05.678000+00:00",
        "drakkar-delivery-id": b"main/requests/3/7",
        "drakkar-traceback": b"Traceback ...",
    }


def test_texts_are_bounded_and_keep_what_matters() -> None:
    long = cause(reason="r" * 10 * TEXT_LIMIT, traceback="begin " + "x" * TEXT_LIMIT + " end")
    headers = dict(letter_headers(record(), long, STAMP, 0.0))
    reason, trace = headers["drakkar-reason"], headers["drakkar-traceback"]
    assert reason == b"r" * TEXT_LIMIT
    assert trace is not None
    assert len(trace) == TEXT_LIMIT
    assert trace.endswith(b" end")


def test_a_reason_that_is_not_unicode_goes_out_all_the_same() -> None:
    headers = dict(letter_headers(record(), cause(reason="a\ud800b"), STAMP, 0.0))
    assert headers["drakkar-reason"] == b"a?b"


def test_the_payload_is_json_of_kind_sink_and_fields() -> None:
    payload = KafkaPayload(sink="out", value=b"\xff\x01", key="k", headers={"h": b"v"})
    headers = dict(letter_headers(record(), cause(payload=payload), STAMP, 0.0))
    assert orjson.loads(headers["drakkar-payload"] or b"") == {
        "kind": "kafka",
        "sink": "out",
        "fields": {
            "value": {"$bytes": base64.b64encode(b"\xff\x01").decode()},
            "key": "k",
            "headers": {"h": {"$bytes": "dg=="}},
            "delivery_key": None,
        },
    }


ZONE = timezone(timedelta(hours=2))


@pytest.mark.parametrize(
    ("value", "encoded"),
    [
        (AT, {"$time": "2026-01-02T03:04:05.678000+00:00"}),
        (datetime(2026, 1, 2, 3, 4, 5, tzinfo=ZONE), {"$time": "2026-01-02T03:04:05+02:00"}),
        (bytearray(b"a"), {"$bytes": "YQ=="}),
        ({"deep": [(b"a",), {1: AT}]}, None),
        (date(2026, 1, 2), {"$date": "2026-01-02"}),
        (2**70, 2**70),
        ("lone \ud800", "lone \ud800"),
        (MappingProxyType({"a": 1}), {"a": 1}),
    ],
)
def test_values_json_cannot_say(value: object, encoded: object) -> None:
    body = json.loads(encode_payload(MemoryPayload(sink="s", value=value)))
    if encoded is None:
        map_of_one = {"$map": [[1, {"$time": AT.isoformat()}]]}
        encoded = {"deep": [{"$tuple": [{"$bytes": "YQ=="}]}, map_of_one]}
    assert body["fields"]["value"] == encoded


def test_an_upsert_is_told_by_its_keys() -> None:
    payload = PostgresPayload(sink="s", row={"a": 1}, on_conflict=Upsert(keys=["a"]))
    fields = orjson.loads(encode_payload(payload))["fields"]
    assert fields["on_conflict"] == {"keys": ["a"], "columns": None}


def test_a_payload_that_cannot_be_encoded_is_told_as_text() -> None:
    class Rude:
        def __str__(self) -> str:
            raise OSError("no text")

    circle: list[object] = []
    circle.append(circle)
    for value in (Rude(), circle, 1 + 2j, {"a": [object()]}):
        body = orjson.loads(encode_payload(HttpPayload(sink="s", json=value)))
        assert body["kind"] == "http"
        assert "json" in body["fields"]["$unencodable"]


class Topic:
    """A letter topic that refuses what ``refuse`` says: ``(offset, headers) -> error``."""

    def __init__(self) -> None:
        self.refuse: Callable[[int, dict[str, bytes | None]], Exception | None] = lambda *_: None
        self.stored: list[tuple[int, dict[str, bytes | None]]] = []
        self.tried: list[int] = []

    def write_record(
        self, key: bytes | None, value: bytes | None, headers: Headers, partition: int
    ) -> RecordReceipt:
        named = dict(headers)
        offset = int(named["drakkar-origin-offset"] or b"")
        self.tried.append(offset)
        if (error := self.refuse(offset, named)) is not None:
            raise error
        assert (key, value) == (b"\xff\x00key", b"\x00\xfevalue")
        self.stored.append((offset, named))
        return RecordReceipt(topic="dlq", partition=partition, offset=len(self.stored) - 1)

    def close(self) -> None:
        """Nothing to release."""


class Holds:
    """What the writer tells of partitions that wait."""

    def __init__(self) -> None:
        self.told: list[RecordHold] = []
        self._changed = asyncio.Event()

    def __call__(self, hold: RecordHold) -> None:
        self.told.append(hold)
        self._changed.set()

    async def until(self, is_there: Callable[[list[tuple[int, str, bool]]], bool]) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not is_there([(h.partition, h.cause, h.is_held) for h in self.told]):
                self._changed.clear()
                await self._changed.wait()


@asynccontextmanager
async def writing(topic: Topic, aside_seconds: float = 0.05) -> AsyncIterator[Any]:
    holds = Holds()
    writer = DeadLetterWriter(
        lambda: topic,
        STAMP,
        wall=lambda: AT.timestamp(),
        on_hold=holds,
        aside_seconds=aside_seconds,
    )
    writer.start(asyncio.get_running_loop())
    try:
        yield writer, holds
    finally:
        assert await asyncio.to_thread(writer.close, DEADLINE_SECONDS)


async def soon(receipt: asyncio.Task[RecordReceipt]) -> RecordReceipt:
    return await asyncio.wait_for(receipt, DEADLINE_SECONDS)


def too_large(limit: int) -> Callable[[int, dict[str, bytes | None]], Exception | None]:
    def refuse(offset: int, headers: dict[str, bytes | None]) -> Exception | None:
        size = sum(len(value or b"") for value in headers.values())
        return PermanentError(f"{size} bytes") if size > limit else None

    return refuse


@pytest.mark.parametrize(("limit", "lost"), [(1600, {"payload"}), (600, {"payload", "traceback"})])
def test_a_letter_too_large_loses_payload_then_traceback(limit: int, lost: set[str]) -> None:
    async def scenario() -> None:
        topic = Topic()
        topic.refuse = too_large(limit)
        payload: Payload = MemoryPayload(sink="s", value="v" * 1000)
        async with writing(topic) as (writer, holds):
            await writer.write(record(), cause(payload=payload, traceback="t" * 1000))
            assert not holds.told
        ((_, headers),) = topic.stored
        for name in ("payload", "traceback"):
            assert (f"drakkar-{name}" in headers) == (name not in lost)
        assert headers["drakkar-reason"] == b"refused"

    asyncio.run(scenario())


def test_a_letter_too_large_keeps_the_originals_headers_whatever_their_names() -> None:
    async def scenario() -> None:
        topic = Topic()
        topic.refuse = too_large(600)
        payload: Payload = MemoryPayload(sink="s", value="v" * 1000)
        original = record(headers=[("drakkar-payload", b"of an earlier letter")])
        async with writing(topic) as (writer, _):
            await writer.write(original, cause(payload=payload, traceback="t" * 1000))
        ((_, headers),) = topic.stored
        assert headers["drakkar-payload"] == b"of an earlier letter"
        assert "drakkar-traceback" not in headers

    asyncio.run(scenario())


def test_one_too_large_without_both_holds_its_partition_alone_until_it_fits() -> None:
    async def scenario() -> None:
        topic = Topic()
        topic.refuse = lambda offset, _: PermanentError("too large") if offset == 7 else None
        async with writing(topic) as (writer, holds):
            held = asyncio.create_task(writer.write(record(7, partition=3), cause()))
            await holds.until(lambda told: told == [(3, ParkingCause.DEAD_LETTER_TOO_LARGE, True)])
            assert "requests offset 7: too large" in holds.told[0].detail
            other = await writer.write(record(8, partition=4), cause())
            assert (other.partition, held.done()) == (4, False)
            topic.refuse = lambda *_: None
            assert (await soon(held)).partition == 3
            await holds.until(
                lambda told: told[1:] == [(3, ParkingCause.DEAD_LETTER_TOO_LARGE, False)]
            )

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [RuntimeError("bug"), UnknownError("code 999")])
def test_a_letter_that_breaks_the_writer_holds_its_partition_alone(error: Exception) -> None:
    """So does one with which an error comes that no table knows."""

    async def scenario() -> None:
        topic = Topic()
        topic.refuse = lambda offset, _: error if offset == 7 else None
        async with writing(topic) as (writer, holds):
            held = asyncio.create_task(writer.write(record(7), cause()))
            await holds.until(lambda told: told == [(3, ParkingCause.DEAD_LETTERS, True)])
            await writer.write(record(8, partition=4), cause())
            topic.refuse = lambda *_: None
            await soon(held)

    asyncio.run(scenario())


@pytest.mark.parametrize("error", [TransientError("away"), ConfigError("no such topic")])
def test_a_topic_that_takes_nothing_holds_each_partition_with_a_letter(error: Exception) -> None:
    async def scenario() -> None:
        topic = Topic()
        topic.refuse = lambda *_: error
        async with writing(topic) as (writer, holds):
            letters = [asyncio.create_task(writer.write(record(1, partition=1), cause()))]
            await holds.until(lambda told: told == [(1, ParkingCause.DEAD_LETTERS, True)])
            assert str(error) in holds.told[0].detail
            letters.append(asyncio.create_task(writer.write(record(2, partition=2), cause())))
            await holds.until(lambda told: told[1:] == [(2, ParkingCause.DEAD_LETTERS, True)])
            assert topic.tried.count(2) == 0
            topic.refuse = lambda *_: None
            await asyncio.gather(*map(soon, letters))
            free = {(1, ParkingCause.DEAD_LETTERS, False), (2, ParkingCause.DEAD_LETTERS, False)}
            await holds.until(lambda told: set(told[2:]) == free)
        assert [offset for offset, _ in topic.stored] == [1, 2]

    asyncio.run(scenario())


def test_a_letter_nobody_waits_for_any_more_is_not_tried_again() -> None:
    async def scenario() -> None:
        topic = Topic()
        topic.refuse = lambda *_: PermanentError("too large")
        async with writing(topic, aside_seconds=0.5) as (writer, holds):
            given_up = asyncio.create_task(writer.write(record(7), cause()))
            await holds.until(lambda told: told == [(3, ParkingCause.DEAD_LETTER_TOO_LARGE, True)])
            given_up.cancel()
            await holds.until(
                lambda told: told[1:] == [(3, ParkingCause.DEAD_LETTER_TOO_LARGE, False)]
            )
        assert not topic.stored
        assert topic.tried == [7, 7, 7]

    asyncio.run(scenario())


def test_closing_leaves_waiting_letters_unwritten() -> None:
    async def scenario() -> None:
        topic = Topic()
        topic.refuse = lambda *_: TransientError("away")
        async with writing(topic) as (writer, holds):
            letter = asyncio.create_task(writer.write(record(), cause()))
            await holds.until(bool)
        assert not letter.done()
        letter.cancel()

    asyncio.run(scenario())
