"""Sink kind ``mongo``: one unordered bulk write a collection and batch; ``_id`` makes it once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from enum import Enum
from typing import Any, ClassVar

import bson
from bson.binary import UuidRepresentation
from bson.codec_options import CodecOptions, TypeRegistry
from bson.decimal128 import Decimal128
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
    NotPrimaryError,
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
    UnknownError,
    raise_failures,
)
from sinks.config import SinkConfig
from sinks.registry import SinkContext, SinkKind

# The server's error codes (MongoDB manual, "Error Codes"). What stands in no table is unknown.
DUPLICATE_KEY = 11000
PERMANENT = frozenset(
    {
        2,  # BadValue
        9,  # FailedToParse
        14,  # TypeMismatch
        15,  # Overflow: a number, or levels of nesting
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
        79,  # UnknownReplWriteConcern
        166,  # CommandNotSupportedOnView
        8000,  # the hosted service's word for failed authentication
    }
)
NOT_PRIMARY = frozenset(
    {
        91,  # ShutdownInProgress
        189,  # PrimarySteppedDown
        10058,  # an old word for not primary
        10107,  # NotWritablePrimary
        11600,  # InterruptedAtShutdown
        11602,  # InterruptedDueToReplStateChange
        13435,  # NotPrimaryNoSecondaryOk
        13436,  # NotPrimaryOrSecondary
    }
)
TRANSIENT = NOT_PRIMARY | frozenset(
    {
        6,  # HostUnreachable
        7,  # HostNotFound
        24,  # LockTimeout
        46,  # LockBusy
        50,  # MaxTimeMSExpired
        63,  # StaleShardVersion
        64,  # WriteConcernTimeout
        89,  # NetworkTimeout
        94,  # NotYetInitialized
        100,  # UnsatisfiableWriteConcern
        107,  # LockFailed
        112,  # WriteConflict
        117,  # ConflictingOperationInProgress
        133,  # FailedToSatisfyReadPreference
        134,  # ReadConcernMajorityNotAvailableYet
        150,  # StaleEpoch
        202,  # NetworkInterfaceExceededTimeLimit
        251,  # NoSuchTransaction
        262,  # ExceededTimeLimit
        314,  # ObjectIsBusy
        9001,  # SocketException
        11601,  # Interrupted
        13388,  # StaleConfig
        14031,  # OutOfDiskSpace
    }
)
MAX_DOCUMENT_BYTES = 16 * 1024 * 1024
MAX_DEPTH = 100
"""Levels of nesting that a server stores (MongoDB manual, "Limits and Thresholds")."""

Document = dict[str, Any]
Operation = InsertOne[Any] | ReplaceOne[Any] | UpdateOne


@dataclass(frozen=True, slots=True)
class Planned:
    """An operation on a collection, and the ``_id`` it writes where known."""

    collection: str
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
    return TransientError(detail) if code in TRANSIENT else UnknownError(detail)


def translate(error: PyMongoError) -> SinkError:
    """Return the driver's error about a whole call. One that speaks of data may speak of any
    document of it or of the sink's options: unknown."""
    if isinstance(error, OperationFailure):
        found = classify(error.code, f"{error.code} {error}")
        return UnknownError(str(found)) if isinstance(found, PermanentError) else found
    detail = f"{type(error).__name__}: {error}"
    if isinstance(error, (ConfigurationError, InvalidURI)) and not isinstance(
        error, ConnectionFailure
    ):
        return ConfigError(f"{detail}; check the sink's uri")
    is_known = isinstance(error, ConnectionFailure) or error.timeout
    return TransientError(detail) if is_known else UnknownError(detail)


