"""Trace of one message: its lives over all runs, workers and clusters, and what lay between.

A deferred message lives on in a retry topic: these lives are in the trace of its first place.
Bounded: at most ``MAX_EVENTS`` rows of the message and of each of ``MAX_DEFERRED`` later lives,
``MAX_TASKS`` tasks, ``MAX_MARKS`` events around it. What was left out is said (``is_cut``).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from uuid import UUID

from django.db.models import Q, QuerySet
from django.utils import timezone

from domain.events import (
    LetterEvent,
    PartitionEvent,
    RunEvent,
    Shown,
    kinds_of,
    status_of,
)
from recorder.message_row import MESSAGE
from recorder.models import Event, Run
from recorder.reading import events_of, few, of_runs, runs_of_cluster, shifted
from recorder.spans import Life, RecordPlace, Span, detail, lives_of, start_of

MAX_EVENTS = 2000
MAX_TASKS = 200
MAX_MARKS = 200
MAX_SKIPS = 20
MAX_CLUSTERS = 4
MAX_DEFERRED = 20
PARTITION_KINDS = kinds_of(PartitionEvent, Shown.TRACE)
RUN_KINDS = kinds_of(RunEvent, Shown.TRACE)
AFTER_KINDS = kinds_of(LetterEvent, Shown.TRACE)
POSITION_KINDS = kinds_of(PartitionEvent)
"""Kinds whose offset is a position; commits are looked for apart."""
ENDS_OF_A_STAY = ("revoked", "lost", "worker_stopped", "worker_lost")
AFTERWARDS = timedelta(seconds=60)
COMMITTED_WITHIN = timedelta(hours=1)
"""Time after its fate in which a message's commit is looked for before all that follows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A message's place in Kafka."""

    topic: str
    partition: int
    offset: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunName:
    """Name of a run; ``is_live`` says that its last beat still calls it alive."""

    cluster: str
    worker: str
    is_live: bool


UNKNOWN_RUN = RunName(cluster="", worker="unknown", is_live=False)


@dataclass(slots=True, kw_only=True)
class Trace:
    """All that is known of a message; ``marks`` are partition, run, replay and control events.

    ``open_until``: something runs still, and the trace was read at this moment.
    """

    place: Place
    events: Sequence[Event]
    lives: list[Life]
    marks: list[Span]
    names: Mapping[UUID, RunName]
    is_cut: bool
    notes: list[str] = field(default_factory=list)
    open_until: datetime | None = None

    @property
    def start(self) -> datetime:
        """First moment; meaningful only where there are events."""
        return min(span.start for span in self.spans())

    @property
    def end(self) -> datetime:
        """Last moment that is known: what runs still reaches to when it was looked at."""
        last = max(span.end or span.start for span in self.spans())
        return last if self.open_until is None else max(last, self.open_until)

    def spans(self) -> list[Span]:
        """Every span of every life, and the marks."""
        return [*(span for life in self.lives for span in life.spans), *self.marks]

    def name_of(self, run: UUID) -> RunName:
        """Return the name of a run, also of one that is not in the database any more."""
        return self.names.get(run, UNKNOWN_RUN)


def trace(place: Place) -> Trace:
    """Read and assemble a trace; without any event it has no lives."""
    # Postgres holds no NUL, so nothing can be there.
    own, skips = ([], []) if "\0" in place.topic else _own_and_skips(place)
    shared = _shared_tasks(place, own)
    later = _deferred_lives(own)
    every = [*own[:MAX_EVENTS], *shared, *(row for rows in later.values() for row in rows)]
    events = sorted(every, key=lambda row: (row.ts, row.run, row.seq))
    lives = lives_of((row for row in events if row.kind not in AFTER_KINDS), later.keys())
    around = _around(place, events) if events else []
    known = {row.pk for row in around}
    around = sorted(
        [*around, *(row for row in skips if row.pk not in known)],
        key=lambda row: (row.ts, row.run, row.seq),
    )
    names = _names({row.run for row in [*events, *around]})
    found = Trace(
        place=place,
        events=events,
        lives=lives,
        marks=[],
        names=names,
        is_cut=len(own) > MAX_EVENTS or len(shared) >= MAX_EVENTS or len(around) >= MAX_MARKS,
    )
    if events or skips:
        _close(found, around)
        if any(span.end is None for span in found.spans()):
            found.open_until = timezone.now()
        around += _commits(found)
        found.marks = [_mark(row, number) for number, row in enumerate(around)]
        told = {row.pk: row for row in [*events, *around]}
        found.events = sorted(told.values(), key=lambda row: (row.ts, row.run, row.seq))
    return found


def _rows() -> QuerySet[Event]:
    return Event.objects.defer("stdout", "stderr", "args")


def _own(place: Place) -> list[Event]:
    """Return the message's events and some more than are shown, if there are so many."""
    rows = _rows().filter(_told_of(place), partition=place.partition, topic=place.topic)
    return events_of(few(rows) or rows.order_by("ts", "id")[: MAX_EVENTS + 1])


