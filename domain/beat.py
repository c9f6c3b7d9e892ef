"""A heartbeat's figures as typed records, and as the JSON they are stored in.

A document of an older or newer release reads as well: a figure that it lacks, or that has another
type, is None (unknown, not zero); keys that are not known here are passed over.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from functools import cache, partial
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

MOST_ROWS = 10_000
"""Rows of one list and entries of one mapping that are read."""
MAX_TEXT = 10_000
"""Characters of a text that are read."""
LEAST, MOST = -(2**63), 2**64 - 1
"""Bounds of the whole numbers that every reader of JSON takes."""
Read = Callable[[Any], Any]
"""Reads a JSON value; None: it has another type."""


class Record:
    """A part of a heartbeat. A field without a default names the part: it cannot be unknown."""

    __slots__ = ()


R = TypeVar("R", bound=Record)


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterBeat(Record):
    """Counters of a run since it began. ``lags`` is told by the controller: messages each cluster
    is behind; None: unknown."""

    consumed: int | None = None
    tasks_completed: int | None = None
    tasks_failed: int | None = None
    tasks_retried: int | None = None
    tasks_cancelled: int | None = None
    dead_letters: int | None = None
    fates: Mapping[str, int] = field(default_factory=dict)
    lags: Mapping[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunningTask(Record):
    """An attempt that holds a slot; ``started_at`` is UTC epoch seconds. ``progress`` (0 to 1) and
    ``note`` are what its program told last of how far it is."""

    task_id: str
    slot: int | None = None
    topic: str | None = None
    partition: int | None = None
    offset: int | None = None
    attempt: int | None = None
    queue_ms: float | None = None
    labels: Mapping[str, str] = field(default_factory=dict)
    key: str | None = None
    group: str | None = None
    started_at: float | None = None
    pid: int | None = None
    progress: float | None = None
    note: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolBeat(Record):
    """Slots, busy ones, tasks that wait for one (those of them whose group may have no more), tasks
    that wait for their key, and the attempts that hold one."""

    slots: int | None = None
    busy: int | None = None
    waiting: int | None = None
    waiting_for_group: int | None = None
    waiting_for_key: int | None = None
    running: tuple[RunningTask, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocker(Record):
    """The oldest message without a fate, the first of its tasks, its seconds since hand-over at
    the time of the beat, 0 of a deferred one that is not due, and in words the key or group that
    this task waits for; None: for a slot, or for nothing."""

    offset: int
    task_id: str | None = None
    age_seconds: float | None = None
    waits_for: str | None = None


class PartitionState(StrEnum):
    """State of a partition; of several that hold, the last one here."""

    RUNNING = "running"
    STALLED = "stalled"
    PAUSED = "paused"
    PARKED = "parked"
    DRAINING = "draining"


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionBeat(Record):
    """A partition as its owner knows it.

    ``is_paused``: by an operator, this partition alone (``state`` is paused for other reasons too,
    and does not say so where it is parked). ``queue`` counts messages and tasks that wait,
    ``pending`` messages without a fate; ``parked`` has the detail of each cause; ``held`` counts
    deferred messages that are not due (None: it is none of the retry topic), ``resting`` those and,
    where nothing is arranged, those that wait for it: pending ones for which nothing is done.
    ``lag_paces`` are the quartiles of the change of its lag in messages a second over the last five
    minutes, the lower first. ``strip`` are the offsets above the watermark as stretches of (count,
    has_fate).
    """

    topic: str
    partition: int
    epoch: int | None = None
    state: str | None = None
    is_paused: bool | None = None
    parked: Mapping[str, str] = field(default_factory=dict)
    queue: int | None = None
    pending: int | None = None
    held: int | None = None
    resting: int | None = None
    lag: int | None = None
    lag_paces: tuple[float, float] | None = None
    position: int | None = None
    committed: int | None = None
    high_watermark: int | None = None
    watermark: int | None = None
    blocker: Blocker | None = None
    strip: tuple[tuple[int, bool], ...] | None = None

    @property
    def has_pause(self) -> bool:
        """Whether an operator paused it; of an older release as far as its state says."""
        return self.state == PartitionState.PAUSED if self.is_paused is None else self.is_paused

    @property
    def working(self) -> int | None:
        """Messages without a fate for which something is done; None: unknown."""
        return None if self.pending is None else self.pending - (self.resting or 0)

    @property
    def place(self) -> tuple[str, int]:
        """Its topic and number."""
        return self.topic, self.partition


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkBeat(Record):
    """A sink as one worker sees it: counters since the run began, percentiles of batches, times in
    UTC epoch seconds."""

    name: str
    kind: str | None = None
    delivered: int | None = None
    errors: int | None = None
    errors_by_class: Mapping[str, int] = field(default_factory=dict)
    retries: int | None = None
    reconnects: int | None = None
    last_delivery_at: float | None = None
    last_duration_ms: float | None = None
    p50_ms: float | None = None
    p95_ms: float | None = None
    p99_ms: float | None = None
    queue_bytes: int | None = None
    queue_entries: int | None = None
    breaker: str | None = None
    next_probe_seconds: float | None = None
    last_error: str | None = None
    last_error_at: float | None = None
    last_error_class: str | None = None
    latency_counts: tuple[int, ...] = ()
    latency_sum_seconds: float | None = None
    is_paused: bool | None = None
    waiting_for: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class LatencyBeat(Record):
    """Messages by latency: upper bounds of the buckets in seconds, and counts, one more; empty:
    unknown."""

    buckets: tuple[float, ...] = ()
    counts: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class RecorderBeat(Record):
    """Events that wait, bytes on disk, events that could not be kept, and flushes by seconds."""

    buffer_events: int | None = None
    spooled_bytes: int | None = None
    shed: int | None = None
    flush_counts: tuple[int, ...] = ()
    flush_sum_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Beat(Record):
    """What a run says of itself every 2 s. ``state_since`` is in UTC epoch seconds."""

    state: str
    waiting_for: str = ""
    state_since: float | None = None
    rss_bytes: int | None = None
    counters: CounterBeat = field(default_factory=CounterBeat)
    pool: PoolBeat = field(default_factory=PoolBeat)
    partitions: tuple[PartitionBeat, ...] = ()
    sinks: tuple[SinkBeat, ...] = ()
    latency: LatencyBeat = field(default_factory=LatencyBeat)
    recorder: RecorderBeat = field(default_factory=RecorderBeat)


def to_json(value: Any) -> Any:
    """A record, or what one holds, as plain JSON; unknown figures are left out."""
    if isinstance(value, Record):
        told = ((each.name, getattr(value, each.name)) for each in fields(value))  # type: ignore[arg-type]
        return {name: to_json(one) for name, one in told if one is not None}
    if isinstance(value, tuple):
        return [to_json(one) for one in value]
    return dict(value) if isinstance(value, Mapping) else value


def from_json(cls: type[R], document: Any) -> R | None:
    """Return the record that a document holds; None: it lacks what names the part."""
    given = document if isinstance(document, dict) else {}
    readers, needed = _readers(cls)  # type: ignore[arg-type]
    found = {}
    for name, read in readers:
        if (value := given.get(name)) is not None and (value := read(value)) is not None:
            found[name] = value
    return cls(**found) if needed <= found.keys() else None


def rows_from_json(cls: type[R], document: Any) -> tuple[R, ...]:
    """Return the records of a list, without those that cannot be named; () of what is no list."""
    return _read_rows(partial(from_json, cls), document) or ()


@cache
def _readers(cls: type[Record]) -> tuple[tuple[tuple[str, Read], ...], frozenset[str]]:
    hints = get_type_hints(cls)
    named = {each.name for each in fields(cls)}  # type: ignore[arg-type]
    needed = {
        each.name
        for each in fields(cls)  # type: ignore[arg-type]
        if each.default is MISSING and each.default_factory is MISSING
    }
    return tuple((n, _reader(hints[n])) for n in hints if n in named), frozenset(needed)


def _reader(hint: Any) -> Read:
    """How a value of that type is read."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is UnionType:
        return _reader(next(each for each in args if each is not NoneType))
    if origin is tuple and args[-1] is Ellipsis:
        read_row = _reader(args[0])
        return lambda value: _read_rows(read_row, value)
    if origin is tuple:
        each = tuple(map(_reader, args))
        return lambda value: _read_tuple(each, value)
    if origin is not None:
        read, keeps_none = _reader(args[1]), get_origin(args[1]) is UnionType
        return lambda value: _read_mapping(read, value, keeps_none=keeps_none)
    if issubclass(hint, Record):
        return lambda value: from_json(hint, value)
    return SCALARS[hint]


