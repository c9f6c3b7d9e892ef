"""``/sinks``: what each sink took, how fast, and what its breaker says; over all workers."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from recorder.models import RunState
from sinks.statistics import percentile_seconds
from workers.pages.shown import hues
from workers.queries import age_seconds, beats, is_live, oldest_age, total

BREAKERS = {"closed": ("completed", "completed"), "half_open": ("retrying", "retrying")}
PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
Row = dict[str, Any]


def sinks(request: HttpRequest) -> HttpResponse:
    """Each sink of each cluster with its sums over all runs, and a line a live worker."""
    found = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    live = [beat for beat in found if is_live(beat)]
    rows = _rows(found)
    context = {
        "rows": rows,
        "open_count": sum(row["status"] != "completed" for row in rows if row["workers"]),
        "live_count": len(live),
        "age": oldest_age(live),
    }
    return render(request, "sinks.html", context)


def _rows(found: list[RunState]) -> list[Row]:
    colours = hues(beat.run.worker for beat in found)
    parts: dict[tuple[str, str], list[tuple[RunState, Row]]] = {}
    for beat in found:
        for sink in beat.sinks:
            parts.setdefault((beat.run.cluster, sink["name"]), []).append((beat, sink))
    return [_sum(key, parts[key], colours) for key in sorted(parts)]


def _sum(key: tuple[str, str], parts: list[tuple[RunState, Row]], colours: dict[str, int]) -> Row:
    live = [(beat, sink) for beat, sink in parts if is_live(beat)]
    lines = [_line(beat, sink, colours[beat.run.worker]) for beat, sink in live]
    every = [sink for _, sink in parts]
    counts = [sink["latency_counts"] for sink in every if sink.get("latency_counts")]
    merged = [sum(column) for column in zip(*counts, strict=True)] if counts else []
    worst = min(lines, key=lambda line: line["rank"], default=None)
    by_class: dict[str, int] = {}
    for sink in every:
        for name, count in (sink.get("errors_by_class") or {}).items():
            by_class[name] = by_class.get(name, 0) + count
    newest = max(every, key=lambda sink: sink.get("last_delivery_at") or 0.0)
    failed = max(every, key=lambda sink: sink.get("last_error_at") or 0.0)
    return {
        "cluster": key[0],
        "name": key[1],
        "kind": every[-1].get("kind"),
        "workers": lines,
        "status": worst["status"] if worst else "waiting",
        "glyph": worst["glyph"] if worst else "waiting",
        "word": worst["word"] if worst else "no live worker",
        "delivered": total(sink.get("delivered") for sink in every),
        "errors": total(sink.get("errors") for sink in every),
        "by_class": [(name, count) for name, count in sorted(by_class.items()) if count],
        "retries": total(sink.get("retries") for sink in every),
        "queue_entries": total(sink.get("queue_entries") for _, sink in live),
        "queue_bytes": total(sink.get("queue_bytes") for _, sink in live),
        "last_delivery": _moment(newest.get("last_delivery_at")),
        "last_duration_ms": newest.get("last_duration_ms"),
        **{name: _ms(percentile_seconds(merged, share)) for name, share in PERCENTILES},
        "last_error": failed.get("last_error"),
        "last_error_class": failed.get("last_error_class"),
        "last_error_time": _moment(failed.get("last_error_at")),
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
        "last_delivery": _moment(sink.get("last_delivery_at")),
    }


def _moment(at: float | None) -> datetime | None:
    return None if at is None else datetime.fromtimestamp(at, UTC)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else seconds * 1000.0
