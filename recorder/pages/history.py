"""``/history``: every event, filtered, by keyset. The URL holds all state."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.utils import timezone

from domain.events import KINDS, status_of
from domain.paging import BadFilter
from domain.text_bounds import text_in
from recorder.facets import BARS, Counts, counts_of
from recorder.queries import NOISE, Filters, Page, names_of_runs, page_of, window
from recorder.reading import Key
from recorder.spans import note_of
from recorder.timestamps import EXPECTED, moment_of

RANGES = ("15m", "1h", "6h", "24h", "7d")
COLUMNS = (
    "time", "kind", "cluster", "worker", "message", "task", "attempt", "sink", "duration", "labels",
    "detail",
)  # fmt: skip
SHOWN_COLUMNS = ("time", "kind", "worker", "message", "task", "duration", "labels", "detail")
MAX_PARTITION = 2**31 - 1
MAX_DIGITS = 10
EXPORTED_ROWS = 10_000
"""Rows that an export of the history holds at most."""


def history(request: HttpRequest) -> HttpResponse:
    """One page of 50 events; a bad filter is named on the page, with status 400."""
    error, found, watched, counts = "", Page(rows=()), None, Counts()
    try:
        filters = shown_filters(request.GET)
        older, newer = (key_of(request.GET, name) for name in ("older", "newer"))
        began = timezone.now()
        within = window(filters, older=older, newer=newer)
        found = page_of(within)
        if newer is None:
            counts = counts_of(within)
        if older is None and newer is None:
            watched = (found.rows[0].ts, found.rows[0].pk) if found.rows else (began, 0)
    except BadFilter as exc:
        error = str(exc)
    chosen = request.GET.getlist("kind")
    columns = [name for name in request.GET.getlist("column") if name in COLUMNS] or SHOWN_COLUMNS
    context = {
        "rows": _rows(found),
        "page": found,
        "error": error,
        "kinds": [(kind, kind in chosen) for kind in KINDS],
        "chosen_count": len(chosen),
        "older_key": written(found.older),
        "newer_key": written(found.newer),
        "watched_key": written(watched),
        "asked": request.GET,
        "counts": counts,
        "bars": _bars(counts),
        "facets": _facets(counts),
        "ranges": RANGES,
        "has_noise": request.GET.get("noise") == "1",
        "is_quiet": not chosen and request.GET.get("noise") != "1",
        "columns": [(name, name in columns) for name in COLUMNS],
        **{f"has_{name}": name in columns for name in COLUMNS},
        "most_exported": EXPORTED_ROWS,
    }
    return render(request, "history.html", context, status=400 if error else 200)


def shown_filters(asked: QueryDict) -> Filters:
    """Return the filters of the page and its downloads, which leave out what says little unless
    kinds are chosen or ``noise=1``. Raises BadFilter."""
    filters = filters_of(asked)
    is_quiet = not filters.kinds and asked.get("noise") != "1"
    return replace(filters, without=NOISE) if is_quiet else filters


def _bars(counts: Counts) -> list[dict[str, Any]]:
    """The bars as the page draws them, in hundredths of its width and height."""
    return [
        {
            "bar": bar,
            "x": f"{number * 100 / BARS:.3f}%",
            "width": f"{100 / BARS * 0.9:.3f}%",
            "height": f"{bar.count * 100 / counts.most:.2f}%",
            "y": f"{100 - bar.count * 100 / counts.most:.2f}%",
            "bad_height": f"{bar.bad * 100 / counts.most:.2f}%",
            "bad_y": f"{100 - bar.bad * 100 / counts.most:.2f}%",
            "since": bar.since.astimezone(UTC).isoformat(timespec="milliseconds"),
            "until": bar.until.astimezone(UTC).isoformat(timespec="milliseconds"),
        }
        for number, bar in enumerate(counts.bars)
    ]


def _facets(counts: Counts) -> list[tuple[str, str, Any]]:
    """Title, parameter and values with counts of each facet that has some."""
    every = [
        ("Kind", "kind", counts.kinds),
        ("Worker", "worker", counts.workers),
        ("Failure", "text", counts.failures),
        ("Label", "label", counts.labels),
    ]
    return [each for each in every if each[2]]


def filters_of(asked: QueryDict) -> Filters:
    """Return the filters of a query. Raises BadFilter."""
    return Filters(
        kinds=[kind for kind in asked.getlist("kind") if kind in KINDS],
        cluster=asked.get("cluster", ""),
        worker=asked.get("worker", ""),
        topic=asked.get("topic", "").strip(),
        partition=_partition(asked.get("partition", "")),
        task=asked.get("task", "").strip(),
        label=_label(asked.get("label", "").strip()),
        since=time_of(asked, "since"),
        until=time_of(asked, "until"),
        text=text_in(asked, "text"),
    )


def _partition(text: str) -> int | None:
    if not text.strip():
        return None
    number = text.strip()
    if not number.isdecimal() or len(number) > MAX_DIGITS or int(number) > MAX_PARTITION:
        raise BadFilter(f"partition: expected a number, got {number[:40]}")
    return int(number)


def _label(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, sign, value = text.partition("=")
    if not sign or not name:
        raise BadFilter(f"label: expected name=value, got {text}")
    return name.strip(), value.strip()


def time_of(asked: QueryDict, name: str) -> datetime | None:
    """A time or an age of the query; None without one. Raises BadFilter."""
    text = asked.get(name, "").strip()
    if not text:
        return None
    found = moment_of(text, timezone.now())
    if found is None:
        raise BadFilter(f"{name}: expected {EXPECTED}, got {text[:40]}")
    return found


def key_of(asked: QueryDict, name: str) -> Key | None:
    """A place in the history of the query; None without one. Raises BadFilter."""
    text = asked.get(name, "")
    if not text:
        return None
    at, _, number = text.rpartition("_")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), int(number)
    except (ValueError, OverflowError):
        raise BadFilter(f"{name}: not a place in the history: {text[:80]}") from None


def written(key: Key | None) -> str:
    """A place in the history as text; empty without one."""
    return f"{key[0].astimezone(UTC).isoformat()}_{key[1]}" if key is not None else ""


def _rows(found: Page) -> list[dict[str, Any]]:
    names = names_of_runs({event.run for event in found.rows})
    rows = []
    for event in found.rows:
        cluster, worker = names.get(event.run, ("", "unknown"))
        state = status_of(event.kind)
        shown = {"event": event, "state": state, "note": note_of(event)}
        rows.append({"cluster": cluster, "worker": worker, **shown})
    return rows
