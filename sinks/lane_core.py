"""What the loop side and the threads of a lane share, and what the threads report to the loop."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from domain.decision import DeliveryDecision
from domain.failure import DeliveryError
from sinks.base import ConfigError, PermanentError, Sink, SinkError
from sinks.lane_queue import Entry, FailedAttempt, LaneQueue, Outcome

Ask = Callable[[DeliveryError], Awaitable[DeliveryDecision]]
"""Asks the handler what to do about a failed attempt; awaited on the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChange:
    """The breaker opened (after so many failures) or closed (after so long)."""

    is_open: bool
    failures: int = 0
    detail: str = ""
    open_seconds: float = 0.0


@dataclass(slots=True)
class Report:
    """What happened to one batch, told to the loop in one call."""

    settled: list[tuple[Sequence[Entry], Outcome]] = field(default_factory=list)
    failed: list[tuple[Sequence[Entry], FailedAttempt]] = field(default_factory=list)
    error: FailedAttempt | None = None
    errors: int = 0
    retried: int = 0
    has_opened: bool = False
    breaker: BreakerChange | None = None


@dataclass(slots=True, kw_only=True)
class LaneCore:
    """What the loop side and the threads of a lane share; ``wake`` guards the queue."""

    name: str
    kind: str
    build_sink: Callable[[], Sink]
    queue: LaneQueue
    clock: Callable[[], float]
    chance: Callable[[], float]
    retry_seconds: Callable[[int, float], float]
    ask: Ask | None
    loop: asyncio.AbstractEventLoop
    absorb: Callable[[Report], None]
    wake: threading.Condition = field(default_factory=threading.Condition)
    is_stopping: bool = False
    idle_threads: int = 0
    open_since: float = 0.0

    def post(self, report: Report) -> None:
        """Hand a report to the loop; a loop already closed ends the lane."""
        try:
            self.loop.call_soon_threadsafe(self.absorb, report)
        except RuntimeError:
            self.is_stopping = True


@dataclass(slots=True)
class Shipment:
    """A batch in a thread's hands; ``is_over`` once the queue has been told how it ended."""

    batch: tuple[Entry, ...]
    report: Report = field(default_factory=Report)
    is_over: bool = False


def error_class(error: Exception) -> str:
    """The class an error is counted under; an unknown exception is the infrastructure's."""
    if isinstance(error, PermanentError):
        return "permanent"
    return "config" if isinstance(error, ConfigError) else "transient"


def describe(error: Exception) -> str:
    """The text of a sink's own error; any other exception with its class."""
    if isinstance(error, SinkError):
        return str(error)
    return f"{type(error).__name__}: {error}"


def breakdown(exc: BaseException) -> FailedAttempt:
    """What a thread says of an error that it did not expect, whatever its own words do."""
    words = "".join(traceback.format_exception_only(exc)).strip()
    return FailedAttempt(error_class="transient", detail=f"the sink's thread broke down: {words}")
