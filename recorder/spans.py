"""A message's events as spans with parents; pure: rows in, spans out.

A life is one stay of a message in one run: from its hand-over to its fate, or to what cut it short.
Within it: message -> arranged -> attempts -> collected -> deliveries and letters. Times nothing was
done in are spans of kind ``gap``, each labelled with what was waited for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from heapq import merge
from typing import Any
from uuid import UUID

from domain.events import status_of
from recorder.models import Event
from recorder.timestamps import shifted, utc_at

FATE_STATES = {
    "delivered": "completed",
    "filtered": "waiting",
    "skipped": "waiting",
    "dead_lettered": "dead_lettered",
    "deferred": "retrying",
}
ENDINGS = {kind: status_of(kind) for kind in ("task_completed", "task_failed", "task_cancelled")}
NOT_RECORDED = "no row: faster than recorder.event_min_duration_ms, or not kept"
NOTE_CHARACTERS = 300
SHORTEST_GAP = timedelta(milliseconds=0.05)


@dataclass(slots=True, kw_only=True)
class Span:
    """A stretch of time; ``end`` is None while it runs, equal to ``start`` for a moment.

    ``state`` is one of running, completed, failed, waiting, retrying, dead_lettered, paused and
    unknown. ``parent`` is the id of another span of the same life; None: the life's own span.
    """

    id: str
    parent: str | None
    kind: str
    name: str
    start: datetime
    end: datetime | None
    state: str
    note: str = ""
    task_id: str | None = None
    facts: dict[str, Any] = field(default_factory=dict)


@dataclass(slots=True, kw_only=True)
class Life:
    """One stay of the message in one run; its first span is the stay itself."""

    run: UUID
    number: int
    spans: list[Span] = field(default_factory=list)
    task_ids: list[str] = field(default_factory=list)

    @property
    def whole(self) -> Span:
        """Span of the whole stay."""
        return self.spans[0]

    def last(self, kind: str, task_id: str | None) -> Span | None:
        """Return the latest span of a kind and task."""
        found = (s for s in reversed(self.spans) if s.kind == kind and s.task_id == task_id)
        return next(found, None)

    def add(self, kind: str, name: str, **values: Any) -> Span:
        """One more span, under the life's own unless ``parent`` says otherwise."""
        span_id = f"{self.number}.{len(self.spans)}"
        parent = values.pop("parent", None) or (self.whole.id if self.spans else None)
        span = Span(id=span_id, parent=parent, kind=kind, name=name, **values)
        self.spans.append(span)
        return span

    def gap(self, name: str, start: datetime, end: datetime, parent: str | None = None) -> None:
        """A labelled wait, unless it is too short to see."""
        if end - start >= SHORTEST_GAP:
            self.add("gap", name, start=start, end=end, state="waiting", parent=parent)


RecordPlace = tuple[str | None, int | None, int | None]
"""Topic, partition and offset."""


def place_of(row: Event) -> RecordPlace:
    """Return the place of the record that a row tells of."""
    return row.topic, row.partition, row.offset


def lives_of(
    events: Iterable[Event], deferred: Collection[RecordPlace] = frozenset()
) -> list[Life]:
    """Return the message's lives, oldest first. ``events``: all rows of the message and of its
    tasks; ``deferred``: places in a retry topic where it lives on, each for itself."""
    lives: list[Life] = []
    by_life: dict[tuple[UUID, RecordPlace | None], list[Event]] = {}
    latest: dict[UUID, RecordPlace] = {}
    for event in events:
        place: RecordPlace | None = place_of(event)
        if place in deferred:
            latest[event.run] = place_of(event)
        else:
            # A letter is told of the first life, whichever life it ends.
            place = latest.get(event.run) if event.kind == "dead_lettered" else None
        by_life.setdefault((event.run, place), []).append(event)
    for (run, _), rows in by_life.items():
        for stay in _stays(_as_told(rows)):
            lives.append(_life(run, len(lives), stay))
    return sorted(lives, key=lambda life: life.whole.start)


def _as_told(rows: Iterable[Event]) -> Iterator[Event]:
    """Each message's rows by number, beside another's by time: across messages numbers tell no
    order (``recorder.folding``)."""
    messages: dict[RecordPlace, list[Event]] = {}
    for row in sorted(rows, key=lambda row: row.seq):
        messages.setdefault(place_of(row), []).append(row)
    return merge(*messages.values(), key=lambda row: (row.ts, row.seq))


