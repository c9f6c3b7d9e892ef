"""``/trace``: the search for a message, and its waterfall over workers, clusters and attempts."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import NoReverseMatch, reverse

from domain.events import KINDS
from domain.paging import BadFilter
from domain.text_bounds import shortened, text_in
from recorder.lookup import MAX_PLACES, STATES, Found, NotUnderstood, Search, search
from recorder.models import Event
from recorder.pages.history import key_of, time_of, written
from recorder.queries import names_of_runs
from recorder.reading import WINDOW_ROWS
from recorder.sampling import is_chosen
from recorder.spans import FATE_STATES, Life, Span, note_of
from recorder.trace import PARTITION_KINDS, RUN_KINDS, Place, RunName, Trace, trace

ASKED = ("q", "state", "slower", "since", "until")
"""Parameters of a search; without any of them the page asks what is looked for."""
_DURATION = re.compile(r"(\d{1,9}(?:\.\d{1,3})?)\s*(ms|s|m|h)?", re.ASCII)
UNIT_MS = {"ms": 1.0, "s": 1000.0, "m": 60_000.0, "h": 3_600_000.0}
CONTEXT_KINDS = frozenset((*PARTITION_KINDS, *RUN_KINDS)) - {"committed", "skipped"}
"""Kinds of what befell the partition and the runs while the message lived: shown on demand."""
_ORDER = ("dead_lettered", "failed", "retrying", "running", "unknown", "waiting", "completed")
WORST_FIRST = {state: place for place, state in enumerate(_ORDER)}
MAX_DRAWN = 400
MOST_NOTE, MOST_FACT = 300, 1000
TICKS = 8
LATE_SHARE = 0.68
ICONS = {"message": "ship", "gap": "gap"} | {
    kind.name: kind.icon for kind in KINDS.values() if kind.icon
}
GLYPHS = ("running", "completed", "failed", "retrying", "dead_lettered", "paused", "waiting")


def trace_search(request: HttpRequest) -> HttpResponse:
    """Lead to the one message that is meant, or list those that fit."""
    error, found, asked = "", Found(), Search()
    is_asked = any(request.GET.get(name, "").strip() for name in ASKED)
    try:
        asked = search_of(request.GET)
        found = search(asked) if is_asked else found
    except (NotUnderstood, BadFilter) as exc:
        error = str(exc)
    if len(found.places) == 1 and found.older is None and not asked.is_narrowed:
        return HttpResponseRedirect(url_of(found.places[0]))
    context = {
        "question": asked.question or request.GET.get("q", ""),
        "asked": request.GET,
        "states": STATES,
        "error": error,
        "found": found,
        "older_key": written(found.older),
        "window_rows": WINDOW_ROWS,
        "places": _places(found),
        "is_full": max(len(found.matches), len(found.places)) == MAX_PLACES,
        "is_asked": is_asked and not error,
    }
    return render(request, "trace_search.html", context, status=400 if error else 200)


def search_of(asked: QueryDict) -> Search:
    """Return the search of a query. Raises BadFilter."""
    state = asked.get("state", "").strip()
    if state and state not in STATES:
        raise BadFilter(f"state: expected one of {', '.join(STATES)}, got {state[:40]}")
    return Search(
        question=text_in(asked, "q"),
        state=state,
        slower_ms=_slower(asked.get("slower", "").strip()),
        since=time_of(asked, "since"),
        until=time_of(asked, "until"),
        cluster=asked.get("cluster", ""),
        worker=asked.get("worker", ""),
        older=key_of(asked, "older"),
    )


def _slower(text: str) -> float | None:
    if not text:
        return None
    if (found := _DURATION.fullmatch(text)) is None:
        raise BadFilter(f"slower: expected a duration like 250ms, 2s or 5m, got {text[:40]}")
    return float(found[1]) * UNIT_MS[found[2] or "ms"]


def _places(found: Found) -> list[dict[str, Any]]:
    """The messages as the page lists them: those of a place or task without what became of them."""
    if not found.matches:
        return [{"place": place, "url": url_of(place)} for place in found.places]
    names = names_of_runs({match.run for match in found.matches})
    return [
        {
            "place": match.place,
            "url": url_of(match.place),
            "match": match,
            "state": FATE_STATES.get(match.fate or "", "waiting"),
            "cluster": names.get(match.run, ("", "unknown"))[0],
            "worker": names.get(match.run, ("", "unknown"))[1],
        }
        for match in found.matches
    ]


def trace_page(request: HttpRequest, topic: str, partition: int, offset: int) -> HttpResponse:
    """One message's waterfall; 404 with the reason when no event tells of it."""
    place = Place(topic=topic, partition=partition, offset=offset)
    found = trace(place)
    if not found.events:
        nothing = {"place": place, "found": None, "left_out_of": _left_out_of(place)}
        return render(request, "trace.html", nothing, status=404)
    is_wide = request.GET.get("around") == "1"
    left_out = 0 if is_wide else leave_out_context(found)
    rows = list(_rows(found))
    context = {
        "place": place,
        "message": f"{topic}/{partition}:{offset}",
        "spot": f"{partition}:{offset}",
        "found": found,
        "heads": heads(found),
        "is_wide": is_wide,
        "context_count": left_out,
        "total_ms": _ms(found.end - found.start),
        "workers": [found.name_of(life.run) for life in _first_lives(found)],
        "clusters": sorted({found.name_of(life.run).cluster for life in found.lives}),
        "rows": rows[:MAX_DRAWN],
        "left_out": max(0, len(rows) - MAX_DRAWN),
        "ticks": _ticks(found),
        "facts": next((life.whole.facts for life in found.lives), {}),
        "raw": [_raw(found, row) for row in found.events],
        "counts": _counts(found),
    }
    return render(request, "trace.html", context)


