"""Event kinds, each declared with its class, and how events are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields
from enum import Enum, Flag, StrEnum, auto
from typing import ClassVar, TypeVar, dataclass_transform

from domain.value import value

EventT = TypeVar("EventT", bound="Event")

COLUMNS = (
    "topic",
    "partition",
    "offset",
    "task_id",
    "slot",
    "exit_code",
    "pid",
    "duration_ms",
    "queue_ms",
    "attempt",
    "sink",
    "labels",
    "args",
    "stdout",
    "stderr",
    "stdout_size",
    "stderr_size",
)
"""Columns of the events table that an event may fill, besides ``id ts run seq kind data``: its
other fields are ``data``."""

CARRIED = ("content", "sums", "groups")
"""Fields that no event row holds: a projection makes rows of its own of them (recorder.writer)."""


@value(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]
    at: float


class Severity(StrEnum):
    """Weight of a kind in the log: ``ROUTINE`` is not logged at all."""

    ROUTINE = "routine"
    INFO = "info"
    WARNING = "warning"


class Shed(Enum):
    """Order in which the recorder gives up events where it has no room; FIRST is what went well."""

    FIRST = auto()
    LAST = auto()
    NEVER = auto()


class Shown(Flag):
    """Pages that show a kind of their own accord; ``/history`` shows every kind."""

    NOWHERE = 0
    LIVE = auto()
    TRACE = auto()
    """Beside the messages of its partition or run; what a message tells itself is always there."""
    PARTITION = auto()
    """Under "Notable" on the page of a partition."""
    EVERYWHERE = LIVE | TRACE | PARTITION


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """Vertical line on the live timeline: shape of its flag, icon, and status for its colour."""

    shape: str
    icon: str
    status: str


REBALANCE = Mark(shape="rebalance", icon="swap", status="waiting")
PAUSE = Mark(shape="pause", icon="paused", status="paused")
START = Mark(shape="start", icon="running", status="completed")
DEPLOY = Mark(shape="start", icon="swap", status="retrying")
STOP = Mark(shape="stop", icon="stop", status="failed")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """All that is declared of a kind of event: other places derive from it, and hold no list.

    ``columns`` and ``data`` are the fields of a row, and where it has them (COLUMNS, CARRIED).
    ``metrics`` are those that the worker's counters move for it (``_on_<kind>`` in
    ``workers/runtime/listeners/counters.py``). ``status`` is its colour on pages, empty when it is
    neither good nor bad; ``icon`` where it has one of its own, not that of its status.
    """

    name: str
    event: type[Event]
    columns: tuple[str, ...]
    data: tuple[str, ...]
    severity: Severity
    shed: Shed
    metrics: tuple[str, ...]
    status: str
    icon: str
    shown: Shown
    mark: Mark | None


KINDS: dict[str, Kind] = {}
"""Every kind of event by its name."""


def kinds_of(base: type[Event] = Event, shown: Shown = Shown.NOWHERE) -> tuple[str, ...]:
    """Return the names of the kinds below a base class that are shown there."""
    return tuple(
        kind.name for kind in KINDS.values() if issubclass(kind.event, base) and shown in kind.shown
    )


def status_of(kind: str) -> str:
    """Return a kind's colour on pages; none for one that only another release knows."""
    return KINDS[kind].status if kind in KINDS else ""


@dataclass_transform(frozen_default=True, kw_only_default=True)
def kind(
    name: str,
    *metrics: str,
    severity: Severity = Severity.INFO,
    shed: Shed | None = None,
    status: str = "",
    icon: str = "",
    shown: Shown = Shown.NOWHERE,
    mark: Mark | None = None,
) -> Callable[[type[EventT]], type[EventT]]:
    """Make an event class, and declare its kind (fields of ``Kind``). Unless told otherwise,
    routine is shed first, and everything else last."""
    if shed is None:
        shed = Shed.FIRST if severity is Severity.ROUTINE else Shed.LAST

    def register(cls: type[EventT]) -> type[EventT]:
        made: type[EventT] = value(frozen=True, slots=True, kw_only=True)(cls)
        made.kind = name
        names = [each.name for each in fields(made) if each.name not in ("at", *CARRIED)]
        KINDS[name] = Kind(
            name=name,
            event=made,
            columns=tuple(each for each in names if each in COLUMNS),
            data=tuple(each for each in names if each not in COLUMNS),
            severity=severity,
            shed=shed,
            metrics=metrics,
            status=status,
            icon=icon,
            shown=shown,
            mark=mark,
        )
        return made

    return register


Tell = Callable[[Event], None]
"""Receiver of events. Called on the worker's loop thread only; never raises, never blocks."""


class Listeners:
    """A ``Tell`` that passes each event to every listener, in the order given.

    A listener may have ``listener_of(kind)``: the ``Tell`` for events of that kind in its place, or
    None where it wants none of them.

    What a listener raises is that listener's loss alone: it is counted in ``errors`` under its name
    and said to ``on_error(name, error, count)``; the others hear the event, and whoever tells it
    goes on.
    """

    def __init__(
        self,
        listeners: Mapping[str, Tell],
        on_error: Callable[[str, Exception, int], None] | None = None,
    ) -> None:
        self._by_kind = {kind: _hearing(listeners, kind) for kind in KINDS}
        self._on_error = on_error
        self.errors: dict[str, int] = dict.fromkeys(listeners, 0)
        """Events that each listener failed on."""

    def __call__(self, event: Event) -> None:
        """Tell it. Never raises."""
        for name, listener in self._by_kind[event.kind]:
            try:
                listener(event)
            except Exception as exc:  # noqa: BLE001 - a listener's fault is not the message's
                self._failed(name, exc)

    def _failed(self, name: str, error: Exception) -> None:
        self.errors[name] += 1
        if self._on_error is not None:
            with suppress(Exception):
                self._on_error(name, error, self.errors[name])


def _hearing(listeners: Mapping[str, Tell], kind: str) -> tuple[tuple[str, Tell], ...]:
    found = {
        name: listener.listener_of(kind) if hasattr(listener, "listener_of") else listener
        for name, listener in listeners.items()
    }
    return tuple((name, listener) for name, listener in found.items() if listener is not None)


def ignore(event: Event) -> None:
    """A listener that wants nothing."""