def _stays(rows: Iterable[Event]) -> Iterator[list[Event]]:
    stay: list[Event] = []
    for row in rows:
        if row.kind == "consumed" and any(each.kind == "consumed" for each in stay):
            yield stay
            stay = []
        stay.append(row)
    if stay:
        yield stay


def _life(run: UUID, number: int, rows: Sequence[Event]) -> Life:
    life = Life(run=run, number=number)
    began = min(start_of(row) for row in rows)
    life.add("message", "message", start=began, end=None, state="running")
    for row in rows:
        step = _STEPS.get(row.kind)
        if step is not None:
            step(life, row)
    _name_unrecorded(life, rows[-1].ts)
    return life


def _name_unrecorded(life: Life, last: datetime) -> None:
    known = {span.task_id for span in life.spans}
    arranged = life.last("arranged", None)
    for task_id in life.task_ids:
        if task_id not in known and arranged is not None and arranged.end is not None:
            life.add(
                "attempt", task_id, start=arranged.end, end=life.whole.end or last,
                state="unknown", note=NOT_RECORDED, task_id=task_id, parent=arranged.id,
            )  # fmt: skip


def start_of(row: Event) -> datetime:
    """When what a row tells of began: rows are told at the end of what they tell."""
    if row.kind in ("task_completed", "task_failed"):
        started = utc_at(detail(row).get("started_at"))
        if started is not None:
            return started
    if row.kind in ("message_completed", "revoked", "breaker_closed", "sink_reconnected"):
        return row.ts
    return shifted(row.ts, -(row.duration_ms or 0.0))


def note_of(row: Event) -> str:
    """Return a row's details in one line, at most 300 characters."""
    told = [f"sink {row.sink}"] if row.sink else []
    for name, value in detail(row).items():
        if value is not None:
            text = " ".join(map(_item, value)) if isinstance(value, list) else str(value)
            told.append(f"{name} {text}")
    return ", ".join(told)[:NOTE_CHARACTERS]


def _item(value: Any) -> str:
    """One of a list: a change as its key with the values before and after."""
    if not isinstance(value, dict) or value.keys() != {"key", "old", "new"}:
        return str(value)
    old, new = ("none" if value[side] is None else value[side] for side in ("old", "new"))
    return f"{value['key']}: {old} to {new};"


def detail(row: Event) -> Mapping[str, Any]:
    """Return the row's ``data``; empty where it has none."""
    return row.data if isinstance(row.data, dict) else {}


def _consumed(life: Life, row: Event) -> None:
    life.whole.facts |= {"size_bytes": detail(row).get("size_bytes")}
    life.whole.facts |= {"timestamp_ms": detail(row).get("timestamp")}


def _arranged(life: Life, row: Event) -> None:
    life.gap("waits for arrange", life.whole.start, start_of(row))
    named = [str(each) for each in detail(row).get("task_ids") or ()]
    life.task_ids += named
    note = f"{len(named)} task{'' if len(named) == 1 else 's'}"
    life.add(
        "arranged", "arrange", start=start_of(row), end=row.ts, state="completed", note=note,
        facts={"labels": row.labels or {}, "task_ids": named},
    )  # fmt: skip
    life.whole.facts |= {"labels": row.labels or {}}


def _parent_of_task(life: Life, task_id: str) -> str | None:
    whole, mark, _ = task_id.rpartition(".r")
    replaced = life.last("attempt", whole) if mark else None
    found = replaced or life.last("arranged", None)
    return found.id if found else None


def _attempt_name(row: Event) -> str:
    return f"{row.task_id} attempt {row.attempt}"


def _queued(life: Life, row: Event, parent: str | None, start: datetime) -> None:
    waited = life.last("gap", row.task_id)
    begin = shifted(start, -(row.queue_ms or 0.0))
    if waited is not None and waited.end is not None:
        begin = max(begin, waited.end)
    life.gap("waits for a slot", begin, start, parent)


def _started(life: Life, row: Event) -> None:
    parent = _parent_of_task(life, row.task_id or "")
    _queued(life, row, parent, row.ts)
    life.add(
        "attempt", _attempt_name(row), start=row.ts, end=None, state="running",
        task_id=row.task_id, parent=parent, facts={"attempt": row.attempt, "slot": row.slot},
    )  # fmt: skip