def _read_rows(read: Read, value: Any) -> tuple[Any, ...] | None:
    if not isinstance(value, list | tuple):
        return None
    return tuple([row for row in map(read, value[:MOST_ROWS]) if row is not None])


def _read_tuple(each: tuple[Read, ...], value: Any) -> tuple[Any, ...] | None:
    if not isinstance(value, list | tuple) or len(value) != len(each):
        return None
    found = tuple([read(one) for read, one in zip(each, value, strict=True)])
    return None if None in found else found


def _read_mapping(read: Read, value: Any, *, keeps_none: bool) -> dict[str, Any] | None:
    if not isinstance(value, Mapping):
        return None
    found = ((str(name), read(one)) for name, one in list(value.items())[:MOST_ROWS])
    return {name: one for name, one in found if one is not None or keeps_none}


def _whole(value: Any) -> int | None:
    return value if type(value) is int and LEAST <= value <= MOST else None


def _number(value: Any) -> float | None:
    is_known = type(value) is float or _whole(value) is not None
    return float(value) if is_known else None


def _text(value: Any) -> str | None:
    return value[:MAX_TEXT] if isinstance(value, str) else None


def _flag(value: Any) -> bool | None:
    return value if isinstance(value, bool) else None


SCALARS: Mapping[type, Read] = {int: _whole, float: _number, str: _text, bool: _flag}
