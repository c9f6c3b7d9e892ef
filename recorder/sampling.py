"""Keeps one message of many, and every one that is worth a look, whole; counts exactly what it
leaves out.

A message is judged at its fate. Until then its events are held, unless it is kept for sure: it is
chosen by its identity, or something already befell it for which it is kept. So of a message all
events are stored or none, and a rerun of it is judged as it was.

    consumed ─> held ─┬─ chosen, or a rule of ``keep`` ────> its events, and all that follow
                      ├─ held for long, or no room ────────> the same
                      ├─ its partition is taken away ──────> the same
                      └─ its fate, and none of these ──────> counted (``sampled``), let go
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b

from domain.events import (
    Arranged,
    Assigned,
    DeadLettered,
    Delivered,
    DeliveryFailed,
    Event,
    Lost,
    MessageCompleted,
    MessageDeferred,
    MessageEvent,
    PartitionEvent,
    Revoked,
    Sampled,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReplaced,
    TaskRetried,
    TaskStarted,
)
from recorder.config import SampleConfig
from recorder.rollups.sums import Sums, Tally

MAX_HELD_SECONDS = 30.0
"""A message whose fate takes longer is kept, whether slow ones are or not."""
MAX_HELD_EVENTS = 50_000
MAX_HELD_BYTES = 16 * 1024 * 1024
"""Of output held; past either the oldest messages are kept."""
ACCOUNT_SECONDS = 1.0
"""Interval of the rows that count what was left out."""

Place = tuple[str, int, int]
"""Topic, partition and offset of a message."""
_FAILED = (TaskFailed, TaskCancelled, TaskReplaced, DeliveryFailed)
_RETRIED = (TaskRetried, MessageDeferred)
_FATES: Mapping[str, str] = {
    "skipped": "failed",
    "dead_lettered": "lettered",
    "deferred": "retried",
}


def is_chosen(identity: str, one_in: int) -> bool:
    """Tell whether a message is the one of ``one_in``: by its ``partition:offset`` of its first
    life, the same in every run and for each of its replays."""
    digest = blake2b(identity.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "big") % one_in == 0


@dataclass(slots=True)
class _Undecided:
    """Events of a message that may yet be left out, in the order told."""

    events: list[MessageEvent] = field(default_factory=list)
    size_bytes: int = 0
    identity: str = ""


class Sampling:
    """Holds events back until their message is judged. For one thread."""

    def __init__(self, config: SampleConfig, tally: Tally | None = None) -> None:
        self._tally = tally or Tally()
        self._sums = Sums()
        self._one_in = config.one_in
        self.is_off = config.one_in == 1
        """Whether all messages are kept: nothing need be passed on here."""
        self._rules = frozenset(config.keep)
        self._labels = config.labels
        self._hold_seconds = MAX_HELD_SECONDS
        if "slow" in self._rules:
            self._hold_seconds = min(config.slow_ms / 1000.0, MAX_HELD_SECONDS)
        self._slow_ms = config.slow_ms
        self._undecided: dict[Place, _Undecided] = {}
        self._kept: set[Place] = set()
        self._held_bytes = 0
        self.held_events = 0
        """Events of messages that are not judged yet."""
        self._left_out: Counter[str] = Counter()
        self._fates: Counter[str] = Counter()
        self._account_at = 0.0

    def pass_on(self, event: Event) -> Sequence[Event]:
        """Return the events to keep now: those held of the event's message come first."""
        if not isinstance(event, MessageEvent):
            if not isinstance(event, Assigned | Revoked | Lost):
                return (event,)
            return (*self._interrupted(event), event)
        place = (event.topic, event.partition, event.offset)
        if place in self._kept:
            if isinstance(event, MessageCompleted):
                self._kept.discard(place)
            return (event,)
        self._hold(place, event)
        if isinstance(event, MessageCompleted):
            return self._judged(place, event)
        if self._is_worth_it(event) or self._is_chosen_early(place, event):
            return self._keep(place)
        return self._relieve()

    def due(self, wall: float) -> Iterator[Event]:
        """Yield what was held long enough: its message is a slow one."""
        for place, held in list(self._undecided.items()):
            if held.events[0].at + self._hold_seconds > wall:
                return
            yield from self._keep(place)

    def rest(self) -> Iterator[Event]:
        """Yield all that is held: there will be no fate any more."""
        for place in list(self._undecided):
            yield from self._keep(place)

    def account(self, wall: float, *, is_last: bool = False) -> Sequence[Sampled]:
        """Return what tells of the messages left out since the last one, once a second."""
        if not self._left_out or not (is_last or wall - self._account_at >= ACCOUNT_SECONDS):
            return ()
        told = Sampled(
            at=wall,
            one_in=self._one_in,
            messages=self._fates.total(),
            events=dict(self._left_out),
            fates=dict(self._fates),
            sums=self._sums.carried(),
        )
        self._sums = Sums()
        self._left_out, self._fates, self._account_at = Counter(), Counter(), wall
        return (told,)

    def _hold(self, place: Place, event: MessageEvent) -> None:
        held = self._undecided.setdefault(place, _Undecided())
        size = _output_bytes(event)
        held.events.append(event)
        held.size_bytes += size
        self._held_bytes += size
        self.held_events += 1

    def _take(self, place: Place) -> _Undecided:
        held = self._undecided.pop(place)
        self._held_bytes -= held.size_bytes
        self.held_events -= len(held.events)
        return held

    def _keep(self, place: Place) -> Sequence[Event]:
        self._kept.add(place)
        return self._take(place).events

    def _judged(self, place: Place, fate: MessageCompleted) -> Sequence[Event]:
        """Let a message go, or return its events; it has its fate, and is forgotten."""
        held = self._take(place)
        is_slow = "slow" in self._rules and fate.duration_ms >= self._slow_ms
        identity = held.identity or f"{fate.partition}:{fate.offset}"
        is_kept = _FATES.get(fate.fate) in self._rules or is_slow
        if is_kept or is_chosen(identity, self._one_in):
            return held.events
        self._left_out.update(event.kind for event in held.events)
        self._fates[fate.fate] += 1
        self._sums.add_events(held.events, self._tally)
        return ()

    def _is_worth_it(self, event: MessageEvent) -> bool:
        """Whether what befell the message is a reason to keep it."""
        match event:
            case DeadLettered():
                return True
            case TaskStarted() | TaskCompleted() | Delivered() if event.attempt > 1:
                is_so = "retried" in self._rules
            case _:
                is_so = isinstance(event, _FAILED) and "failed" in self._rules
                is_so = is_so or (isinstance(event, _RETRIED) and "retried" in self._rules)
        labels: Mapping[str, str] = getattr(event, "labels", {}) if self._labels else {}
        return is_so or any(labels.get(name) == value for name, value in self._labels)

    def _is_chosen_early(self, place: Place, event: MessageEvent) -> bool:
        """Whether the message is the one of many, once it is known after whom its tasks are
        named."""
        if not isinstance(event, Arranged) or not event.task_ids:
            return False
        identity = event.task_ids[0].rsplit(":", 1)[0]
        self._undecided[place].identity = identity
        return is_chosen(identity, self._one_in)

    def _interrupted(self, event: PartitionEvent) -> Iterator[Event]:
        """Yield what is held of a partition whose epoch begins or ends. What the epoch before told
        is over with the next one."""
        where = (event.topic, event.partition)
        if isinstance(event, Assigned):
            self._kept = {each for each in self._kept if each[:2] != where}
        for place in [each for each in self._undecided if each[:2] == where]:
            yield from self._keep(place)

    def _relieve(self) -> Sequence[Event]:
        """Keep the oldest messages where no more can be held."""
        given: list[Event] = []
        while self.held_events > MAX_HELD_EVENTS or self._held_bytes > MAX_HELD_BYTES:
            given += self._keep(next(iter(self._undecided)))
        return given


def _output_bytes(event: Event) -> int:
    if not isinstance(event, TaskCompleted | TaskFailed | TaskCancelled):
        return 0
    return len(event.stdout or b"") + len(event.stderr or b"")
