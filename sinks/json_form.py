"""One JSON form of what handlers hand over: exact, or refused with the path of what is not.

Beyond JSON's own values: times, dates and UUIDs as text (RFC 3339, ISO 8601), decimals as text,
enums as their values, dataclasses, pydantic models and mappings as objects, tuples as arrays.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from datetime import date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

import orjson
from pydantic import BaseModel

from domain.text_bounds import described

MAX_DEPTH = 254
"""Bound of the encoder itself."""
SHOWN_CHARS = 60
WHOLE_RECORDS = orjson.OPT_PASSTHROUGH_DATACLASS
"""By itself the encoder leaves out the fields of a dataclass whose names begin with ``_``."""
EXACT = frozenset({str, int, bool, type(None), datetime, date, time, UUID})
AS_TEXT = (datetime, date, time, UUID)


class NotJson(ValueError):
    """A value has no JSON form; the text names its path, what was expected and what came."""


def encode_json(value: Any, field: str, *, end: bytes = b"") -> bytes:
    """``value`` as JSON, ``end`` appended. Raises NotJson with the path, which begins with
    ``field``."""
    try:
        text = orjson.dumps(value, default=_plain, option=WHOLE_RECORDS)
    except Exception as exc:  # a handler's own objects may raise anything
        if problem := _first_problem(value, field):
            raise NotJson(problem) from exc
        text = _encode_named(value, field)
    # The encoder writes NaN and Infinity as null.
    if b"null" in text and _is_doubtful(value) and (problem := _first_problem(value, field)):
        raise NotJson(problem)
    return text + end


def _encode_named(value: Any, field: str) -> bytes:
    """As the encoder, with names of a text's subclasses (StrEnum): all names are known to be text.
    Raises NotJson."""
    try:
        return orjson.dumps(value, default=_plain, option=WHOLE_RECORDS | orjson.OPT_NON_STR_KEYS)
    except Exception as exc:  # a handler's own objects may raise anything
        raise NotJson(f"{field}: {described(exc)}") from exc


def _is_doubtful(value: Any) -> bool:
    """Whether there may be a number that is not finite; quick where all is of JSON's own types."""
    waiting = [value]
    while waiting:
        one = waiting.pop()
        kind = type(one)
        if kind is dict:
            waiting += one.values()
        elif kind is list or kind is tuple:
            waiting += one
        elif kind is float:
            if not math.isfinite(one):
                return True
        elif kind not in EXACT:
            return True
    return False


def _plain(value: Any) -> Any:
    """A form that the encoder knows. Raises TypeError for what has none."""
    if isinstance(value, BaseModel):
        return value.model_dump()
    if _is_record(value):
        return {one.name: getattr(value, one.name) for one in dataclasses.fields(value)}
    if isinstance(value, Decimal) and value.is_finite():
        return str(value)
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, tuple):
        return list(value)
    if isinstance(value, float):
        return float(value)
    raise TypeError(_unknown(value))


def _is_record(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _unknown(value: Any) -> str:
    return f"expected a value that JSON has a form for, got {type(value).__name__}"


def _first_problem(value: Any, field: str) -> str:
    """Return where ``value`` is not JSON and why, or ''. Looks at all of it, without recursion."""
    waiting: list[tuple[str, Any, int]] = [(field, value, 0)]
    while waiting:
        path, one, depth = waiting.pop()
        if depth > MAX_DEPTH:
            return f"{_cut(path)}: expected at most {MAX_DEPTH} levels, got more, or a cycle"
        try:
            if problem := _problem(one):
                return f"{_cut(path)}: {problem}"
            inner = [(f"{path}{step}", each, depth + 1) for step, each in _inner(one)]
        except Exception as exc:  # noqa: BLE001 - a handler's own objects may raise anything
            return f"{_cut(path)}: {described(exc)}"
        waiting += reversed(inner)
    return ""


def _inner(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Enum):
        yield "", value.value
    elif isinstance(value, BaseModel):
        yield "", value.model_dump()
    elif isinstance(value, Mapping):
        yield from ((f".{name}", each) for name, each in value.items())
    elif isinstance(value, (list, tuple)):
        yield from ((f"[{index}]", each) for index, each in enumerate(value))
    elif _is_record(value):
        yield from ((f".{one.name}", getattr(value, one.name)) for one in dataclasses.fields(value))


def _problem(value: Any) -> str:
    """Return what is wrong with ``value`` itself, or ''."""
    match value:
        case None | bool() | Enum() | BaseModel() | list() | tuple():
            return ""
        case float() | Decimal():
            finite = math.isfinite(value) if isinstance(value, float) else value.is_finite()
            return "" if finite else f"expected a finite number, got {value}"
        case int():
            fits = -(2**63) <= value < 2**64
            return "" if fits else f"expected at most 64 bits, got {value.bit_length()}"
        case str():
            return _text_problem(value)
        case Mapping():
            return next((problem for name in value if (problem := _name_problem(name))), "")
    return "" if _is_record(value) or isinstance(value, AS_TEXT) else _unknown(value)


def _name_problem(name: Any) -> str:
    if isinstance(name, str):
        return _text_problem(name)
    return f"expected names that are text, got {type(name).__name__} {name!s:.{SHOWN_CHARS}}"


def _text_problem(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        return "expected text of whole characters, got a lone surrogate"
    return ""


def _cut(path: str) -> str:
    """Both ends of a long path, printable."""
    path = path.encode("utf-8", "backslashreplace").decode()
    return path if len(path) <= 4 * SHOWN_CHARS else f"{path[:120]}...{path[-120:]}"
