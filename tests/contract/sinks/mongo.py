"""Sink kind ``mongo`` on the embedded server: upserts, inserts, and upserts by a key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from pymongo import MongoClient

from domain.payload import MongoPayload, Payload
from integration.services import mongo
from integration.services.ports import LOOPBACK
from sinks.backends.mongo import MAX_DOCUMENT_BYTES, MongoSink, MongoSinkConfig
from sinks.base import ConfigError, PermanentError, Sink, TransientError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, TIMEOUT_SECONDS, Case, Row, delivery, new_ids
from tests.support.lanes import deliver
from tests.support.proxy import Proxy


class MongoSubject:
    """Collection ``results``, whose field ``unique`` is so by an index; ``taken`` is taken."""

    def __init__(self, server: mongo.RunningMongo, op: Any) -> None:
        self._server = server
        self._op = op
        self.reply_mark = b"nModified" if op != "insert" else b"\x10n\0"
        self.freeze, self.thaw = server.freeze, server.thaw
        self.stop = server.stop
        self.client: MongoClient[dict[str, Any]] = MongoClient(server.uri)
        self.collection = self.client["demo"]["results"]
        self.collection.create_index("unique", unique=True, sparse=True)
        self.collection.insert_one({"_id": "first", "unique": "taken"})

    def start(self) -> None:
        self._server.start()

    def build(self, proxy: Proxy | None = None, **keys: Any) -> Sink:
        uri = self._server.uri if proxy is None else mongo.uri(proxy.port)
        section: dict[str, Any] = {
            "kind": "mongo",
            "uri": uri,
            "database": "demo",
            "collection": "results",
        }
        section |= {"timeout_seconds": TIMEOUT_SECONDS, **keys}
        context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
        return MongoSink(MongoSinkConfig.model_validate(section), context)

    def payload(self, document: Mapping[str, Any], op: Any = None, **more: Any) -> MongoPayload:
        return MongoPayload(sink=SINK, document=document, op=op or self._op, **more)

    def good(self, delivery_id: str) -> Payload:
        return self.payload({"number": 1, "name": delivery_id}, **self._key(delivery_id))

    def bad(self, delivery_id: str) -> Payload:
        document = {"unique": "taken", "name": delivery_id}
        return self.payload(document, **self._key(delivery_id))

    def _key(self, name: str) -> dict[str, Any]:
        return {"key": {"name": name}} if self._op == "key" else {}

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return self.payload({"x": value, "name": delivery_id}, **self._key(delivery_id))

    def stored(self) -> Counter[str]:
        found = self.collection.find({"name": {"$exists": True}})
        return Counter(str(document["name"]) for document in found)

    def proxy(self) -> Proxy:
        return Proxy(LOOPBACK, self._server.port)

    def deliver(self, payload: Payload, delivery_id: str = "", **keys: Any) -> None:
        """One payload by a sink of its own. Raises SinkError."""
        sink = self.build(**keys)
        try:
            deliver(sink, [delivery(payload, delivery_id or new_ids(1)[0])])
        finally:
            sink.close()


class KeySubject(MongoSubject):
    """Upserts that look for a field."""

    def payload(self, document: Mapping[str, Any], op: Any = None, **more: Any) -> MongoPayload:
        return MongoPayload(sink=SINK, document=document, op=op or "upsert", **more)


def _sent(document: Mapping[str, Any], op: str, subject: MongoSubject, **more: Any) -> None:
    subject.deliver(subject.payload(document, op, **more))


def _row(name: str, document: Mapping[str, Any], op: str = "upsert", **more: Any) -> Row:
    return Row(name, PermanentError, partial(_sent, document, op, **more))


def _opened(uri: str, subject: MongoSubject) -> None:
    sink = subject.build(uri=uri)
    try:
        sink.open()
    finally:
        sink.close()


def nested(levels: int) -> dict[str, Any]:
    """A document of so many levels."""
    document: dict[str, Any] = {"n": 1}
    for _ in range(levels - 1):
        document = {"inner": document}
    return document


def cyclic() -> dict[str, Any]:
    """A document that holds itself."""
    document: dict[str, Any] = {}
    document["self"] = [document]
    return document


ROWS = (
    _row("too large", {"text": "x" * (MAX_DOCUMENT_BYTES + 1)}),
    _row("too large to insert", {"text": "x" * (MAX_DOCUMENT_BYTES + 1)}, "insert"),
    _row("a type the driver knows not", {"value": object()}),
    _row("a number past 64 bits", {"value": 2**64}),
    _row("a NUL in a field's name", {"a\0b": 1}),
    _row("a lone surrogate", {"text": "\ud800"}),
    _row("a field that is an operator", {"$where": "1"}),
    _row("an id that is an operator", {"_id": {"$ne": None}}),
    _row("a key that is an operator", {"a": 1}, key={"$where": "1"}),
    _row("a key with an operator", {"a": 1}, key={"a": {"$ne": None}}),
    _row("an empty key", {"a": 1}, key={}),
    _row("nothing besides the key", {"_id": "x"}, key={"_id": "x"}),
    _row("levels past the server's bound", nested(101)),
    _row("a cycle", cyclic()),
    _row("a dotted name with a key", {"a.b": 1, "c": 2}, key={"c": 2}),
    _row("a dotted name in a key", {"a": 1}, key={"b.c": 2}),
    _row("another value than the key's", {"a": 1, "b": 1}, key={"a": 2}),
    _row("a set", {"value": {1, 2}}),
    _row("update without a key", {"$set": {"a": 1}}, "update"),
    _row("update without $set", {"a": 1}, "update", key={"a": 1}),
    _row("update by $inc", {"$inc": {"a": 1}}, "update", key={"a": 1}),
    _row("update by $set and more", {"$set": {"a": 1}, "$inc": {}}, "update", key={"a": 1}),
    _row("update of nothing", {"$set": {}}, "update", key={"a": 1}),
    _row("update of an operator", {"$set": {"$a": 1}}, "update", key={"a": 1}),
    _row("taken in another index", {"unique": "taken"}),
    _row("taken in another index, inserted", {"unique": "taken"}, "insert"),
    _row("a name no collection has", {"a": 1}, collection="a..b"),
    Row("no way to the server", TransientError, partial(_opened, "mongodb://127.0.0.1:1/")),
    Row(
        "options that do not go together",
        ConfigError,
        partial(_opened, "mongodb://127.0.0.1:1/?directConnection=true&loadBalanced=true"),
    ),
)


@contextmanager
def _start(folder: Path, *, op: str) -> Iterator[MongoSubject]:
    with mongo.running(folder) as server:
        subject = (KeySubject if op == "key" else MongoSubject)(server, op)
        yield subject
        subject.client.close()


CASES = [
    Case(name="mongo-upsert", service="mongo", start=partial(_start, op="upsert"), rows=ROWS),
    Case(name="mongo-insert", service="mongo", start=partial(_start, op="insert")),
    Case(name="mongo-key", service="mongo", start=partial(_start, op="key")),
]
