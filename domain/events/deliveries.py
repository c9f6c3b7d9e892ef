"""What happens between a payload and its sink."""

from __future__ import annotations

from domain.events.base import Event, kind
from domain.value import value


@kind("delivered")
@value(frozen=True, slots=True, kw_only=True)
class Delivered(Event):
    """A sink stored a payload."""

    topic: str
    partition: int
    offset: int
    task_id: str | None
    sink: str
    sink_kind: str
    delivery_id: str
    attempt: int
    duration_ms: float
    queue_ms: float


@kind("delivery_failed")
@value(frozen=True, slots=True, kw_only=True)
class DeliveryFailed(Event):
    """An attempt to store a payload failed, or the payload was given up."""

    topic: str
    partition: int
    offset: int
    task_id: str | None
    sink: str
    sink_kind: str
    delivery_id: str
    attempt: int
    is_transient: bool
    detail: str


@kind("breaker_opened")
@value(frozen=True, slots=True, kw_only=True)
class BreakerOpened(Event):
    """A sink failed too often in a row; it rests until a probe."""

    sink: str
    sink_kind: str
    failures: int
    detail: str


@kind("sink_reconnected")
@value(frozen=True, slots=True, kw_only=True)
class SinkReconnected(Event):
    """A connection was made anew: it answered, but stored nothing for ``duration_ms``."""

    sink: str
    sink_kind: str
    duration_ms: float
    detail: str


@kind("breaker_closed")
@value(frozen=True, slots=True, kw_only=True)
class BreakerClosed(Event):
    """A sink works again."""

    sink: str
    sink_kind: str
    duration_ms: float
