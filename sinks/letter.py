"""What a dead letter says: headers after the original's own, and the payload as JSON."""

from __future__ import annotations

import base64
import json
import reprlib
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import orjson

from domain.failure import DeadLetterCause
from domain.message import Record
from domain.payload import Payload, Upsert

TEXT_LIMIT = 8192


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterStamp:
    """Who writes the letters."""

    cluster: str
    group: str
    worker: str


def letter_headers(
    record: Record, cause: DeadLetterCause, stamp: LetterStamp, at: float
) -> list[tuple[str, bytes | None]]:
    """The letter's ``drakkar-`` headers, after the original's own."""
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
    """``{kind, sink, fields}``; bytes as ``{"$bytes": base64}``, times as ``{"$time": RFC 3339}``.

    What JSON cannot say is text. A payload that cannot be encoded at all is a shortened
    ``{"$unencodable": text}``: a letter goes out whatever its payload does.
    """
    values = {field.name: getattr(payload, field.name) for field in fields(payload)}
    values.pop("sink")
    body = {"kind": payload.kind, "sink": payload.sink, "fields": values}
    try:
        return _dump(_encodable(body))
    except Exception:  # noqa: BLE001 - a handler's own objects may raise anything
        return _dump({**body, "fields": {"$unencodable": reprlib.repr(values)}})


def _dump(body: Any) -> bytes:
    try:
        return orjson.dumps(body, default=str)
    except TypeError:  # integers above 64 bits, lone surrogates
        return json.dumps(body, default=str).encode()


def _encodable(value: Any) -> Any:
    if isinstance(value, (bytes, bytearray, memoryview)):
        return {"$bytes": base64.b64encode(value).decode()}
    if isinstance(value, datetime):
        return {"$time": value.isoformat()}
    if isinstance(value, Mapping):
        return {str(name): _encodable(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encodable(item) for item in value]
    return value


def decode_payload(raw: bytes, cls: type[Payload]) -> Payload:
    """What ``encode_payload`` wrote, as a payload of its kind. Raises ValueError.

    Values that JSON cannot say (decimals, sets) come back as what they were written as.
    """
    try:
        body = json.loads(raw)
        values = _decoded(body["fields"])
        if body["kind"] != cls.kind:
            raise ValueError(f"expected a payload of kind {cls.kind}, got {body['kind']}")
        if "$unencodable" in values:
            raise ValueError("the payload could not be written into its letter")
        if isinstance(found := values.get("on_conflict"), dict):
            values["on_conflict"] = Upsert(**found)
        return cls(sink=body["sink"], **values)
    except (TypeError, KeyError) as exc:
        raise ValueError(f"not a payload of kind {cls.kind}: {exc}") from exc


def payload_kind(raw: bytes) -> tuple[str, str]:
    """Kind and sink of a written payload. Raises ValueError."""
    try:
        body = json.loads(raw)
        return str(body["kind"]), str(body["sink"])
    except (TypeError, KeyError) as exc:
        raise ValueError(f"not a payload: {exc}") from exc


def _decoded(value: Any) -> Any:
    if isinstance(value, list):
        return [_decoded(item) for item in value]
    if not isinstance(value, dict):
        return value
    if value.keys() == {"$bytes"}:
        return base64.b64decode(value["$bytes"])
    if value.keys() == {"$time"}:
        return datetime.fromisoformat(value["$time"])
    return {name: _decoded(item) for name, item in value.items()}
