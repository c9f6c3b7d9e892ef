"""``/history/export``: the newest events that fit the history's filters, as CSV or JSON."""

from __future__ import annotations

import csv
import io
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice, takewhile
from typing import Any

from asgiref.sync import sync_to_async
from django.core.handlers.asgi import ASGIRequest
from django.db import close_old_connections
from django.http import HttpRequest, HttpResponse, HttpResponseBase, StreamingHttpResponse
from django.views.decorators.http import require_safe

from domain.masking import mask_args
from domain.paging import BadFilter
from recorder.formats import BYTES_COLUMNS, COLUMNS, cell, json_bytes
from recorder.models import Event
from recorder.pages.history import EXPORTED_ROWS, shown_filters
from recorder.queries import Window, is_found, names_of_runs, window
from recorder.reading import Key, key_of, order_of

SHOWN = tuple(name for name in COLUMNS if name not in BYTES_COLUMNS)
NAMES = ("cluster", "worker", *SHOWN)
STEP_ROWS = 500
KINDS = {"csv": "text/csv; charset=utf-8", "json": "application/json; charset=utf-8"}
_THREADS = ThreadPoolExecutor(2, thread_name_prefix="history-export")


@require_safe
def export_history(request: HttpRequest) -> HttpResponseBase:
    """The newest events that fit, newest first, without output.

    Looks at one window of the history as a page does, and at most at 10,000 of its events that fit
    but for text and label: ``X-Is-Cut`` says that there are older ones, ``X-Is-Cut-At`` where to go
    on with ``until``. Ends with its reader.
    """
    name = request.GET.get("format", "csv")
    try:
        if name not in ("csv", "json"):
            raise BadFilter(f"format: expected csv or json, got {name[:40]}")
        filters = shown_filters(request.GET)
    except BadFilter as exc:
        return HttpResponse(f"{exc}\n", status=400, content_type="text/plain; charset=utf-8")
    within = window(filters)
    last = list(islice(within.told(), EXPORTED_ROWS - 1, EXPORTED_ROWS + 1))
    edge = key_of(last[0]) if len(last) > 1 else within.edge
    rows = map(_named, _steps(within, key_of(last[0]) if last else None))
    answer = _answer(request, _csv(rows) if name == "csv" else _json(rows), KINDS[name])
    answer["Content-Disposition"] = f'attachment; filename="history.{name}"'
    answer["X-Is-Cut"] = "false" if edge is None else "true"
    if edge is not None:
        answer["X-Is-Cut-At"] = edge[0].isoformat()
    return answer


def _steps(within: Window, last: Key | None) -> Iterator[list[Event]]:
    """The events that are found down to the last one, newest first, so many at a time."""
    events = within.told()
    if last is not None:
        events = takewhile(lambda event: order_of(key_of(event)) >= order_of(last), events)
    found = (event for event in events if is_found(within.filters, event))
    while step := list(islice(found, STEP_ROWS)):
        yield step


def _answer(request: HttpRequest, parts: Iterator[bytes], kind: str) -> HttpResponseBase:
    if not isinstance(request, ASGIRequest):
        return HttpResponse(b"".join(parts), content_type=kind)
    return StreamingHttpResponse(_read(parts), content_type=kind)


async def _read(parts: Iterator[bytes]) -> AsyncIterator[bytes]:
    """Part after part, each read when the one before is on its way."""
    read = sync_to_async(_next, thread_sensitive=False, executor=_THREADS)
    while part := await read(parts):
        yield part


def _next(parts: Iterator[bytes]) -> bytes | None:
    try:
        return next(parts, None)
    finally:
        close_old_connections()


def _named(found: list[Event]) -> list[dict[str, Any]]:
    names = names_of_runs({event.run for event in found})
    rows = []
    for event in found:
        cluster, worker = names.get(event.run, ("", "unknown"))
        row = {"cluster": cluster, "worker": worker, **{n: getattr(event, n) for n in SHOWN}}
        if row["args"]:
            row["args"] = mask_args([str(each) for each in row["args"]])
        rows.append(row)
    return rows


def _csv(steps_: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    yield _lines([NAMES])
    for rows in steps_:
        yield _lines([[cell(name, row[name]) for name in NAMES] for row in rows])


def _lines(rows: Iterable[Sequence[Any]]) -> bytes:
    text = io.StringIO(newline="")
    csv.writer(text).writerows(rows)
    return text.getvalue().encode()


def _json(steps_: Iterator[list[dict[str, Any]]]) -> Iterator[bytes]:
    before = b'{"events":['
    for rows in steps_:
        yield before + b",".join(json_bytes(row) for row in rows)
        before = b","
    yield b"]}" if before == b"," else before + b"]}"
