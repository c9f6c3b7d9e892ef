"""Frames of ``/ws/live``, shared by the sender and its tests.

A client gets a ``snapshot`` first, then ``events`` and ``state``. ``cursor`` names the last event
of each run up to and with this frame: a client that reconnects with ``?cursor=`` (JSON) gets what
it missed instead of a snapshot. ``resync`` is a snapshot that says: more was missed than is sent
again, forget what you know. Where workers tell faster than can be shown, ``left_out`` of an
``events`` frame counts the events that are not sent (``fitting``). Every frame is numbered; the
client answers ``{"ack": n}``, and gets no frame while two are not acknowledged. A frame is far
smaller than the 1 MiB that the server may send: what is larger comes in parts, and each part's
cursor stands behind its own events. The parts of a snapshot's latest events have an empty cursor
but for the last: who lost one begins anew.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from datetime import datetime
from typing import Any, Literal

import orjson

from domain.events import Shown, kinds_of
from recorder.message_row import CODES
from recorder.models import Event, RunState, RunStateName
from workers.control_plane.past_runs import Scope
from workers.control_plane.queries import dashboard, is_live, read_at

Cursor = dict[str, int]
COLUMNS = (
    "kind topic partition offset task_id slot exit_code duration_ms queue_ms attempt sink labels"
).split()
DETAILS = "hook payloads batch_messages failure detail fate reason cause epoch clean".split()
MAX_TEXT = 300
MAX_LABELS = 16
SHOWN_EVENTS, LISTED_EVENTS = 1000, 50
"""Of one look: events sent at most, and of each kind that is only listed."""
LISTED_KINDS = ("arranged", "collected")
LIVE_KINDS = kinds_of(shown=Shown.LIVE)
ODD_KINDS = frozenset(LIVE_KINDS) - frozenset(CODES)
"""Live kinds of which each event has a row of its own: failures, cancellations, marks."""
FRAME_BYTES = 600_000
"""Of events; the state of a snapshot comes on top."""
Shortest = Callable[[str], float]
"""Shortest success of a cluster that is shown live, in milliseconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveEvent:
    """Event without arguments and output. ``data`` holds what of DETAILS it has, and the number
    of its ``tasks``."""

    at: datetime
    run: str
    seq: int
    cluster: str
    worker: str
    kind: str
    topic: str | None
    partition: int | None
    offset: int | None
    task_id: str | None
    slot: int | None
    exit_code: int | None
    duration_ms: float | None
    queue_ms: float | None
    attempt: int | None
    sink: str | None
    labels: dict[str, str]
    data: dict[str, Any]


