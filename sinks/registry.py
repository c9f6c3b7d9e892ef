"""Sink kinds: each backend module registers itself; plugins come by entry point or dotted path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.metadata import entry_points
from pkgutil import iter_modules
from typing import Annotated, Any

from pydantic import BeforeValidator, SerializeAsAny
from pydantic_core import PydanticCustomError

from domain.payload import Payload
from sinks.base import Sink
from sinks.config import SinkConfig

ENTRY_POINT_GROUP = "drakkar.sinks"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkContext:
    """What a backend may need besides its own section. ``source_*`` are the source topic's."""

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


_KINDS: dict[str, SinkKind] = {}


def register(kind: SinkKind) -> SinkKind:
    """Make a kind known; called once at import of its module."""
    _KINDS[kind.name] = kind
    return kind


def known_kinds() -> tuple[str, ...]:
    """Names of all kinds: the backends of this package and installed plugins."""
    import sinks.backends

    for module in iter_modules(sinks.backends.__path__):
        import_module(f"sinks.backends.{module.name}")
    for point in entry_points(group=ENTRY_POINT_GROUP):
        if point.name not in _KINDS:
            register(point.load())
    return tuple(sorted(_KINDS))


def find(name: str) -> SinkKind:
    """The kind of that name, or at that dotted path ``package.module:KIND``.

    Raises LookupError naming the known kinds.
    """
    if ":" in name and name not in _KINDS:
        module, _, attribute = name.partition(":")
        try:
            kind = getattr(import_module(module), attribute)
        except (ImportError, AttributeError) as exc:
            raise LookupError(f"cannot import sink kind {name!r}: {exc}") from exc
        if not isinstance(kind, SinkKind):
            raise LookupError(f"{name!r} is not a sink kind (expected a SinkKind)")
        return kind
    if name not in _KINDS:  # asked for every payload: the scan for plugins takes milliseconds
        known = known_kinds()
        if name not in _KINDS:
            raise LookupError(f"expected one of {', '.join(known)}, got {name!r}")
    return _KINDS[name]


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