class MongoSink:
    """Sink that writes payloads to MongoDB (module's docstring)."""

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

    def encode(self, delivery: Delivery) -> Planned:
        """Return the operation of a payload. Raises PermanentError naming the field."""
        payload = _payload(delivery)
        name = payload.collection or self._config.collection
        try:
            if payload.op not in PLANNERS:
                known = ", ".join(PLANNERS)
                raise ValueError(f"op: expected one of {known}, got {payload.op!r:.100}")
            return Planned(name, *PLANNERS[payload.op](payload, delivery.delivery_id))
        except Exception as exc:  # whatever a handler's own objects raise
            raise PermanentError(f"{payload.op!s:.20} in {name!r:.200}: {exc}") from exc

    def send(self, batch: Sequence[Planned]) -> None:
        """Store the batch, collection by collection; see ``Sink.send``."""
        failures: dict[int, SinkError] = {}
        stored: list[int] = []
        try:
            for name, places in _by_collection(batch).items():
                failed = self._written(name, [batch[index] for index in places])
                failures |= {places[at]: error for at, error in failed.items()}
                stored += [index for at, index in enumerate(places) if at not in failed]
        except PyMongoError as exc:
            if isinstance(exc, (NotPrimaryError, OperationFailure)):
                self.close()  # a primary that stepped down keeps its connections: look anew
            error = translate(exc)
            error.stored_indices = tuple(sorted(stored))
            raise error from exc
        if not all(isinstance(error, PermanentError) for error in failures.values()):
            self.close()
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
                uuidRepresentation="standard",
                type_registry=OPTIONS.type_registry,
            )
        return self._client

    def _written(self, name: str, operations: Sequence[Planned]) -> dict[int, SinkError]:
        """Return what failed, by place in ``operations``."""
        try:
            collection = self._connected()[self._config.database][name]
        except InvalidName as exc:
            return dict.fromkeys(range(len(operations)), PermanentError(f"{name!r:.200}: {exc}"))
        try:
            collection.bulk_write([one.operation for one in operations], ordered=False)
        except BulkWriteError as exc:
            return self._failed(collection, operations, exc.details or {})
        except BSONError as exc:
            raise PermanentError(f"collection {name}: {exc}") from exc
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
            place = error["index"]
            one = operations[place]
            code, text = error.get("code"), str(error.get("errmsg", ""))
            detail = f"{type(one.operation).__name__} in {collection.name}: {code} {text:.500}"
            if code == DUPLICATE_KEY and (
                one.own_id in present
                if isinstance(one.operation, InsertOne)
                else _is_taken_now(collection, one.operation)
            ):
                continue
            failed[place] = classify(code, detail)
        for concern in details.get("writeConcernErrors", ()):
            for place in range(len(operations)):
                failed.setdefault(place, TransientError(f"write concern: {concern}"))
        return failed


def _is_taken_now(collection: Collection[Document], operation: Operation) -> bool:
    """Try an upsert once more: another may have been first to insert that document. Else another
    document holds the value of a unique index, and will: False."""
    try:
        collection.bulk_write([operation])
    except BulkWriteError as exc:
        codes = [error.get("code") for error in (exc.details or {}).get("writeErrors", ())]
        if codes == [DUPLICATE_KEY]:
            return False
        raise
    return True


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
        and isinstance(operations[error["index"]].operation, InsertOne)
    ]
    if not wanted:
        return []
    return [found["_id"] for found in collection.find({"_id": {"$in": wanted}}, {"_id": 1})]


def _payload(delivery: Delivery) -> MongoPayload:
    assert isinstance(delivery.payload, MongoPayload)
    return delivery.payload


def _by_collection(batch: Sequence[Planned]) -> dict[str, list[int]]:
    """Places in the batch by collection."""
    grouped: dict[str, list[int]] = {}
    for index, one in enumerate(batch):
        grouped.setdefault(one.collection, []).append(index)
    return grouped


def _storable(value: Any) -> Any:
    """A form that BSON has, of what the driver does not know. Raises TypeError for others."""
    if isinstance(value, Decimal):
        return Decimal128(value)
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return dict(value)
    raise TypeError(f"expected a value that BSON has a form for, got {type(value).__name__}")


OPTIONS: CodecOptions[Document] = CodecOptions(
    uuid_representation=UuidRepresentation.STANDARD,
    type_registry=TypeRegistry(fallback_encoder=_storable),
)


def _bson(value: Mapping[str, Any], field: str) -> bytes:
    """``value`` in BSON. Raises ValueError with the path of what has no form in it."""
    _check_depth(value, field)
    try:
        return bson.encode(value, codec_options=OPTIONS)
    except Exception as exc:
        raise ValueError(f"{_bad_path(value, field)}: {exc}") from exc


def _check_depth(value: Mapping[str, Any], field: str) -> None:
    waiting: list[tuple[Any, int]] = [(value, 1)]
    while waiting:
        one, depth = waiting.pop()
        if depth > MAX_DEPTH:
            raise ValueError(f"{field}: expected at most {MAX_DEPTH} levels, got more, or a cycle")
        inner = one.values() if isinstance(one, Mapping) else one
        waiting += [(each, depth + 1) for each in inner if isinstance(each, (Mapping, list, tuple))]


