"""The API's part about traces and tasks."""

from __future__ import annotations

from datetime import datetime
from typing import Any
from uuid import UUID

from django.http import Http404, HttpRequest
from ninja import Field, Query, Router, Schema
from ninja.errors import HttpError

from domain.paging import BadFilter
from recorder.lookup import NotUnderstood, search
from recorder.models import Event
from recorder.pages.history import written
from recorder.pages.trace import search_of
from recorder.spans import Life, Span
from recorder.task_detail import Execution, TaskDetail, task_detail, text_of
from recorder.trace import Place, Trace, trace

router = Router(tags=["history"])


class PlaceOut(Schema):
    """A message's place."""

    topic: str
    partition: int
    offset: int


class MatchOut(Schema):
    """A message in a run; ``fate`` and ``duration_ms`` are null where none is known yet."""

    place: PlaceOut
    run: UUID
    at: datetime
    fate: str | None
    duration_ms: float | None
    labels: dict[str, Any]


class SearchAsked(Schema):
    """Which messages; empty means all. Times are UTC unless they say, ``until`` is left out."""

    q: str = Field("", max_length=300, description="[topic/]partition:offset, task id or label")
    state: str = Field("", max_length=20, description="a fate, or failed")
    slower: str = Field("", max_length=20, description="a duration like 250ms, 2s or 5m")
    since: str = Field("", max_length=40)
    until: str = Field("", max_length=40)
    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)
    older: str = Field("", max_length=80)


class FoundOut(Schema):
    """Messages that fit, newest first. A search looks at a bounded window of the history:
    ``looked_to`` is how far back it came, null where all was looked at; ``older`` goes on.
    ``matches`` is empty for a place or a task, which are looked for everywhere."""

    places: list[PlaceOut]
    matches: list[MatchOut]
    note: str
    looked_to: datetime | None
    older: str | None


class SpanOut(Schema):
    """A stretch of time; ``end`` is null while it runs."""

    id: str
    parent: str | None
    kind: str
    name: str
    start: datetime
    end: datetime | None
    state: str
    note: str
    task_id: str | None
    facts: dict[str, Any]


class LifeOut(Schema):
    """One stay of the message in one run."""

    run: UUID
    cluster: str
    worker: str
    spans: list[SpanOut]


class EventOut(Schema):
    """A row of the history, without output."""

    ts: datetime
    run: UUID
    seq: int
    kind: str
    topic: str | None
    partition: int | None
    offset: int | None
    task_id: str | None
    attempt: int | None
    duration_ms: float | None
    sink: str | None
    data: Any


class TraceOut(Schema):
    """A message over all runs, workers and clusters."""

    place: PlaceOut
    lives: list[LifeOut]
    marks: list[SpanOut]
    events: list[EventOut]
    notes: list[str]
    is_cut: bool


class ExecutionOut(Schema):
    """One attempt in one run; output as text, undecodable bytes replaced."""

    run: UUID
    worker: str
    host: str
    attempt: int
    state: str
    started_at: datetime
    ended_at: datetime | None
    slot: int | None
    pid: int | None
    exit_code: int | None
    duration_ms: float | None
    queue_ms: float | None
    args: list[str]
    stdout: str | None
    stderr: str | None
    stdout_size: int | None
    stderr_size: int | None
    usage: dict[str, Any]
    failure: str
    kill_reason: str
    progress: float | None
    note: str
    invalid_lines: int


class TaskOut(Schema):
    """A task of a cluster."""

    cluster: str
    task_id: str
    topic: str
    partition: int
    status: str
    labels: dict[str, str]
    source_offsets: list[int]
    executions: list[ExecutionOut]
    events: list[EventOut]
    is_cut: bool


@router.get("/trace", response=FoundOut, summary="Messages by place, task, label, fate or time")
def get_found(request: HttpRequest, asked: Query[SearchAsked]) -> Any:
    """Messages that fit: repeat with ``older`` of the answer to look further back."""
    try:
        found = search(search_of(request.GET))
    except NotUnderstood as exc:
        raise Http404(f"q: {exc}") from exc
    except BadFilter as exc:
        raise HttpError(422, str(exc)) from None
    return {
        **{name: getattr(found, name) for name in ("places", "matches", "note", "looked_to")},
        "older": written(found.older) or None,
    }


@router.get(
    "/trace/{topic}/{int:partition}:{int:offset}", response=TraceOut, summary="A message's trace"
)
def get_trace(request: HttpRequest, topic: str, partition: int, offset: int) -> dict[str, Any]:
    """Spans with parents, of every life of the message; 404 when no row tells of it."""
    found = trace(Place(topic=topic, partition=partition, offset=offset))
    if not found.events:
        raise Http404(f"No event tells of {topic} {partition}:{offset}")
    return trace_document(found)


@router.get("/tasks/{cluster}/{task_id}", response=TaskOut, summary="A task and its executions")
def get_task(request: HttpRequest, cluster: str, task_id: str, topic: str = "") -> dict[str, Any]:
    """Every execution with its output; 404 when no row names the task."""
    found = task_detail(cluster, task_id, topic)
    if found is None:
        raise Http404(f"No event tells of task {task_id} of cluster {cluster}")
    return task_document(found)


def trace_document(found: Trace) -> dict[str, Any]:
    """The trace as the API gives it."""
    return {
        "place": _fields(found.place, PlaceOut),
        "lives": [_life(found, life) for life in found.lives],
        "marks": [_fields(mark, SpanOut) for mark in found.marks],
        "events": [_event(event) for event in found.events],
        "notes": found.notes,
        "is_cut": found.is_cut,
    }


def task_document(found: TaskDetail) -> dict[str, Any]:
    """The task as the API gives it."""
    return _fields(found, TaskOut) | {
        "executions": [_execution(each) for each in found.executions],
        "events": [_event(event) for event in found.events],
    }


def _fields(value: object, schema: type[Schema]) -> dict[str, Any]:
    return {name: getattr(value, name, None) for name in schema.model_fields}


def _life(found: Trace, life: Life) -> dict[str, Any]:
    name = found.name_of(life.run)
    spans = [_span(span) for span in life.spans]
    return {"run": life.run, "cluster": name.cluster, "worker": name.worker, "spans": spans}


def _span(span: Span) -> dict[str, Any]:
    return _fields(span, SpanOut)


def _event(event: Event) -> dict[str, Any]:
    return _fields(event, EventOut)


def _execution(execution: Execution) -> dict[str, Any]:
    shown = {name: text_of(getattr(execution, name)) for name in ("stdout", "stderr")}
    return _fields(execution, ExecutionOut) | shown
