"""Sink kind ``mongo``: one unordered bulk write a collection and batch; ``_id`` makes it once."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import bson
from bson.errors import BSONError
from bson.raw_bson import RawBSONDocument
from pydantic import Field
from pymongo import InsertOne, MongoClient, ReplaceOne, UpdateOne
from pymongo.collection import Collection
from pymongo.errors import (
    BulkWriteError,
    ConfigurationError,
    ConnectionFailure,
    InvalidName,
    InvalidURI,
    OperationFailure,
    PyMongoError,
)

from domain.payload import MongoPayload
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    SinkError,
    TransientError,
    raise_failures,
)
from sinks.config import SinkConfig
from sinks.registry import SinkContext, SinkKind, register

# The server's error codes (MongoDB manual, "Error Codes"). What stands in no table is transient.
DUPLICATE_KEY = 11000
PERMANENT = frozenset(
    {
        2,  # BadValue
        9,  # FailedToParse
        14,  # TypeMismatch
        22,  # InvalidBSON
        28,  # PathNotViable
        40,  # ConflictingUpdateOperators
        52,  # DollarPrefixedFieldName
        53,  # InvalidIdField
        55,  # InvalidDBRef
        56,  # EmptyFieldName
        57,  # DottedFieldName
        66,  # ImmutableField
        121,  # DocumentValidationFailure
        10334,  # BSONObjectTooLarge
        DUPLICATE_KEY,
        16755,  # a value that a geographic index cannot take
        17280,  # KeyTooLong
        17419,  # the updated document would be too large
    }
)
CONFIG = frozenset(
    {
        13,  # Unauthorized
        18,  # AuthenticationFailed
        26,  # NamespaceNotFound
        31,  # RoleNotFound
        59,  # CommandNotFound
        73,  # InvalidNamespace
        166,  # CommandNotSupportedOnView
        8000,  # the hosted service's word for failed authentication
    }
)
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024

Document = dict[str, Any]
Operation = InsertOne[Any] | ReplaceOne[Any] | UpdateOne


@dataclass(frozen=True, slots=True)
class Planned:
    """An operation, its payload's place in the batch, and the ``_id`` it writes where known."""

    index: int
    operation: Operation
    own_id: Any


class MongoSinkConfig(SinkConfig):
    """Keys of a mongo sink; ``uri`` may hold any option but the timeouts, which are ours."""

    uri: str = Field(min_length=1, pattern=r"^mongodb(\+srv)?://")
    database: str = Field(min_length=1, max_length=63, pattern=r'^[^/\\. "$*<>:|?\x00]+$')
    collection: str = Field(min_length=1, max_length=200, pattern=r"^[^$\x00]+$")


def classify(code: int | None, detail: str) -> SinkError:
    """A server's error in our words, by its code."""
    if code in PERMANENT:
        return PermanentError(detail)
    if code in CONFIG:
        return ConfigError(f"{detail}; check the sink's uri, names and the user's rights")
    return TransientError(detail)


def translate(error: PyMongoError) -> SinkError:
    """The driver's error about a whole call: never one of a single document's data."""
    if isinstance(error, OperationFailure):
        found = classify(error.code, f"{error.code} {error}")
        return ConfigError(str(found)) if isinstance(found, PermanentError) else found
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, (ConfigurationError, InvalidURI)) and not isinstance(
        error, ConnectionFailure
    ):
        return ConfigError(f"{detail}; check the sink's uri")
    return TransientError(detail)