def _left_out_of(place: Place) -> int | None:
    """Return N, where one message in N is stored of late and this one is none of them; else
    None."""
    told = Event.objects.filter(kind="sampled", partition=None).order_by("-ts", "-id")
    one_in = told.values_list("data__one_in", flat=True).first()
    if not one_in or is_chosen(f"{place.partition}:{place.offset}", int(one_in)):
        return None
    return int(one_in)


def url_of(place: Place) -> str:
    """Return the page of a message's trace; nowhere for a place that no message has."""
    try:
        return reverse("trace", args=[place.topic, place.partition, place.offset])
    except NoReverseMatch:
        return "#"


def _first_lives(found: Trace) -> list[Life]:
    return list({life.run: life for life in reversed(found.lives)}.values())[::-1]


def _ms(delta: Any) -> float:
    return float(delta.total_seconds()) * 1000.0


def leave_out_context(found: Trace) -> int:
    """Leave out what befell the partition and the runs meanwhile; returns how many events."""
    before = len(found.events)
    found.marks = [mark for mark in found.marks if mark.kind not in CONTEXT_KINDS]
    found.events = [event for event in found.events if event.kind not in CONTEXT_KINDS]
    return before - len(found.events)


def heads(found: Trace) -> list[tuple[str, str, str]]:
    """Cluster, state and words for what became of the message in each, the worst first: each
    cluster gives a message a fate of its own."""
    last = {found.name_of(life.run).cluster: life.whole for life in found.lives}
    if not last:
        mark = found.marks[-1]
        return [("", mark.state, mark.note or mark.state)]
    heads = [(cluster, whole.state, whole.note or whole.state) for cluster, whole in last.items()]
    return sorted(heads, key=lambda head: (WORST_FIRST.get(head[1], len(WORST_FIRST)), head[0]))


def _counts(found: Trace) -> dict[str, int]:
    spans = found.spans()
    return {
        "attempts": sum(1 for span in spans if span.kind == "attempt" and "attempt" in span.facts),
        "retries": sum(1 for span in spans if span.state == "retrying"),
        "deliveries": sum(1 for span in spans if span.kind == "delivered"),
        "letters": sum(1 for span in spans if span.kind == "dead_lettered"),
    }


def _ticks(found: Trace) -> list[dict[str, Any]]:
    total = _ms(found.end - found.start)
    return [
        {"x": f"{number * 100 / TICKS:.3f}%", "ms": total * number / TICKS}
        for number in range(TICKS)
    ]


def _rows(found: Trace) -> Iterator[dict[str, Any]]:
    for life in found.lives:
        name = found.name_of(life.run)
        whole = life.whole
        yield _row(found, whole, 0, name, worker=name.worker, cluster=name.cluster)
        children: dict[str | None, list[Span]] = {}
        for span in life.spans[1:]:
            children.setdefault(span.parent, []).append(span)
        yield from _below(found, children, whole.id, 1, name)
    names = {str(life.run): found.name_of(life.run) for life in found.lives}
    for mark in sorted(found.marks, key=lambda mark: mark.start):
        yield _row(found, mark, 1, names.get(str(mark.facts.get("run"))))


def _below(
    found: Trace, children: dict[str | None, list[Span]], parent: str, depth: int, name: RunName
) -> Iterator[dict[str, Any]]:
    for span in sorted(children.get(parent, ()), key=lambda span: span.start):
        yield _row(found, span, depth, name, cluster=name.cluster)
        yield from _below(found, children, span.id, depth + 1, name)


def _row(
    found: Trace, span: Span, depth: int, of: RunName | None, worker: str = "", cluster: str = ""
) -> dict[str, Any]:
    total = max(_ms(found.end - found.start), 0.001)
    end = span.end or found.end
    begin = _ms(span.start - found.start) / total
    share = _ms(end - span.start) / total
    is_late = begin + share > LATE_SHARE
    return {
        "span": span,
        "worker": worker,
        "cluster": cluster,
        "of": of,
        "depth": min(depth, 4),
        "icon": ICONS.get(span.kind, span.state if span.state in GLYPHS else "dot"),
        "x": f"{begin * 100:.3f}%",
        "width": f"{max(share, 0.002) * 100:.3f}%",
        "text_x": f"{(begin if is_late else begin + share) * 100:.3f}%",
        "is_late": is_late,
        "took_ms": _ms(end - span.start) if span.end is None or span.end > span.start else None,
        "after_ms": _ms(span.start - found.start),
        "note": shortened(span.note, MOST_NOTE),
        "facts": [
            (shortened(key, MOST_NOTE), _fact(value))
            for key, value in span.facts.items()
            if value not in (None, "", {})
        ],
    }


def _fact(value: Any) -> Any:
    """A fact as it is, or what of its text a page holds beside hundreds of others."""
    text = str(value)
    return value if len(text) <= MOST_FACT else shortened(text, MOST_FACT)


def _raw(found: Trace, row: Any) -> dict[str, Any]:
    at: datetime = row.ts
    return {
        "event": row,
        "after_ms": max(0.0, _ms(at - found.start)),
        "worker": found.name_of(row.run).worker,
        "cluster": found.name_of(row.run).cluster,
        "note": note_of(row),
    }
