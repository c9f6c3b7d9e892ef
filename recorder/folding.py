"""Choice of the events that share a row (``recorder.message_row``): those of a message that went as
usual."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from domain.events import (
    Committed,
    Delivered,
    Event,
    MessageCompleted,
    MessageEvent,
    PartitionEvent,
    PeriodicRun,
    TaskCompleted,
    TaskStarted,
)
from recorder.message_row import CODES, MOST_STEPS, SPAN

SPAN_SECONDS = SPAN.total_seconds()
HELD_SECONDS = 2.0
"""How long what was told of a message that waits for its turn is kept for what comes next."""
WAITING = frozenset({"consumed", "arranged"})


def is_usual(event: Event, slow_ms: float) -> bool:
    """Whether an event is as it is when all goes well with its message: the first attempt,
    without progress, and faster than ``slow_ms``, from which on output is kept."""
    match event:
        case TaskStarted() | Delivered():
            return event.attempt == 1
        case TaskCompleted():
            is_well = event.attempt == 1 and event.exit_code in (0, None)
            is_well = is_well and event.progress is None
            return is_well and 0 <= event.duration_ms < slow_ms
        case MessageCompleted():
            return event.fate in ("delivered", "filtered") and not event.reason
    return event.kind in CODES


@dataclass(slots=True)
class Group:
    """Events that are numbered one after the other. ``is_usual``: of one message, with which all
    went well."""

    events: list[Event]
    is_usual: bool = False
    is_open: bool = False
    """Whether more may be put beside them: nothing that ends the order was told since."""

    def waits(self, now: float) -> bool:
        """Whether the message was handed over a moment ago, and nothing was done with it yet."""
        kinds = {event.kind for event in self.events}
        is_new = kinds <= WAITING and 0 <= now - self.events[0].at < HELD_SECONDS
        return self.is_open and self.is_usual and is_new


def grouped(events: Iterable[Event], slow_ms: float, held: Sequence[Group] = ()) -> list[Group]:
    """Put events of one message side by side; those of one that is not usual get no common row.

    ``held`` are groups of before, open still: they come first, and get what belongs to them.

    The order of a message's events stays, and so does the order of them and what befalls their
    partition or the run. Commits and periodic jobs are told beside all that: their place means
    nothing.
    """
    groups = [*held]
    partitions: dict[tuple[str, int], dict[int, Group]] = {}
    for group in held:
        first = group.events[0]
        assert isinstance(first, MessageEvent)
        partitions.setdefault((first.topic, first.partition), {})[first.offset] = group
    for event in events:
        if not isinstance(event, MessageEvent):
            groups.append(Group([event]))
            if not isinstance(event, Committed | PeriodicRun):
                _close(partitions, event)
            continue
        messages = partitions.setdefault((event.topic, event.partition), {})
        known = messages.get(event.offset)
        if known is not None and _is_full(known, event.at):
            known.is_open, known = False, None  # else it is held, and comes after the next one
        if known is None:
            known = messages[event.offset] = Group([], is_usual=True, is_open=True)
            groups.append(known)
        known.events.append(event)
        known.is_usual = known.is_usual and is_usual(event, slow_ms)
    return groups


def _is_full(group: Group, at: float) -> bool:
    elapsed = at - group.events[0].at
    return len(group.events) >= MOST_STEPS or not 0 <= elapsed < SPAN_SECONDS


def _close(partitions: dict[tuple[str, int], dict[int, Group]], event: Event) -> None:
    """Let no message's event told later stand before this one."""
    place = (event.topic, event.partition) if isinstance(event, PartitionEvent) else None
    for messages in [partitions.get(place, {})] if place else partitions.values():
        for group in messages.values():
            group.is_open = False
        messages.clear()
