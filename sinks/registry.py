"""Sink kinds: a backend module of the kind's name, or a plugin by entry point or dotted path.

Nothing but the kinds asked for is imported: a client library costs a worker up to 15 MiB.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pkgutil import iter_modules
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

import sinks.backends
from domain.payload import Payload
from domain.text_bounds import described
from sinks.base import Sink
from sinks.config import SinkConfig

PARTS = ("open", "encode", "send", "close")
ENTRY_POINT_GROUP = "drakkar.sinks"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkContext:
    """Things a backend may need besides its own section. ``source_*`` are the source topic's."""

    cluster: str
    name: str
    source_brokers: str
    source_client: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkKind:
    """A kind of sink: its configuration model, its payload class and how to build it."""

    name: str
    config: type[SinkConfig]
    payload: type[Payload]
    build: Callable[[Any, SinkContext], Sink]


def build_sink(kind: SinkKind, config: SinkConfig, context: SinkContext) -> Sink:
    """A new sink of that kind. Raises TypeError naming what it lacks of what a lane calls."""
    sink = kind.build(config, context)
    if lacks := _lacking(kind, sink):
        raise TypeError(lacks)
    return sink


def _lacking(kind: SinkKind, sink: object) -> str:
    """Return what a sink, or its class, lacks of what a lane calls; '' if nothing."""
    lacks = [name for name in PARTS if not callable(getattr(sink, name, None))]
    if not lacks:
        return ""
    return (
        f"sink kind {kind.name!r}: expected {', '.join(PARTS)}, got none of the name "
        f"{', '.join(lacks)}; see docs/sink-plugins.md"
    )


def known_kinds() -> tuple[str, ...]:
    """Names of all kinds: the backends of this package and installed plugins."""
    return tuple(sorted({*_built_in(), *entry_points(group=ENTRY_POINT_GROUP).names}))


def find(name: str) -> SinkKind:
    """Return the kind of that name, or at that dotted path ``package.module:KIND``.

    Raises LookupError naming the known kinds, or why a plugin cannot be loaded.
    """
    if name in _built_in():
        kind: SinkKind = import_module(f"sinks.backends.{name}").KIND
        return kind
    points = list(entry_points(group=ENTRY_POINT_GROUP, name=name))
    if not points and ":" not in name:
        raise LookupError(f"expected one of {', '.join(known_kinds())}, got {name!r}")
    point = points[0] if points else EntryPoint(name, name, ENTRY_POINT_GROUP)
    try:
        found = point.load()
    except (Exception, SystemExit) as exc:  # a plugin may raise anything while it is imported
        raise LookupError(f"sink kind {name!r}: {described(exc)}") from exc
    if not isinstance(found, SinkKind):
        raise LookupError(f"sink kind {name!r}: expected a SinkKind, got {type(found).__name__}")
    if isinstance(found.build, type) and (lacks := _lacking(found, found.build)):
        raise LookupError(lacks)
    return found


def _built_in() -> frozenset[str]:
    return frozenset(module.name for module in iter_modules(sinks.backends.__path__))


def _validate_section(value: Any) -> SinkConfig:
    if isinstance(value, SinkConfig):
        return value
    if not isinstance(value, dict) or not isinstance(value.get("kind"), str):
        raise PydanticCustomError("sink_kind", "expected a mapping with a key 'kind'")
    try:
        kind = find(value["kind"])
    except LookupError as exc:
        raise PydanticCustomError("sink_kind", "kind: {problem}", {"problem": str(exc)}) from exc
    return kind.config.model_validate(value)


SinkSection = Annotated[SerializeAsAny[SinkConfig], BeforeValidator(_validate_section)]
"""A ``sinks.<name>`` section: validated by the model of its own kind."""