def _own_and_skips(place: Place) -> tuple[list[Event], list[Event]]:
    """Return the message's events as ``_own`` does, and the skips of an operator that passed over
    it: its fate, told with others'."""
    skip = Q(kind="skipped", offset__gt=place.offset, data__committed__lte=place.offset)
    rows = _rows().filter(partition=place.partition, topic=place.topic)
    found = few(rows.filter(Q(offset=place.offset) | Q(kind="skipped")))
    if found is None:
        asked = rows.filter(_told_of(place) | skip).order_by("ts", "id")
        found = list(asked[: MAX_EVENTS + 1 + MAX_SKIPS])
    own = [row for row in found if row.offset == place.offset and row.kind not in POSITION_KINDS]
    skips = [row for row in found if row.kind == "skipped" and _passes_over(row, place.offset)]
    return events_of(own), skips[:MAX_SKIPS]


def _passes_over(skip: Event, offset: int) -> bool:
    committed = detail(skip).get("committed")
    is_behind = skip.offset is not None and skip.offset > offset
    return is_behind and isinstance(committed, int) and committed <= offset


def _told_of(place: Place) -> Q:
    return Q(offset=place.offset) & ~Q(kind__in=POSITION_KINDS)


def _deferred_lives(own: Sequence[Event]) -> dict[RecordPlace, list[Event]]:
    """Return the rows of the records in retry topics as which the message lived on, by place."""
    found: dict[RecordPlace, list[Event]] = {}
    named = list(_retries_in(own))
    while named and len(found) < MAX_DEFERRED:
        place = named.pop(0)
        if (key := (place.topic, place.partition, place.offset)) not in found:
            found[key] = _own(place)[:MAX_EVENTS]
            named += _retries_in(found[key])
    return found


def _retries_in(rows: Sequence[Event]) -> Iterator[Place]:
    for row in rows:
        told = detail(row)
        if row.kind == "deferred" and told.get("retry_offset") is not None:
            yield Place(
                topic=str(told["retry_topic"]),
                partition=int(told["retry_partition"]),
                offset=int(told["retry_offset"]),
            )


def _shared_tasks(place: Place, own: Iterable[Event]) -> list[Event]:
    """Rows of tasks that serve this message but bear a lower offset (fan-in), and of their heirs.

    ``arranged`` names every task of a message, so nothing has to be searched for.
    """
    named = {
        str(task_id)
        for row in own
        if row.kind == "arranged"
        for task_id in detail(row).get("task_ids") or ()
    }
    elsewhere = sorted(t for t in named if offset_of(t) not in (None, place.offset))[:MAX_TASKS]
    if not elsewhere:
        return []
    either = [Q(task_id=t) | Q(task_id__startswith=f"{t}.r") for t in elsewhere]
    rows = _rows().filter(
        reduce(or_, either) | Q(kind=MESSAGE),
        topic=place.topic,
        partition=place.partition,
        offset__in={offset_of(t) for t in elsewhere},
    )
    names = tuple(f"{task_id}.r" for task_id in elsewhere)
    events = events_of(rows.order_by("ts", "id")[:MAX_EVENTS])
    return [
        event
        for event in events
        if event.task_id and (event.task_id in elsewhere or event.task_id.startswith(names))
    ][:MAX_EVENTS]


def offset_of(task_id: str) -> int | None:
    """Return the offset in a task's id (``partition:offset:n``); None when it is no such id."""
    parts = task_id.split(":")
    return int(parts[1]) if len(parts) == 3 and parts[1].isdecimal() else None


def _around(place: Place, events: Sequence[Event]) -> list[Event]:
    """Return what befell the partition and the runs while the message lived, with replays."""
    since, until = min(start_of(row) for row in events), events[-1].ts + AFTERWARDS
    runs = {row.run for row in events}
    window = _rows().filter(ts__gte=since, ts__lte=until)
    of_partition = window.filter(
        kind__in=PARTITION_KINDS, partition=place.partition, topic=place.topic
    )
    of_runs = window.filter(kind__in=RUN_KINDS, run__in=runs)
    lost = _rows().filter(
        kind="worker_lost", ts__gte=since, data__lost_run__in=[str(run) for run in runs]
    )
    found = [
        *of_partition.order_by("ts", "id")[:MAX_MARKS],
        *of_runs.order_by("ts", "id")[:MAX_MARKS],
        *lost.order_by("ts", "id")[:MAX_MARKS],
        *_replays(events),
    ]
    return sorted(found, key=lambda row: (row.ts, row.run, row.seq))[:MAX_MARKS]


