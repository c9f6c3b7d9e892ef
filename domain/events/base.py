"""The base of all events, their registry, and how they are told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import fields
from typing import ClassVar, TypeVar

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

CARRIED = ("content",)
"""Fields that no event row holds: a projection makes rows of its own of them (recorder.writer)."""

KINDS: dict[str, type[Event]] = {}
"""Every event class by its kind."""


@value(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events."""

    kind: ClassVar[str]
    at: float


FIELD_NAMES: dict[str, tuple[str, ...]] = {}
"""Field names of each kind, without ``at`` and ``CARRIED``."""


def kind(name: str) -> Callable[[type[EventT]], type[EventT]]:
    """Register an event class under its kind."""

    def register(cls: type[EventT]) -> type[EventT]:
        cls.kind = name
        KINDS[name] = cls
        names = (field.name for field in fields(cls))
        FIELD_NAMES[name] = tuple(each for each in names if each not in ("at", *CARRIED))
        return cls

    return register


Tell = Callable[[Event], None]
"""Where events go. Called on the worker's loop thread only; never raises, never blocks."""


class Listeners:
    """A ``Tell`` that passes each event to every listener, in the order given.

    What a listener raises is that listener's loss alone: it is counted in ``errors`` under its name
    and said to ``on_error(name, error, count)``; the others hear the event, and whoever tells it
    goes on.
    """

    def __init__(
        self,
        listeners: Mapping[str, Tell],
        on_error: Callable[[str, Exception, int], None] | None = None,
    ) -> None:
        self._listeners = tuple(listeners.values())
        self._names = tuple(listeners)
        self._on_error = on_error
        self.errors: dict[str, int] = dict.fromkeys(listeners, 0)
        """Events that each listener failed on."""

    def __call__(self, event: Event) -> None:
        """Tell it. Never raises."""
        for listener in self._listeners:
            try:
                listener(event)
            except Exception as exc:  # noqa: BLE001 - a listener's fault is not the message's
                self._failed(listener, exc)

    def _failed(self, listener: Tell, error: Exception) -> None:
        name = self._names[self._listeners.index(listener)]
        self.errors[name] += 1
        if self._on_error is not None:
            with suppress(Exception):
                self._on_error(name, error, self.errors[name])


def ignore(event: Event) -> None:
    """A listener that wants nothing."""
