"""Reads of the live socket from the database: each run after its own cursor, never behind.

A look reads a bounded number of rows, the newest ones of each run. What a run told before those
is passed over but for failures and marks, and counted (``Batch.left_out``): a page shows what
happens now, and the history has the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import islice
from typing import Any, TypeVar
from uuid import UUID

from django.db.models import Q, QuerySet
from django.db.models.functions import Now

from recorder.message_row import MOST_STEPS, expand
from recorder.models import Event, Run, RunState
from recorder.reading import of_kinds
from workers.control_plane.live.payloads import (
    LIVE_KINDS,
    ODD_KINDS,
    Cursor,
    LiveEvent,
    live_event,
)
from workers.control_plane.past_runs import Scope
from workers.control_plane.queries import age_seconds, beats, is_live, read_at

LOOK_ROWS, LOOK_EVENTS, LEAST_RUN_ROWS = 2000, 3000, 100
"""Rows of all runs that one look reads, and events that it makes of them, shared evenly; of each
run at least so many rows."""
RUN_ODD_ROWS = 100
ODD_WITHIN = 20_000
"""Failures and marks of one run among what is passed over, and how far back they are looked for."""
MOST_BEHIND = 5000
RECENT_EVENTS = 4000
ENDED_SECONDS = 60.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """Findings of one look. ``cursor`` stands at what each run had told then; ``left_out`` is how
    many events of a run before it were passed over; ``has_gap``: a run is back of which nobody
    knows what was missed."""

    beats: list[RunState]
    events: list[LiveEvent]
    cursor: Cursor
    has_gap: bool
    left_out: Mapping[str, int] = field(default_factory=dict)
    shared: dict[Any, Any] = field(default_factory=dict)
    """What listeners of the same choice made of it, each once. Loop thread only."""

    def once(self, key: Hashable, make: Callable[[], T]) -> T:
        """Return what was made under that key; make it when it is the first."""
        if key not in self.shared:
            self.shared[key] = make()
        found: T = self.shared[key]
        return found


def read(cursor: Cursor | None) -> Batch:
    """Return the beats, and the newest events after the cursor (None: from now on).

    A run that began since is read from its start; one that ended is followed until its last event
    was read and a minute longer. What a run told that comes back later than that is a gap.
    """
    known = [UUID(run) for run in cursor or ()]
    just_ended = Q(beat_at__gt=Now() - timedelta(seconds=ENDED_SECONDS))
    found = beats(more=Q(run_id__in=known) | just_ended)
    before = {str(b.run_id): _start(b, cursor) for b in found if _is_followed(b, cursor)}
    ends = {str(beat.run_id): beat.run.recorded_seq for beat in found}
    behind = {run: seq for run, seq in before.items() if ends[run] > seq}
    names = {str(beat.run_id): (beat.run.cluster, beat.run.worker) for beat in found}
    events, left_out = _newest_after(behind, ends, names)
    return Batch(
        beats=found,
        events=events,
        cursor={run: max(seq, ends[run]) for run, seq in before.items()},
        has_gap=any(str(b.run_id) in before and _is_back(b, cursor) for b in found),
        left_out=left_out,
    )


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


def moved(cursor: Cursor, events: Iterable[LiveEvent]) -> Cursor:
    """Return the cursor after these events."""
    after = dict(cursor)
    for event in events:
        after[event.run] = max(after.get(event.run, 0), event.seq)
    return after


def _newest_after(
    behind: Cursor, ends: Cursor, names: Mapping[str, Scope]
) -> tuple[list[LiveEvent], dict[str, int]]:
    """Return each run's newest events after its cursor up to its end, in order of time; and how
    many before those were passed over."""
    if not behind:
        return [], {}
    limit = max(LEAST_RUN_ROWS, LOOK_ROWS // len(behind))
    newest: dict[str, list[Event]] = {run: [] for run in behind}
    for row in _rows(_told(run, seq, ends[run])[:limit] for run, seq in behind.items()):
        newest[str(row.run)].append(row)
    most = max(LEAST_RUN_ROWS, LOOK_EVENTS // len(behind))
    read = {run: _latest_events(rows, behind[run], most) for run, rows in newest.items()}
    left_out = {
        run: ends[run] - behind[run] - len(events)
        for run, events in read.items()
        if len(newest[run]) == limit or len(events) >= most
    }
    before = {run: read[run][-1].seq for run in left_out}
    odd = _rows(
        _told(run, max(behind[run], seq - ODD_WITHIN), seq - 1).filter(kind__in=ODD_KINDS)[
            :RUN_ODD_ROWS
        ]
        for run, seq in before.items()
    )
    for row in odd:
        read[str(row.run)].append(row)
        left_out[str(row.run)] -= 1
    told = [live_event(event, names[run]) for run, events in read.items() for event in events]
    return sorted(told, key=_order), {run: count for run, count in left_out.items() if count > 0}


def _latest_events(rows: list[Event], after: int, most: int) -> list[Event]:
    """Return the events after a number of rows that come newest first, at most so many and those
    of one row; newest first."""
    found: list[Event] = []
    for row in sorted(rows, key=lambda row: -row.seq):
        if len(found) >= most:
            break
        found += [event for event in expand(row)[::-1] if event.seq > after]
    return found


def _order(event: LiveEvent) -> tuple[datetime, str, int]:
    return event.at, event.run, event.seq


def _told(run: str, after: int, until: int) -> QuerySet[Event]:
    """Rows of a run that hold events after a number, up to another; newest first."""
    rows = Event.objects.defer("stdout", "stderr", "args")
    return rows.filter(run=UUID(run), seq__gt=after, seq__lte=until).order_by("-seq")


def _rows(queries: Iterable[QuerySet[Event]]) -> list[Event]:
    """Ask for all in one statement; in no order."""
    asked = list(queries)
    if not asked:
        return []
    return list(asked[0].union(*asked[1:], all=True) if asked[1:] else asked[0])


def between(since: Cursor, until: Cursor) -> list[LiveEvent] | None:
    """Return what a listener missed from one cursor to the other; None: too much to send.

    A run that ``until`` follows no more has ended: it is read to its end.
    """
    runs = Run.objects.filter(id__in=[UUID(run) for run in {*since, *until}])
    known = list(runs.values_list("id", "cluster", "worker", "recorded_seq"))
    names = {str(run): (cluster, worker) for run, cluster, worker, _ in known}
    ends = {str(run): until.get(str(run), recorded) for run, *_, recorded in known}
    missed = {run: since.get(run, 0) for run in ends if ends[run] > since.get(run, 0)}
    if sum(ends[run] - seq for run, seq in missed.items()) > MOST_BEHIND:
        return None
    found = [
        live_event(event, names[str(row.run)])
        for row in _rows(_told(run, seq, ends[run]) for run, seq in missed.items())
        for event in expand(row)
        if event.seq > missed[str(row.run)]
    ]
    return sorted(found, key=_order)


def recent(
    found: list[RunState], cursor: Cursor, scope: Scope
) -> tuple[list[LiveEvent], datetime | None]:
    """Return the latest events up to the cursor, of the kinds that the live page draws; and since
    when they are all there, None: since each run began."""
    cluster, worker = scope
    chosen = [
        beat
        for beat in found
        if str(beat.run_id) in cursor
        and cluster in ("", beat.run.cluster)
        and worker in ("", beat.run.worker)
    ]
    if not chosen:
        return [], None
    limit = RECENT_EVENTS // len(chosen)
    events: list[LiveEvent] = []
    cuts: list[datetime] = []
    for beat in chosen:
        run = str(beat.run_id)
        rows, is_cut = _latest(run, cursor[run], limit)
        told = [live_event(row, (beat.run.cluster, beat.run.worker)) for row in rows]
        cuts += [told[-1].at if told else read_at(beat)] if is_cut else []
        events += told
    return sorted(events, key=_order), max(cuts, default=None)


def _latest(run: str, until: int, limit: int) -> tuple[list[Event], bool]:
    """Return the latest live events of a run up to a number, newest first; and whether there are,
    or may be, earlier ones."""
    # Bounded by sequence as well, so that a run of other kinds is not searched to its beginning.
    first = max(1, until - 4 * limit + 1)
    rows = Event.objects.defer("stdout", "stderr", "args").filter(
        of_kinds(LIVE_KINDS), run=UUID(run), seq__gte=first, seq__lt=until + MOST_STEPS
    )
    steps = (expand(row)[::-1] for row in rows.order_by("-seq")[: limit + MOST_STEPS])
    events = (event for each in steps for event in each if first <= event.seq <= until)
    found = list(islice((event for event in events if event.kind in LIVE_KINDS), limit + 1))
    return found[:limit], first > 1 or len(found) > limit