def _replays(events: Iterable[Event]) -> list[Event]:
    """Replays and resolutions, told of the message's own place or of its letters'."""
    own = [row for row in events if row.kind in AFTER_KINDS]
    letters = {
        (str(found["letter_topic"]), int(found["letter_partition"]), int(found["letter_offset"]))
        for row in events
        if row.kind == "dead_lettered" and (found := detail(row)).get("letter_offset") is not None
    }
    if not letters:
        return own
    where = [Q(topic=t, partition=p, offset=o) for t, p, o in sorted(letters)[:MAX_TASKS]]
    rows = _rows().filter(reduce(or_, where), kind__in=AFTER_KINDS)
    return own + list(rows.order_by("ts", "id")[:MAX_MARKS])


def _names(runs: set[UUID]) -> dict[UUID, RunName]:
    rows = Run.objects.filter(id__in=runs).select_related("beat")
    return {
        run.id: RunName(
            cluster=run.cluster,
            worker=run.worker,
            is_live=hasattr(run, "beat") and run.beat.state not in ("stopped", "lost"),
        )
        for run in rows.defer("config", "environment", "beat__metrics", "beat__partitions")
    }


def _commits(found: Trace) -> list[Event]:
    """Return the first commit of each cluster that passed the message after it got its fate."""
    fates: dict[str, datetime] = {}
    for life in found.lives:
        if life.whole.facts.get("fate") and life.whole.end is not None:
            fates.setdefault(found.name_of(life.run).cluster, life.whole.end)
    commits = []
    for cluster, since in sorted(fates.items())[:MAX_CLUSTERS]:
        first = _commit_after(found.place, cluster, since)
        if first is not None:
            commits.append(first)
            _wait_for_commit(found, cluster, since, first.ts)
        else:
            found.notes.append(f"{cluster}: not committed yet")
    return commits


def _commit_after(place: Place, cluster: str, since: datetime) -> Event | None:
    """Return the cluster's first commit behind a place; nearly all come soon."""
    rows = _rows().filter(
        kind="committed",
        partition=place.partition,
        topic=place.topic,
        offset__gt=place.offset,
        ts__gte=since,
    )
    until = shifted(since, COMMITTED_WITHIN)
    soon = rows.filter(of_runs(runs_of_cluster(cluster, since, until)), ts__lt=until)
    if (first := soon.order_by("ts", "id").first()) is not None:
        return first
    later = rows.filter(of_runs(runs_of_cluster(cluster, since)), ts__gte=until)
    return later.order_by("ts", "id").first()


def _wait_for_commit(found: Trace, cluster: str, since: datetime, until: datetime) -> None:
    for life in found.lives:
        if life.whole.end == since and found.name_of(life.run).cluster == cluster:
            life.gap("waits for the commit", since, until)
            return


def _close(found: Trace, around: Sequence[Event]) -> None:
    """End what did not end by itself, and label the time between two lives of one cluster."""
    latest: dict[str, Life] = {}
    for life in found.lives:
        name = found.name_of(life.run)
        if life.whole.end is None:
            _cut_short(life, around, name)
        former = latest.get(name.cluster)
        if former is not None and former.whole.end is not None:
            former_worker = found.name_of(former.run).worker
            label = f"from {former_worker} to {name.worker}"
            life.gap(label, former.whole.end, life.whole.start)
        latest[name.cluster] = life
    for row in around:
        if row.kind == "recorder_shed":
            counts = detail(row).get("shed") or {}
            worker = found.name_of(row.run).worker
            found.notes.append(f"{worker}: {sum(counts.values())} events could not be kept")


def _cut_short(life: Life, around: Sequence[Event], name: RunName) -> None:
    last = max(span.end or span.start for span in life.spans)
    for row in around:
        is_own = row.run == life.run or detail(row).get("lost_run") == str(life.run)
        if is_own and row.kind in ENDS_OF_A_STAY and row.ts >= last:
            reason = detail(row).get("reason")
            _end(life, row.ts, f"cut short: {row.kind}{f', {reason}' if reason else ''}")
            return
    if not name.is_live:
        _end(life, last, "cut short: the run ended and told no fate")


def _end(life: Life, at: datetime, note: str) -> None:
    life.whole.note = note
    for span in life.spans:
        if span.end is None:
            span.end, span.state = at, "failed" if span is life.whole else "unknown"


def _mark(row: Event, number: int) -> Span:
    found = {name: value for name, value in detail(row).items() if value not in (None, "")}
    note = ", ".join(f"{name} {value}" for name, value in found.items())[:200]
    return Span(
        id=f"m{number}",
        parent=None,
        kind=row.kind,
        name=row.kind.replace("_", " "),
        start=row.ts,
        end=row.ts,
        state=status_of(row.kind) or "waiting",
        note=note,
        facts={"run": str(row.run), **found},
    )