def _ended(life: Life, row: Event) -> None:
    span = life.last("attempt", row.task_id)
    if span is None or span.facts.get("attempt") != row.attempt:
        if row.kind == "task_cancelled":
            return
        parent, began = _parent_of_task(life, row.task_id or ""), start_of(row)
        _queued(life, row, parent, began)
        span = life.add(
            "attempt", _attempt_name(row), start=began, end=None, state="running",
            task_id=row.task_id, parent=parent, facts={"attempt": row.attempt, "slot": row.slot},
        )  # fmt: skip
    told = row.kind in ("task_completed", "task_failed")
    ran_to = shifted(max(span.start, start_of(row)), row.duration_ms)
    span.end = min(row.ts, ran_to) if told else row.ts
    span.state = ENDINGS[row.kind]
    found = detail(row)
    span.note = str(found.get("failure") or found.get("reason") or "")
    span.facts |= {"exit_code": row.exit_code, "pid": row.pid, "detail": found.get("detail")}


def _retried(life: Life, row: Event) -> None:
    parent = _parent_of_task(life, row.task_id or "")
    until = shifted(row.ts, detail(row).get("delay_ms"))
    life.add(
        "gap", "waits to run again", start=row.ts, end=until, state="retrying",
        task_id=row.task_id, parent=parent, note=str(detail(row).get("failure") or ""),
    )  # fmt: skip


def _replaced(life: Life, row: Event) -> None:
    span = life.last("attempt", row.task_id)
    if span is not None:
        span.facts["replaced_by"] = list(detail(row).get("task_ids") or ())


def _collected(life: Life, row: Event) -> None:
    attempt = life.last("attempt", row.task_id) if row.task_id else None
    count = detail(row).get("payloads")
    life.add(
        "collected", str(detail(row).get("hook") or "collect"), start=start_of(row), end=row.ts,
        state="completed", note=f"{count} payload{'' if count == 1 else 's'}",
        task_id=row.task_id, parent=attempt.id if attempt else None,
    )  # fmt: skip


def _source_of(life: Life, row: Event) -> str | None:
    found = life.last("collected", row.task_id)
    if found is None and row.task_id:
        found = life.last("attempt", row.task_id)
    return found.id if found else None


def _delivered(life: Life, row: Event) -> None:
    parent, began = _source_of(life, row), start_of(row)
    queued = shifted(began, -(row.queue_ms or 0.0))
    life.gap(f"waits in the lane of {row.sink}", queued, began, parent)
    life.add(
        "delivered", f"sink {row.sink}", start=began, end=row.ts, state="completed",
        task_id=row.task_id, parent=parent,
        facts={"attempt": row.attempt, **detail(row)},
    )  # fmt: skip


def _delivery_failed(life: Life, row: Event) -> None:
    again = bool(detail(row).get("is_transient"))
    life.add(
        "delivery_failed", f"sink {row.sink}", start=row.ts, end=row.ts,
        state="retrying" if again else "failed", note=str(detail(row).get("detail") or ""),
        task_id=row.task_id, parent=_source_of(life, row),
        facts={"attempt": row.attempt, **detail(row)},
    )  # fmt: skip


def _dead_lettered(life: Life, row: Event) -> None:
    found = detail(row)
    where = f"{found.get('letter_topic')} {found.get('letter_partition')}:"
    life.add(
        "dead_lettered", f"letter {where}{found.get('letter_offset')}", start=row.ts, end=row.ts,
        state="dead_lettered", note=f"{found.get('stage')}: {found.get('reason')}",
        task_id=row.task_id, parent=_source_of(life, row), facts=dict(found),
    )  # fmt: skip


def _deferred(life: Life, row: Event) -> None:
    found = detail(row)
    where = f"{found.get('retry_topic')} {found.get('retry_partition')}"
    life.add(
        "deferred", f"retry topic {where}:{found.get('retry_offset')}", start=row.ts,
        end=max(row.ts, utc_at(found.get("due_at")) or row.ts), state="retrying",
        note=f"due for {', '.join(map(str, found.get('task_ids') or ()))}", facts=dict(found),
    )  # fmt: skip


def _completed(life: Life, row: Event) -> None:
    fate = str(detail(row).get("fate") or "")
    life.whole.end = row.ts
    life.whole.state = FATE_STATES.get(fate, "unknown")
    life.whole.note = fate
    life.whole.facts |= {"fate": fate, "reason": detail(row).get("reason") or ""}


_STEPS = {
    "consumed": _consumed,
    "arranged": _arranged,
    "task_started": _started,
    "task_completed": _ended,
    "task_failed": _ended,
    "task_cancelled": _ended,
    "task_retried": _retried,
    "task_replaced": _replaced,
    "collected": _collected,
    "delivered": _delivered,
    "delivery_failed": _delivery_failed,
    "dead_lettered": _dead_lettered,
    "deferred": _deferred,
    "message_completed": _completed,
}