def _bad_path(value: Any, path: str) -> str:
    """Return the path of the innermost value that cannot be encoded."""
    named = value.items() if isinstance(value, Mapping) else enumerate(value)
    for name, each in named:
        try:
            bson.encode({str(name): each}, codec_options=OPTIONS)
        except Exception:  # noqa: BLE001 - whatever it is, it is here
            inner = f"{path}.{name}" if isinstance(value, Mapping) else f"{path}[{name}]"
            is_nested = isinstance(each, (Mapping, list, tuple))
            return _bad_path(each, inner[:500]) if is_nested else inner[:500]
    return path


def _encoded(document: Mapping[str, Any], field: str = "document") -> RawBSONDocument:
    """Encoded once, so that one bad document takes no other along. Raises ValueError."""
    if operators := [name for name in document if str(name).startswith("$")]:
        raise ValueError(f"{field}: expected plain field names, got {operators[0]!r:.100}")
    data = _bson(document, field)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise ValueError(f"{field}: {len(data)} bytes, at most {MAX_DOCUMENT_BYTES}")
    return RawBSONDocument(data)


def _identified(payload: MongoPayload, delivery_id: str) -> Document:
    document = dict(payload.document)
    return document if "_id" in document else {"_id": delivery_id, **document}


def _own_id(document: Document, encoded: RawBSONDocument) -> Any:
    """``_id`` as the server gives it back."""
    own_id = document["_id"]
    return own_id if isinstance(own_id, str) else bson.decode(encoded.raw, OPTIONS)["_id"]


def _filter(key: Any, field: str = "key") -> RawBSONDocument:
    """Equality only: a value that is an operator would choose other documents."""
    if not isinstance(key, Mapping) or not key:
        raise TypeError(f"{field}: expected a mapping with at least one field, got {key!r:.100}")
    for name, value in key.items():
        operators = isinstance(value, Mapping) and any(str(one).startswith("$") for one in value)
        if operators or str(name).startswith("$"):
            raise ValueError(f"{field}: expected plain values, got an operator in {name!r:.100}")
    return _encoded(key, field)


def _insert(payload: MongoPayload, delivery_id: str) -> tuple[Operation, Any]:
    document = _identified(payload, delivery_id)
    encoded = _encoded(document)
    return InsertOne(encoded), _own_id(document, encoded)


def _upsert(payload: MongoPayload, delivery_id: str) -> tuple[Operation, Any]:
    """Replaces the document of its ``_id``; with ``key`` sets its fields in the one found."""
    document = _identified(payload, delivery_id)
    if payload.key is not None:
        return _upsert_by_key(document, payload.key), None
    encoded = _encoded(document)
    where = _filter({"_id": document["_id"]}, "document")
    return ReplaceOne(where, encoded, upsert=True), _own_id(document, encoded)


def _upsert_by_key(document: Document, key: Any) -> Operation:
    where = _filter(key)
    for field, names in (("document", document), ("key", key)):
        if dotted := [name for name in names if "." in str(name)]:
            raise ValueError(
                f"{field}: expected names without a dot (with key they would become nested "
                f"documents), got {dotted[0]!r:.100}"
            )
    for name in key.keys() & document.keys() - {"_id"}:
        if document[name] != key[name]:
            raise ValueError(f"document.{name}: expected the key's value, got another")
    _encoded(document)
    made = {} if "_id" in key else {"_id": document["_id"]}
    fields = {name: value for name, value in document.items() if name not in {"_id", *key}}
    changes = {"$setOnInsert": made, "$set": fields}
    parts = {name: _encoded(part) for name, part in changes.items() if part}
    if not parts:
        raise ValueError("document: expected fields besides those of key, got none")
    return UpdateOne(where, parts, upsert=True)


def _update(payload: MongoPayload, delivery_id: str) -> tuple[Operation, Any]:
    if payload.key is None:
        raise TypeError("key: expected a mapping for op update, got None")
    if set(payload.document) != {"$set"}:
        raise ValueError(f"document: op update allows $set only, got {sorted(payload.document)}")
    fields = payload.document["$set"]
    if not isinstance(fields, Mapping) or not fields:
        raise TypeError(f"document.$set: expected fields, got {fields!r:.100}")
    return UpdateOne(_filter(payload.key), {"$set": _encoded(fields, "document.$set")}), None


PLANNERS = {"upsert": _upsert, "insert": _insert, "update": _update}

KIND = SinkKind(name="mongo", config=MongoSinkConfig, payload=MongoPayload, build=MongoSink)
