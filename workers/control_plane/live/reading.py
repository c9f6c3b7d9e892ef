"""Reads of the live socket from the database: each run after its own cursor."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Q
from django.db.models.functions import Now

from domain.events import Shown, kinds_of
from recorder.message_row import MOST_STEPS, expand
from recorder.models import Event, Run, RunState
from recorder.reading import of_kinds
from workers.control_plane.live.payloads import Cursor, LiveEvent, live_event
from workers.control_plane.past_runs import Scope
from workers.control_plane.queries import age_seconds, beats, is_live

RUN_EVENTS = 1000
MOST_BEHIND = 5000
RECENT_EVENTS = 4000
ENDED_SECONDS = 60.0
T = TypeVar("T")
RECENT_KINDS = kinds_of(shown=Shown.LIVE)


@dataclass(frozen=True, slots=True)
class Batch:
    """Findings of one look. ``cursor`` stands after its events; ``has_gap``: some were passed over,
    because a run tells faster than can be shown."""

    beats: list[RunState]
    events: list[LiveEvent]
    cursor: Cursor
    has_gap: bool
    shared: dict[Any, Any] = field(default_factory=dict)
    """What listeners of the same choice made of it, each once. Loop thread only."""

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made under that key; make it when it is the first."""
        if key not in self.shared:
            self.shared[key] = make()
        found: T = self.shared[key]
        return found


def read(cursor: Cursor | None) -> Batch:
    """Beats, and the events after the cursor (None: from now on), at most 1,000 of each run.

    A run that began since is read from its start; one that ended is followed until its last event
    was read and a minute longer. What a run told that comes back later than that is a gap.
    """
    known = [UUID(run) for run in cursor or ()]
    just_ended = Q(beat_at__gt=Now() - timedelta(seconds=ENDED_SECONDS))
    found = beats(more=Q(run_id__in=known) | just_ended)
    before = {str(b.run_id): _start(b, cursor) for b in found if _is_followed(b, cursor)}
    ends = {str(beat.run_id): beat.run.recorded_seq for beat in found}
    left = {run for run, seq in before.items() if ends[run] - seq > MOST_BEHIND}
    before |= {run: ends[run] for run in left}
    behind = {run: seq for run, seq in before.items() if ends[run] > seq}
    names = {str(beat.run_id): (beat.run.cluster, beat.run.worker) for beat in found}
    events = events_after(behind, names)
    is_back = any(str(b.run_id) in before and _is_back(b, cursor) for b in found)
    return Batch(found, events, moved(before, events), is_back or bool(left))


def _is_followed(beat: RunState, cursor: Cursor | None) -> bool:
    has_more = beat.run.recorded_seq > (cursor or {}).get(str(beat.run_id), beat.run.recorded_seq)
    return is_live(beat) or has_more or age_seconds(beat) < ENDED_SECONDS


def _start(beat: RunState, cursor: Cursor | None) -> int:
    if cursor is None:
        return beat.run.recorded_seq
    known = cursor.get(str(beat.run_id))
    if known is not None:
        return known
    return beat.run.recorded_seq if _is_back(beat, cursor) else 0


def _is_back(beat: RunState, cursor: Cursor | None) -> bool:
    """Tell whether a run that is no new one is followed again: it was taken for lost."""
    lived = (beat.beat_at - beat.run.started_at).total_seconds()
    return cursor is not None and str(beat.run_id) not in cursor and lived >= ENDED_SECONDS


def moved(cursor: Cursor, events: list[LiveEvent]) -> Cursor:
    """Return the cursor after these events."""
    after = dict(cursor)
    for event in events:
        after[event.run] = max(after.get(event.run, 0), event.seq)
    return after


def events_after(
    cursor: Cursor, names: Mapping[str, Scope], limit: int = RUN_EVENTS
) -> list[LiveEvent]:
    """Each run's next events after its cursor, at most ``limit`` of each, in order of time."""
    each = [
        Event.objects.defer("stdout", "stderr", "args")
        .filter(run=UUID(run), seq__gt=seq)
        .order_by("seq")[:limit]
        for run, seq in cursor.items()
    ]
    rows = [] if not each else list(each[0].union(*each[1:], all=True) if each[1:] else each[0])
    found: dict[str, list[Event]] = {}
    for row in sorted(rows, key=lambda row: row.seq):
        run = str(row.run)
        known, after = found.setdefault(run, []), cursor[run]
        known += (event for event in expand(row) if event.seq > after)
    told = [live_event(e, names[run]) for run, events in found.items() for e in events[:limit]]
    return sorted(told, key=lambda event: (event.at, event.run, event.seq))


def between(since: Cursor, until: Cursor) -> list[LiveEvent] | None:
    """Return what a listener missed from one cursor to the other; None: too much to send.

    A run that ``until`` follows no more has ended: it is read to its end.
    """
    runs = Run.objects.filter(id__in=[UUID(run) for run in {*since, *until}])
    rows = list(runs.values_list("id", "cluster", "worker", "recorded_seq"))
    names = {str(run): (cluster, worker) for run, cluster, worker, _ in rows}
    ends = {str(run): until.get(str(run), recorded) for run, *_, recorded in rows}
    missed = {run: since.get(run, 0) for run in ends if ends[run] > since.get(run, 0)}
    if sum(ends[run] - seq for run, seq in missed.items()) > MOST_BEHIND:
        return None
    found = events_after(missed, names, MOST_BEHIND)
    return [event for event in found if event.seq <= ends[event.run]]


def recent(found: list[RunState], cursor: Cursor, scope: Scope) -> list[LiveEvent]:
    """Return the latest events up to the cursor, of the kinds that the live page draws."""
    cluster, worker = scope
    chosen = [
        beat
        for beat in found
        if str(beat.run_id) in cursor
        and cluster in ("", beat.run.cluster)
        and worker in ("", beat.run.worker)
    ]
    if not chosen:
        return []
    names = {str(beat.run_id): (beat.run.cluster, beat.run.worker) for beat in chosen}
    each = [_latest(run, cursor[run], RECENT_EVENTS // len(chosen)) for run in names]
    rows = [row for query in each for row in query]
    return sorted((live_event(row, names[str(row.run)]) for row in rows), key=lambda e: e.at)


def _latest(run: str, until: int, limit: int) -> list[Event]:
    # Bounded by sequence as well, so that a run of other kinds is not searched to its beginning.
    first = until - 4 * limit + 1
    rows = Event.objects.defer("stdout", "stderr", "args").filter(
        of_kinds(RECENT_KINDS), run=UUID(run), seq__gte=first, seq__lt=until + MOST_STEPS
    )
    steps = (expand(row)[::-1] for row in rows.order_by("-seq")[: limit + MOST_STEPS])
    events = (event for each in steps for event in each if first <= event.seq <= until)
    return list(islice((event for event in events if event.kind in RECENT_KINDS), limit))
