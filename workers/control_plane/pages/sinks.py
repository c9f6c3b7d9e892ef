"""``/sinks``: what each sink took, how fast, and what its breaker says; over all workers."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.unknown import total
from recorder.models import RunState
from recorder.timestamps import utc_at
from sinks.statistics import percentile_seconds
from workers.control_plane.pages.presentation import hues, sink_anchor
from workers.control_plane.past_runs import CachedTotals, Mark, ended, mark_of
from workers.control_plane.queries import age_seconds, beats, is_live, oldest_age

BREAKERS = {"closed": ("completed", "completed"), "half_open": ("retrying", "retrying")}
PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
SUMMED = ("delivered", "errors", "retries")
ERRORS = ("last_error", "last_error_class", "last_error_at")
Row = dict[str, Any]


def sinks(request: HttpRequest) -> HttpResponse:
    """Each sink of each cluster with its sums over all runs, and a line a live worker."""
    found = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    live = [beat for beat in found if is_live(beat)]
    rows = sink_rows(found)
    context = {
        "rows": rows,
        "open_count": sum(row["status"] != "completed" for row in rows if row["workers"]),
        "live_count": len(live),
        "age": oldest_age(live),
    }
    return render(request, "sinks.html", context)


def sink_rows(found: list[RunState]) -> list[Row]:
    """Each sink of each cluster: sums over all runs, and a line of each live worker."""
    colours = hues(beat.run.worker for beat in found)
    names = {(beat.run.cluster, beat.run.worker) for beat in found}
    past = PAST.at(mark_of(found[0]))[1] if found else {}
    parts: dict[tuple[str, str], list[tuple[RunState | None, Row]]] = {}
    for (cluster, worker, name), sums in past.items():
        if (cluster, worker) in names:
            parts.setdefault((cluster, name), []).append((None, sums))
    for beat in sorted(filter(is_live, found), key=lambda beat: beat.run.worker):
        for sink in beat.sinks:
            parts.setdefault((beat.run.cluster, sink["name"]), []).append((beat, sink))
    return [_sum(key, parts[key], colours) for key in sorted(parts)]


def sink_lines(live: Iterable[RunState]) -> list[Row]:
    """A line of each sink of each live worker, by cluster, sink and worker."""
    beats = list(live)
    colours = hues(beat.run.worker for beat in beats)
    found = [(beat, sink) for beat in beats for sink in beat.sinks]
    found.sort(key=lambda each: (each[0].run.cluster, each[1]["name"], each[0].run.worker))
    return [_line(beat, sink, colours[beat.run.worker]) for beat, sink in found]


def _read_past() -> tuple[Mark, dict[tuple[str, str, str], Row]]:
    """What the ended runs of each worker's name delivered, by sink."""
    parts: dict[tuple[str, str, str], list[Row]] = {}
    columns = ("run__cluster", "run__worker", "sinks", "beat_at")
    rows = list(ended().order_by("run__started_at").values_list(*columns))
    for cluster, worker, sinks, _ in rows:
        for sink in sinks:
            parts.setdefault((cluster, worker, sink["name"]), []).append(sink)
    mark = len(rows), max((row[-1] for row in rows), default=None)
    return mark, {key: _folded(every) for key, every in parts.items()}


PAST = CachedTotals(_read_past)


def _folded(every: list[Row]) -> Row:
    """Sums and latest figures of one sink over several runs, oldest first."""
    counts = [sink["latency_counts"] for sink in every if sink.get("latency_counts")]
    by_class: dict[str, int] = {}
    for sink in every:
        for name, count in (sink.get("errors_by_class") or {}).items():
            by_class[name] = by_class.get(name, 0) + count
    newest = max(every, key=lambda sink: sink.get("last_delivery_at") or 0.0)
    failed = max(every, key=lambda sink: sink.get("last_error_at") or 0.0)
    return {
        "kind": every[-1].get("kind"),
        **{name: total(sink.get(name) for sink in every) for name in SUMMED},
        "errors_by_class": by_class,
        "latency_counts": [sum(column) for column in zip(*counts, strict=True)],
        **{name: newest.get(name) for name in ("last_delivery_at", "last_duration_ms")},
        **{name: failed.get(name) for name in ERRORS},
    }


def _sum(
    key: tuple[str, str], parts: list[tuple[RunState | None, Row]], colours: dict[str, int]
) -> Row:
    live = [(beat, sink) for beat, sink in parts if beat is not None]
    lines = [_line(beat, sink, colours[beat.run.worker]) for beat, sink in live]
    every = _folded([sink for _, sink in parts])
    worst = min(lines, key=lambda line: line["rank"], default=None)
    return {
        **every,
        "cluster": key[0],
        "name": key[1],
        "anchor": sink_anchor(*key),
        "workers": lines,
        "status": worst["status"] if worst else "waiting",
        "glyph": worst["glyph"] if worst else "waiting",
        "word": worst["word"] if worst else "no live worker",
        "by_class": [(name, n) for name, n in sorted(every["errors_by_class"].items()) if n],
        "queue_entries": total(sink.get("queue_entries") for _, sink in live),
        "queue_bytes": total(sink.get("queue_bytes") for _, sink in live),
        "last_delivery": utc_at(every["last_delivery_at"]),
        **{n: _ms(percentile_seconds(every["latency_counts"], q)) for n, q in PERCENTILES},
        "last_error_time": utc_at(every["last_error_at"]),
    }


def _line(beat: RunState, sink: Row, hue: int) -> Row:
    breaker = str(sink.get("breaker") or "unknown").replace("-", "_")
    status, glyph = BREAKERS.get(breaker, ("failed", "failed"))
    probe = sink.get("next_probe_seconds")
    word = breaker.replace("_", "-")
    if breaker == "closed" and sink.get("waiting_for"):
        status, glyph, word = "retrying", "retrying", "retrying"
    if sink.get("is_paused"):
        status, glyph, word = "paused", "paused", "paused"
    if breaker == "open" and probe is not None:
        word = f"open, probe in {max(0.0, probe - age_seconds(beat)):.0f} s"
    return {
        **sink,
        "worker": beat.run.worker,
        "hue": hue,
        "status": status,
        "glyph": glyph,
        "word": word,
        "rank": ("failed", "retrying", "paused", "completed").index(status),
        "last_delivery": utc_at(sink.get("last_delivery_at")),
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0
