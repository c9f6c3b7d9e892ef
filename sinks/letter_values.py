"""Values of a payload in its letter: what is written comes back equal, or is refused.

JSON's own stand as they are. Others are an object of one name that begins with ``$``; a handler's
own object that looks like one is written as ``$map``.
"""

from __future__ import annotations

import base64
import dataclasses
import math
from collections.abc import Callable, Mapping
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID

from pydantic import BaseModel

SHOWN_PATH = 200


class NotWritable(ValueError):
    """A value that would not come back from the letter as it was; the text names its path."""


def written(value: Any, path: str) -> Any:
    """``value`` as JSON can say it. Raises NotWritable; RecursionError for what has no end."""
    if value is None or isinstance(value, bool):
        return value
    if (tag := _tagged(value)) is not None:
        return tag
    if isinstance(value, Enum) and not isinstance(value, (str, int, float)):
        raise NotWritable(f"{path[-SHOWN_PATH:]}: {type(value).__name__}: give its value")
    for kind in (str, int, float):
        if isinstance(value, kind):
            return kind.__str__(value) if kind is str else kind(value)
    if isinstance(value, BaseModel):
        return written(value.model_dump(), path)
    if isinstance(value, Mapping):
        return _mapping(value, path)
    if isinstance(value, list):
        return _items(value, path)
    if isinstance(value, tuple):
        return {"$tuple": _items(value, path)}
    if isinstance(value, set):
        return {"$set_of": _items(value, path)}
    if isinstance(value, frozenset):
        return {"$frozenset_of": _items(value, path)}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        names = [field.name for field in dataclasses.fields(value)]
        return {name: written(getattr(value, name), f"{path}.{name}") for name in names}
    raise NotWritable(f"{path[-SHOWN_PATH:]}: {type(value).__name__} has no form in a letter")


def _tagged(value: Any) -> dict[str, str] | None:
    """Return the form of a value that JSON lacks but a text can hold."""
    match value:
        case bytes() | bytearray() | memoryview():
            return {"$bytes": base64.b64encode(value).decode()}
        case datetime():
            return {"$time": value.isoformat()}
        case date():
            return {"$date": value.isoformat()}
        case time():
            return {"$clock": value.isoformat()}
        case timedelta():
            return {"$microseconds": str(value // timedelta(microseconds=1))}
        case Decimal():
            return {"$decimal": str(value)}
        case UUID():
            return {"$uuid": str(value)}
        case float() if not math.isfinite(value):
            return {"$float": repr(float(value))}
    return None


def _items(values: Any, path: str) -> list[Any]:
    return [written(each, f"{path}[{index}]") for index, each in enumerate(values)]


def _mapping(value: Mapping[Any, Any], path: str) -> dict[str, Any]:
    is_plain = all(isinstance(name, str) for name in value)
    if is_plain and not (len(value) == 1 and next(iter(value)) in TAGS):
        return {str.__str__(name): written(each, f"{path}.{name}") for name, each in value.items()}
    pairs = [(written(k, f"{path} (a name)"), written(v, path)) for k, v in value.items()]
    return {"$map": [list(pair) for pair in pairs]}


TAGS: dict[str, Callable[[Any], Any]] = {
    "$bytes": base64.b64decode,
    "$time": datetime.fromisoformat,
    "$date": date.fromisoformat,
    "$clock": time.fromisoformat,
    "$microseconds": lambda text: timedelta(microseconds=int(text)),
    "$decimal": Decimal,
    "$uuid": UUID,
    "$float": float,
    "$tuple": lambda items: tuple(map(read, items)),
    "$set_of": lambda items: set(map(read, items)),
    "$frozenset_of": lambda items: frozenset(map(read, items)),
    "$map": lambda pairs: {read(name): read(value) for name, value in pairs},
}


def read(value: Any) -> Any:
    """Read what ``written`` wrote, equal to what it was. Raises ValueError, TypeError, KeyError."""
    if isinstance(value, list):
        return [read(each) for each in value]
    if not isinstance(value, dict):
        return value
    if len(value) == 1 and (tag := next(iter(value))) in TAGS:
        return TAGS[tag](value[tag])
    return {name: read(each) for name, each in value.items()}
