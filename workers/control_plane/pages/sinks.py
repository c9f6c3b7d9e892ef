"""``/sinks``: what each sink took, how fast, and what its breaker says; over all workers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.beat import SinkBeat
from domain.unknown import total
from recorder.models import RunState
from recorder.timestamps import utc_at
from sinks.statistics import in_ms, percentile_seconds
from workers.control_plane.pages.presentation import sink_anchor
from workers.control_plane.past_runs import (
    TOTALS,
    CachedTotals,
    Version,
    ended,
    summed_sinks,
    version_of,
)
from workers.control_plane.paused_by import sinks_paused_by
from workers.control_plane.queries import age_seconds, beats, is_live, oldest_age

BREAKERS = {"closed": ("completed", "completed"), "half_open": ("retrying", "retrying")}
PERCENTILES = (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
Row = dict[str, Any]


def sinks(request: HttpRequest) -> HttpResponse:
    """Each sink of each cluster with its sums over all runs, and a line a live worker."""
    found = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    live = [beat for beat in found if is_live(beat)]
    rows = sink_rows(found)
    _say_by_whom(rows)
    context = {
        "rows": rows,
        "open_count": sum(row["status"] != "completed" for row in rows if row["workers"]),
        "live_count": len(live),
        "age": oldest_age(live),
    }
    return render(request, "sinks.html", context)


def _say_by_whom(rows: list[Row]) -> None:
    """Add to the lines that are paused by whom they are, where it is known."""
    paused = {
        (row["cluster"], line["worker"], row["name"]): line
        for row in rows
        for line in row["workers"]
        if line["is_paused"]
    }
    for place, by in sinks_paused_by(paused).items():
        paused[place]["by"] = by


def sink_rows(found: list[RunState]) -> list[Row]:
    """Each sink of each cluster: sums over all runs, and a line of each live worker."""
    names = {(beat.run.cluster, beat.run.worker) for beat in found}
    past = PAST.at(version_of(found[0]))[1] if found else {}
    parts: dict[tuple[str, str], list[tuple[RunState | None, SinkBeat]]] = {}
    for (cluster, worker, name), sums in past.items():
        if (cluster, worker) in names:
            parts.setdefault((cluster, name), []).append((None, sums))
    for beat in sorted(filter(is_live, found), key=lambda beat: beat.run.worker):
        for sink in beat.sinks:
            parts.setdefault((beat.run.cluster, sink.name), []).append((beat, sink))
    return [_sum(key, parts[key]) for key in sorted(parts)]


def sink_lines(live: Iterable[RunState]) -> list[Row]:
    """Return a line of each sink of each live worker, by cluster, sink and worker."""
    beats = list(live)
    found = [(beat, sink) for beat in beats for sink in beat.sinks]
    found.sort(key=lambda each: (each[0].run.cluster, each[1].name, each[0].run.worker))
    return [_line(beat, sink) for beat, sink in found]


def _read_past() -> tuple[Version, dict[tuple[str, str, str], SinkBeat]]:
    """Return what the ended runs of each worker's name delivered, by sink, and those that were
    pruned."""
    parts: dict[tuple[str, str, str], list[SinkBeat]] = {}
    columns = ("run__cluster", "run__worker", "sinks", "beat_at")
    rows = list(ended().order_by("run__started_at").values_list(*columns))
    version = len(rows), max((row[-1] for row in rows), default=None)
    for (cluster, worker), past in TOTALS.at(version)[1].items():
        for sink in past.pruned_sinks:
            parts[cluster, worker, sink.name] = [sink]
    for cluster, worker, sinks, _ in rows:
        for sink in sinks:
            parts.setdefault((cluster, worker, sink.name), []).append(sink)
    return version, {key: summed_sinks(every) for key, every in parts.items()}


PAST = CachedTotals(_read_past)


def _sum(key: tuple[str, str], parts: list[tuple[RunState | None, SinkBeat]]) -> Row:
    live = [(beat, sink) for beat, sink in parts if beat is not None]
    lines = [_line(beat, sink) for beat, sink in live]
    every = summed_sinks([sink for _, sink in parts])
    worst = min(lines, key=lambda line: line["rank"], default=None)
    return {
        **_figures(every),
        "cluster": key[0],
        "name": key[1],
        "anchor": sink_anchor(*key),
        "workers": lines,
        "status": worst["status"] if worst else "waiting",
        "glyph": worst["glyph"] if worst else "waiting",
        "word": worst["word"] if worst else "no live worker",
        "by_class": [(name, n) for name, n in sorted(every.errors_by_class.items()) if n],
        "queue_entries": total(sink.queue_entries for _, sink in live),
        "queue_bytes": total(sink.queue_bytes for _, sink in live),
        "last_delivery": utc_at(every.last_delivery_at),
        **{n: in_ms(percentile_seconds(every.latency_counts, q)) for n, q in PERCENTILES},
        "last_error_time": utc_at(every.last_error_at),
    }


def _line(beat: RunState, sink: SinkBeat) -> Row:
    breaker = (sink.breaker or "unknown").replace("-", "_")
    status, glyph = BREAKERS.get(breaker, ("failed", "failed"))
    probe = sink.next_probe_seconds
    word = breaker.replace("_", "-")
    if breaker == "closed" and sink.waiting_for:
        status, glyph, word = "retrying", "retrying", "retrying"
    if sink.is_paused:
        status, glyph, word = "paused", "paused", "paused"
    if breaker == "open" and probe is not None:
        word = f"open, probe in {max(0.0, probe - age_seconds(beat)):.0f} s"
    return {
        **_figures(sink),
        "worker": beat.run.worker,
        "cluster": beat.run.cluster,
        "status": status,
        "glyph": glyph,
        "word": word,
        "rank": ("failed", "retrying", "paused", "completed").index(status),
        "last_delivery": utc_at(sink.last_delivery_at),
    }


def _figures(sink: SinkBeat) -> Row:
    return {each.name: getattr(sink, each.name) for each in fields(sink)}