class MongoSink:
    """See the module's docstring."""

    kind: ClassVar[str] = "mongo"

    def __init__(self, config: MongoSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._client: MongoClient[Document] | None = None

    def open(self) -> None:
        """Connect, with authentication where the uri names a user. Raises as ``Sink.open``."""
        try:
            self._connected().admin.command("ping")
        except PyMongoError as exc:
            self.close()
            raise translate(exc) from exc

    def deliver(self, batch: Sequence[Delivery]) -> None:
        """Store the batch, collection by collection; see ``Sink.deliver``."""
        failures: dict[int, SinkError] = {}
        stored: set[int] = set()
        try:
            for collection, operations in self._planned(batch, failures):
                failed = self._written(collection, operations)
                failures |= failed
                stored |= {one.index for one in operations if one.index not in failed}
        except PyMongoError as exc:
            error = translate(exc)
            error.stored_indices = tuple(sorted(stored))
            raise error from exc
        raise_failures(failures, sorted(stored))

    def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connected(self) -> MongoClient[Document]:
        if self._client is None:
            timeout_ms = max(1, round(self._config.timeout_seconds * 1000))
            self._client = MongoClient(
                self._config.uri,
                connectTimeoutMS=timeout_ms,
                socketTimeoutMS=timeout_ms,
                serverSelectionTimeoutMS=timeout_ms,
                timeoutMS=timeout_ms,
                waitQueueTimeoutMS=timeout_ms,
                maxPoolSize=1,
                appname="drakkar-sink",
            )
        return self._client

    def _planned(
        self, batch: Sequence[Delivery], failures: dict[int, SinkError]
    ) -> Iterator[tuple[Collection[Document], list[Planned]]]:
        """Operations by collection; what cannot be one goes to ``failures``."""
        planned: dict[str, list[Planned]] = {}
        for index, delivery in enumerate(batch):
            payload = _payload(delivery)
            name = payload.collection or self._config.collection
            try:
                operation, own_id = PLANNERS[payload.op](payload, delivery.delivery_id)
                planned.setdefault(name, []).append(Planned(index, operation, own_id))
            except (BSONError, TypeError, ValueError, KeyError, OverflowError) as exc:
                failures[index] = PermanentError(f"{payload.op} in {name!r:.200}: {exc}")
        database = self._connected()[self._config.database]
        for name, operations in planned.items():
            try:
                yield database[name], operations
            except InvalidName as exc:
                refused = PermanentError(f"{name!r:.200}: {exc}")
                failures |= {one.index: refused for one in operations}

    def _written(
        self, collection: Collection[Document], operations: Sequence[Planned]
    ) -> dict[int, SinkError]:
        """What failed, by place in the batch."""
        try:
            collection.bulk_write([one.operation for one in operations], ordered=False)
        except BulkWriteError as exc:
            return self._failed(collection, operations, exc.details or {})
        return {}

    def _failed(
        self,
        collection: Collection[Document],
        operations: Sequence[Planned],
        details: Mapping[str, Any],
    ) -> dict[int, SinkError]:
        present = _already_stored(collection, operations, details)
        failed: dict[int, SinkError] = {}
        for error in details.get("writeErrors", ()):
            one = operations[error["index"]]
            code, text = error.get("code"), str(error.get("errmsg", ""))
            detail = f"{type(one.operation).__name__} in {collection.name}: {code} {text:.500}"
            if code == DUPLICATE_KEY and one.own_id in present:
                if isinstance(one.operation, InsertOne):
                    continue
                failed[one.index] = TransientError(detail)  # another was first: replace its own
            else:
                failed[one.index] = classify(code, detail)
        for concern in details.get("writeConcernErrors", ()):
            for one in operations:
                failed.setdefault(one.index, TransientError(f"write concern: {concern}"))
        return failed


def _already_stored(
    collection: Collection[Document],
    operations: Sequence[Planned],
    details: Mapping[str, Any],
) -> list[Any]:
    """Ids, among those refused as duplicates, that are in the collection.

    Asked, because servers tell the violated index in different words, or not at all.
    """
    wanted = [
        operations[error["index"]].own_id
        for error in details.get("writeErrors", ())
        if error.get("code") == DUPLICATE_KEY
    ]
    wanted = [one for one in wanted if one is not None]
    if not wanted:
        return []
    return [found["_id"] for found in collection.find({"_id": {"$in": wanted}}, {"_id": 1})]


def _payload(delivery: Delivery) -> MongoPayload:
    assert isinstance(delivery.payload, MongoPayload)
    return delivery.payload


def _encoded(document: Mapping[str, Any]) -> RawBSONDocument:
    """Encoded once, so that one bad document takes no other along. Raises as ``bson.encode``."""
    if operators := [name for name in document if str(name).startswith("$")]:
        raise ValueError(f"document: expected plain field names, got {operators[0]!r:.100}")
    data = bson.encode(document)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"document: {len(data)} bytes, at most {MAX_DOCUMENT_BYTES}")
    return RawBSONDocument(data)


def _identified(payload: MongoPayload, delivery_id: str) -> Document:
    document = dict(payload.document)
    return document if "_id" in document else {"_id": delivery_id, **document}


def _filter(key: Any) -> Document:
    """Equality only: a value that is an operator would choose other documents."""
    if not isinstance(key, Mapping) or not key:
        raise TypeError(f"key: expected a mapping with at least one field, got {key!r:.100}")
    for name, value in key.items():
        operators = isinstance(value, Mapping) and any(str(one).startswith("$") for one in value)
        if operators or str(name).startswith("$"):
            raise ValueError(f"key: expected plain values, got an operator in {name!r:.100}")
    bson.encode(key)
    return dict(key)


def _insert(payload: MongoPayload, delivery_id: str) -> tuple[Operation, Any]:
    document = _identified(payload, delivery_id)
    return InsertOne(_encoded(document)), document["_id"]


def _upsert(payload: MongoPayload, delivery_id: str) -> tuple[Operation, Any]:
    """Replaces the document of its ``_id``; with ``key`` sets its fields in the one found."""
    document = _identified(payload, delivery_id)
    own_id = document["_id"]
    if payload.key is None:
        return ReplaceOne(_filter({"_id": own_id}), _encoded(document), upsert=True), own_id
    where = _filter(payload.key)
    _encoded(document)
    made = {} if "_id" in where else {"_id": own_id}
    fields = {name: value for name, value in document.items() if name not in {"_id", *where}}
    changes = {"$setOnInsert": made, "$set": fields}
    changes = {name: part for name, part in changes.items() if part}
    if not changes:
        raise ValueError("document: expected fields besides those of key, got none")
    return UpdateOne(where, changes, upsert=True), None


def _update(payload: MongoPayload, delivery_id: str) -> tuple[Operation, Any]:
    if payload.key is None:
        raise TypeError("key: expected a mapping for op update, got None")
    if set(payload.document) != {"$set"}:
        raise ValueError(f"document: op update allows $set only, got {sorted(payload.document)}")
    fields = payload.document["$set"]
    if not isinstance(fields, Mapping) or not fields:
        raise TypeError(f"document.$set: expected fields, got {fields!r:.100}")
    _encoded(fields)
    return UpdateOne(_filter(payload.key), {"$set": dict(fields)}), None


PLANNERS = {"upsert": _upsert, "insert": _insert, "update": _update}

KIND = register(
    SinkKind(name="mongo", config=MongoSinkConfig, payload=MongoPayload, build=MongoSink)
)
