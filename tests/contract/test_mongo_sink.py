"""What each op of the mongo sink leaves on a real server, delivered once and again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from pymongo import MongoClient
from pymongo.database import Database

from domain.payload import MongoPayload
from integration.services.mongo import RunningMongo
from sinks.backends.mongo import MongoSink, MongoSinkConfig
from sinks.base import Delivery, PermanentError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, delivery
from tests.support.lanes import deliver


@dataclass(frozen=True)
class Place:
    """A sink with a database of its own, and the driver to look with."""

    sink: MongoSink
    database: Database[dict[str, Any]]

    def deliver(self, *payloads: MongoPayload) -> list[Delivery]:
        batch = [delivery(payload, f"d{number}") for number, payload in enumerate(payloads)]
        deliver(self.sink, batch)
        return batch

    def found(self, collection: str = "results") -> list[dict[str, Any]]:
        return sorted(self.database[collection].find(), key=lambda one: str(one["_id"]))


@pytest.fixture
def place(mongo_server: RunningMongo) -> Iterator[Place]:
    name = f"d{uuid4().hex}"
    config = MongoSinkConfig(
        kind="mongo", uri=mongo_server.uri, database=name, collection="results"
    )
    sink = MongoSink(
        config, SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
    )
    with MongoClient[dict[str, Any]](mongo_server.uri) as client:
        yield Place(sink, client[name])
    sink.close()


def payload(document: dict[str, Any], op: Any = "upsert", **more: Any) -> MongoPayload:
    return MongoPayload(sink=SINK, document=document, op=op, **more)


BY_KEY = payload({"name": "x", "n": 2}, key={"name": "x"})
SET = payload({"$set": {"n": 9}}, "update", key={"name": "x"})

CASES: dict[str, tuple[list[MongoPayload], list[dict[str, Any]]]] = {
    "upsert": ([payload({"n": 1})], [{"_id": "d0", "n": 1}]),
    "upsert by its own id": ([payload({"_id": 7, "n": 1})], [{"_id": 7, "n": 1}]),
    "upsert replaces": (
        [payload({"_id": 7, "old": 1}), payload({"_id": 7, "n": 1})],
        [{"_id": 7, "n": 1}],
    ),
    "insert": ([payload({"n": 1}, "insert")], [{"_id": "d0", "n": 1}]),
    "insert leaves one that is there": (
        [payload({"_id": 7, "n": 1}, "insert"), payload({"_id": 7, "n": 2}, "insert")],
        [{"_id": 7, "n": 1}],
    ),
    "upsert by a key makes one": ([BY_KEY], [{"_id": "d0", "name": "x", "n": 2}]),
    "upsert by a key sets fields": (
        [payload({"name": "x", "n": 1, "more": 1}), BY_KEY],
        [{"_id": "d0", "name": "x", "n": 2, "more": 1}],
    ),
    "update": ([payload({"name": "x", "n": 1}), SET], [{"_id": "d0", "name": "x", "n": 9}]),
    "update makes nothing": ([SET], []),
}


@pytest.mark.parametrize(("payloads", "expected"), CASES.values(), ids=CASES.keys())
def test_an_op_delivered_twice(
    place: Place, payloads: list[MongoPayload], expected: list[dict[str, Any]]
) -> None:
    batch = place.deliver(*payloads)
    assert place.found() == expected
    deliver(place.sink, batch)
    assert place.found() == expected


def test_a_payload_may_name_another_collection(place: Place) -> None:
    place.deliver(payload({"n": 1}), payload({"n": 2}, collection="others"))
    assert place.found() == [{"_id": "d0", "n": 1}]
    assert place.found("others") == [{"_id": "d1", "n": 2}]


def test_each_refused_payload_of_a_batch_is_named(place: Place) -> None:
    place.database["results"].create_index("u", unique=True, sparse=True)
    place.deliver(payload({"_id": "first", "u": 1}))
    with pytest.raises(PermanentError, match="11000") as caught:
        place.deliver(
            payload({"n": 1}),
            payload({"u": 1}, "insert"),
            payload({"n": 2}, collection="others"),
            payload({"u": object()}),
            payload({"$set": {}}, "update"),
        )
    assert caught.value.bad_indices == (1, 3, 4)
    assert [one["_id"] for one in place.found()] == ["d0", "first"]
    assert place.found("others") == [{"_id": "d2", "n": 2}]


def test_a_late_insert_that_is_stored_counts_as_stored(place: Place) -> None:
    """Though its own former self holds the unique value."""
    place.database["results"].create_index("u", unique=True, sparse=True)
    batch = place.deliver(payload({"u": 1}, "insert"))
    deliver(place.sink, batch)
    assert place.found() == [{"_id": "d0", "u": 1}]


@pytest.mark.parametrize("count", [1, 3])
def test_a_replacement_that_breaks_another_index_is_refused(place: Place, count: int) -> None:
    """Its own former self is there, which tells nothing: another holds the unique value."""
    place.database["results"].create_index("u", unique=True, sparse=True)
    place.deliver(payload({"_id": "a", "u": 1}), payload({"_id": "b", "u": 2}))
    others = [payload({"_id": f"c{n}"}) for n in range(1, count)]
    with pytest.raises(PermanentError, match="11000") as caught:
        place.deliver(payload({"_id": "a", "u": 2}), *others)
    assert caught.value.bad_indices == (0,)
    assert [one["_id"] for one in place.found()] == ["a", "b", *(f"c{n}" for n in range(1, count))]
