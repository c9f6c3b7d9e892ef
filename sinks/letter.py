"""Form of a dead letter: headers after the original's own, and the payload as JSON."""

from __future__ import annotations

import json
import reprlib
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from typing import Any

import orjson

from domain.failure import DeadLetterCause
from domain.message import Header, Record
from domain.payload import Payload, Upsert
from domain.text_bounds import described
from sinks.letter_values import NotWritable, read, written

TEXT_LIMIT = 8192
FIRST_OWN_HEADER = "drakkar-cluster"


@dataclass(frozen=True, slots=True, kw_only=True)
class LetterStamp:
    """Writer of letters, as they name it."""

    cluster: str
    group: str
    worker: str


def letter_headers(
    record: Record, cause: DeadLetterCause, stamp: LetterStamp, at: float
) -> list[tuple[str, bytes | None]]:
    """Return the letter's ``drakkar-`` headers, after the original's own."""
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


def split_headers(headers: Sequence[Header]) -> tuple[list[Header], list[Header]]:
    """Return the original's headers, and those of the letter itself.

    The letter's begin with the last of their first name: the original may be a record of another
    stage, with headers of ours.
    """
    names = [name for name, _ in headers]
    if FIRST_OWN_HEADER not in names:
        return list(headers), []
    first = len(names) - 1 - names[::-1].index(FIRST_OWN_HEADER)
    return list(headers[:first]), list(headers[first:])


def encode_payload(payload: Payload) -> bytes:
    """``{kind, sink, fields}``, the values as ``sinks.letter_values`` writes them.

    What would not come back as it was is refused: in place of the fields stands a shortened
    ``{"$unencodable": text, "$why": path and reason}``. A letter goes out whatever its payload
    does.
    """
    values = {field.name: getattr(payload, field.name) for field in fields(payload)}
    values.pop("sink")
    body = {"kind": payload.kind, "sink": payload.sink}
    try:
        return _dump({**body, "fields": {name: written(values[name], name) for name in values}})
    except Exception as exc:  # noqa: BLE001 - a handler's own objects may raise anything
        why = str(exc) if isinstance(exc, NotWritable) else described(exc)
        return _dump({**body, "fields": {"$unencodable": _shown(values), "$why": why}})


def _shown(values: Any) -> str:
    try:
        return reprlib.repr(values)
    except Exception as exc:  # noqa: BLE001 - as above
        return described(exc)


def _dump(body: Any) -> bytes:
    try:
        return orjson.dumps(body)
    except TypeError:  # integers above 64 bits, lone surrogates
        return json.dumps(body).encode()


def decode_payload(raw: bytes, cls: type[Payload]) -> Payload:
    """Return the payload that ``encode_payload`` wrote. Raises ValueError."""
    try:
        body = json.loads(raw)
        if body["kind"] != cls.kind:
            raise ValueError(f"expected a payload of kind {cls.kind}, got {body['kind']}")
        if "$unencodable" in body["fields"]:
            why = body["fields"].get("$why", "")
            raise ValueError(f"the payload could not be written into its letter: {why}")
        values = {name: read(value) for name, value in body["fields"].items()}
        if isinstance(found := values.get("on_conflict"), dict):
            values["on_conflict"] = Upsert(**found)
        return cls(sink=body["sink"], **values)
    except (ArithmeticError, AttributeError, RecursionError, TypeError, KeyError) as exc:
        raise ValueError(f"not a payload of kind {cls.kind}: {exc}") from exc


def payload_kind(raw: bytes) -> tuple[str, str]:
    """Kind and sink of a written payload. Raises ValueError."""
    try:
        body = json.loads(raw)
        return str(body["kind"]), str(body["sink"])
    except (TypeError, KeyError) as exc:
        raise ValueError(f"not a payload: {exc}") from exc