class Part(list[LiveEvent]):
    """Events of one frame. Their JSON is written once for all who get them."""

    def __init__(self, events: Iterable[LiveEvent] = (), texts: Iterable[bytes] = ()) -> None:
        super().__init__(events)
        self.json = orjson.Fragment(b"[" + b",".join(texts) + b"]")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Figures of the listener's choice. ``at`` is when they were read, by the database's clock;
    ``beat_at`` is the oldest live worker's beat; ``running`` are the attempts that hold a slot, as
    each worker last said it; ``lost`` are the runs that fell silent of late, ``at`` their last
    beat."""

    n: int
    cursor: Cursor
    dashboard: dict[str, Any]
    at: datetime | None
    beat_at: datetime | None
    running: list[dict[str, Any]]
    lost: list[dict[str, Any]]
    type: Literal["state"] = "state"


@dataclass(frozen=True, slots=True, kw_only=True)
class Snapshot:
    """Start of a listener; ``events`` are the latest, for those who asked (``?recent=1``): all
    since ``since`` but for fast successes; null: none were asked for, or there are no earlier
    ones of these runs."""

    n: int
    cursor: Cursor
    dashboard: dict[str, Any]
    at: datetime | None
    beat_at: datetime | None
    running: list[dict[str, Any]]
    lost: list[dict[str, Any]]
    events: list[LiveEvent]
    since: datetime | None = None
    type: Literal["snapshot", "resync"] = "snapshot"


@dataclass(frozen=True, slots=True, kw_only=True)
class Events:
    """Events since the frame before; ``left_out`` more are not sent."""

    n: int
    cursor: Cursor
    events: list[LiveEvent]
    left_out: int = 0
    type: Literal["events"] = "events"


Frame = Snapshot | State | Events


def text_of(frame: Frame) -> str:
    """Return the frame as it is sent."""
    body = {each.name: getattr(frame, each.name) for each in fields(frame)}
    events = body.get("events")
    return orjson.dumps(
        {**body, "events": events.json} if isinstance(events, Part) else body
    ).decode()


def live_event(event: Event, name: Scope) -> LiveEvent:
    """Return an event of the named run."""
    data: Mapping[str, Any] = event.data or {}
    told = {key: _short(data[key]) for key in DETAILS if data.get(key) is not None}
    if "task_ids" in data:
        told["tasks"] = len(data["task_ids"])
    columns = {field: getattr(event, field) for field in COLUMNS}
    columns["labels"] = {
        _short(name): _short(value)
        for name, value in list((event.labels or {}).items())[:MAX_LABELS]
    }
    return LiveEvent(
        at=event.ts,
        run=str(event.run),
        seq=event.seq,
        cluster=name[0],
        worker=name[1],
        data=told,
        **columns,
    )


def _short(value: Any) -> Any:
    """Return a value as a frame holds it; Postgres gives back numbers of any size."""
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        value = str(value)
    return value[:MAX_TEXT] if isinstance(value, str) else value


def parts_of(events: list[LiveEvent]) -> Iterator[Part]:
    """Return the events in parts that fit into frames, at least one; of several, each run's in
    their order."""
    told = [(event, orjson.dumps(event)) for event in events]
    if sum(len(text) for _, text in told) <= FRAME_BYTES:
        yield Part(events, (text for _, text in told))
        return
    part: list[tuple[LiveEvent, bytes]] = []
    size = 0
    for event, text in sorted(told, key=lambda each: (each[0].run, each[0].seq)):
        if size + len(text) > FRAME_BYTES and part:
            yield Part(*zip(*part, strict=True))
            part, size = [], 0
        part.append((event, text))
        size += len(text)
    yield Part(*zip(*part, strict=True))


def thinned(events: Iterable[LiveEvent], shortest: Shortest) -> list[LiveEvent]:
    """Without fast successes. Their starts go with them; an end whose start was sent stays."""
    kept = list(events)
    starts = {_attempt(event) for event in kept if event.kind == "task_started"}
    fast = {
        _attempt(event)
        for event in kept
        if event.kind == "task_completed"
        and (event.duration_ms or 0.0) < shortest(event.cluster)
        and _attempt(event) in starts
    }
    return [event for event in kept if not (_is_of_attempt(event) and _attempt(event) in fast)]


def _is_of_attempt(event: LiveEvent) -> bool:
    return event.kind in ("task_started", "task_completed")


def _attempt(event: LiveEvent) -> tuple[str, str | None, str | None, int | None]:
    return event.run, event.topic, event.task_id, event.attempt


def fitting(events: list[LiveEvent], most: int = SHOWN_EVENTS) -> list[LiveEvent]:
    """Return at most so many of the events, in their order: all where they fit, else these.

    First failures, cancellations and marks, the newest; then the newest calls of arrange and
    completions, which pages list and do not draw; then the successes that ran longest. Starts are
    left out: what still runs is in the next state.
    """
    if len(events) <= most:
        return events
    odd = [event for event in events if event.kind in ODD_KINDS][-most:]
    listed = [event for kind in LISTED_KINDS for event in _of(kind, events)[-LISTED_EVENTS:]]
    ended = sorted(_of("task_completed", events), key=lambda event: -(event.duration_ms or 0.0))
    kept = {(event.run, event.seq) for event in [*odd, *listed, *ended][:most]}
    return [event for event in events if (event.run, event.seq) in kept]


def _of(kind: str, events: Iterable[LiveEvent]) -> list[LiveEvent]:
    return [event for event in events if event.kind == kind]


def state_body(beats: list[RunState], scope: Scope) -> dict[str, Any]:
    """Return what ``State`` and ``Snapshot`` say of one listener's choice."""
    cluster, worker = scope
    chosen = [
        beat
        for beat in beats
        if cluster in ("", beat.run.cluster) and worker in ("", beat.run.worker)
    ]
    live = [beat for beat in chosen if is_live(beat)]
    document = dashboard(chosen)
    for row in document["partitions"]:
        del row["strip"]
    return {
        "dashboard": document,
        "at": max(map(read_at, beats), default=None),
        "beat_at": min((beat.beat_at for beat in live), default=None),
        "running": [
            {
                **asdict(task),
                "run": str(beat.run_id),
                "cluster": beat.run.cluster,
                "worker": beat.run.worker,
            }
            for beat in live
            for task in beat.pool.running or ()
        ],
        "lost": [
            {
                "run": str(beat.run_id),
                "cluster": beat.run.cluster,
                "worker": beat.run.worker,
                "at": beat.beat_at,
            }
            for beat in chosen
            if beat.state == RunStateName.LOST
        ],
    }
