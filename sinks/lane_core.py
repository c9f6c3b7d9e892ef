"""State shared by the loop side and the threads of a lane, and the threads' reports to the loop."""

from __future__ import annotations

import asyncio
import threading
import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from domain.decision import DeliveryDecision
from domain.failure import DeliveryError
from domain.text_bounds import described, shortened
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    Sink,
    SinkError,
    TransientError,
    UnknownError,
)
from sinks.lane_queue import Entry, FailedAttempt, LaneQueue, Outcome
from sinks.unknown_errors import UnknownErrors

Ask = Callable[[DeliveryError], Awaitable[DeliveryDecision]]
"""Asks the handler what to do about a failed attempt; awaited on the loop."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerChange:
    """The breaker opened (after so many failures) or closed (after so long)."""

    is_open: bool
    failures: int = 0
    detail: str = ""
    open_seconds: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class ConnectionDropped:
    """A connection was given up: it answered, and stored nothing for so long."""

    seconds: float
    detail: str


@dataclass(slots=True)
class Report:
    """Report on one batch, told to the loop in one call."""

    settled: list[tuple[Sequence[Entry], Outcome]] = field(default_factory=list)
    failed: list[tuple[Sequence[Entry], FailedAttempt]] = field(default_factory=list)
    error: FailedAttempt | None = None
    errors: int = 0
    retried: int = 0
    has_opened: bool = False
    breaker: BreakerChange | None = None
    dropped: ConnectionDropped | None = None


@dataclass(slots=True, kw_only=True)
class LaneCore:
    """State shared by the loop side and the threads of a lane; ``wake`` guards the queue."""

    name: str
    kind: str
    build_sink: Callable[[], Sink]
    queue: LaneQueue
    clock: Callable[[], float]
    chance: Callable[[], float]
    retry_seconds: Callable[[int, float], float]
    fruitless_seconds: float
    ask: Ask | None
    loop: asyncio.AbstractEventLoop
    absorb: Callable[[Report], None]
    unknown_errors: UnknownErrors = field(default_factory=UnknownErrors)
    wake: threading.Condition = field(default_factory=threading.Condition)
    stopping: threading.Event = field(default_factory=threading.Event)
    idle_threads: int = 0
    pausing_threads: int = 0
    """Of the idle ones, those that wake up by themselves when a batch's pause is over."""
    open_since: float = 0.0

    @property
    def is_stopping(self) -> bool:
        """Whether the lane ends."""
        return self.stopping.is_set()

    def post(self, report: Report) -> None:
        """Hand a report to the loop; a loop already closed ends the lane."""
        try:
            self.loop.call_soon_threadsafe(self.absorb, report)
        except RuntimeError:
            self.stopping.set()


@dataclass(slots=True)
class InFlightBatch:
    """A batch in a thread's hands; ``is_over`` once the queue has been told how it ended.

    ``encoded`` is what the sink sends of each entry. ``refused`` are the payloads found bad;
    ``suspects`` failed alone with an error that no table knows, ``slow`` ones with a transient
    error, and of these the handler is ``asked``. ``stored_before`` is how many payloads the lane
    had stored when it began.
    """

    batch: tuple[Entry, ...]
    stored_before: int = 0
    report: Report = field(default_factory=Report)
    encoded: dict[Entry, Any] = field(default_factory=dict)
    refused: list[tuple[Entry, PermanentError]] = field(default_factory=list)
    suspects: list[tuple[Entry, UnknownError]] = field(default_factory=list)
    slow: list[tuple[Entry, SinkError]] = field(default_factory=list)
    asked: list[tuple[Entry, SinkError]] = field(default_factory=list)
    has_stored: bool = False
    is_over: bool = False

    @property
    def has_news(self) -> bool:
        """Whether the sink answered: it stored something, or refused it for its data."""
        return self.has_stored or any(entry in self.encoded for entry, _ in self.refused)


class SuspectRefused(PermanentError):
    """A payload refused for an error that no table knows."""


class SuspectWaits(TransientError):
    """A payload failed with an error that no table knows, and nothing proves it to be the data."""


def encode(sink: Sink, delivery: Delivery) -> Any:
    """Return what the sink sends of a payload. Raises PermanentError, whatever the sink raises."""
    try:
        return sink.encode(delivery)
    except PermanentError:
        raise
    except BaseException as exc:
        raise PermanentError(describe(exc)) from exc


def error_class(error: Exception) -> str:
    """The class an error is counted under."""
    if isinstance(error, (SuspectRefused, SuspectWaits, UnknownError)):
        return "unknown"
    if isinstance(error, PermanentError):
        return "permanent"
    return "config" if isinstance(error, ConfigError) else "transient"


def failed_attempt(error: Exception) -> FailedAttempt:
    """Return what is told of an error."""
    return FailedAttempt(
        error_class=error_class(error),
        detail=describe(error),
        is_transient=not isinstance(error, PermanentError),
    )


def describe(error: BaseException) -> str:
    """The text of a sink's own error; any other exception with its class, whatever its words do."""
    try:
        return shortened(str(error)) if isinstance(error, SinkError) else described(error)
    except Exception:  # noqa: BLE001 - an error whose own words are broken
        return f"{type(error).__name__}, whose own text cannot be read"


def breakdown(exc: BaseException) -> FailedAttempt:
    """Return what is told of an error that no thread expected, whatever its own words do."""
    words = "".join(traceback.format_exception_only(exc)).strip()
    return FailedAttempt(error_class="transient", detail=f"the sink's thread broke down: {words}")
