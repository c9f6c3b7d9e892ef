"""``/debug``: all metrics of what lives, the search for a message, and the recorded runs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from domain.text_bounds import text_in
from recorder.models import Run, RunState
from workers.control_plane.queries import live_metrics, oldest_age
from workers.runtime.heartbeat import BEAT_SECONDS, METRICS_BEATS

SOURCES = ("framework", "user")
SHOWN_SERIES = 30
SHOWN_RUNS = 8
COUNTS = ("counter", "histogram", "summary")


@dataclass(slots=True)
class Family:
    """Metric over all processes. ``total`` is the sum of its counts; None: it has no sum."""

    name: str
    kind: str
    help: str
    source: str
    series: list[dict[str, Any]] = field(default_factory=list)
    total: float | None = None
    buckets: int = 0

    @property
    def shown(self) -> list[dict[str, Any]]:
        """First series."""
        return self.series[:SHOWN_SERIES]

    @property
    def left_out(self) -> int:
        """Number of those not shown."""
        return max(0, len(self.series) - SHOWN_SERIES)


@require_safe
def debug(request: HttpRequest) -> HttpResponse:
    """Metrics as their processes last recorded them, filtered by source and text."""
    asked, error = request.GET, ""
    source = asked.get("source", "")
    if source and source not in SOURCES:
        error = f"source: expected one of {', '.join(SOURCES)}, got {source[:40]}"
    beats = live_metrics(text_in(request.GET, "cluster"), text_in(request.GET, "worker"))
    text = text_in(request.GET, "text").lower()
    families = [] if error else _families(beats, source, text)
    context = {
        "families": families,
        "series_count": sum(len(family.series) for family in families),
        "processes": [beat for beat in beats if beat.metrics],
        "silent": [beat for beat in beats if not beat.metrics],
        "left_out": sum((beat.metrics or {}).get("left_out", 0) for beat in beats),
        "sources": SOURCES,
        "asked": asked,
        "age": oldest_age(beats),
        "every": round(BEAT_SECONDS * METRICS_BEATS),
        "error": error,
        "runs": _runs(request),
    }
    return render(request, "debug.html", context, status=400 if error else 200)


def _families(beats: Iterable[RunState], source: str, text: str) -> list[Family]:
    found: dict[tuple[str, str], Family] = {}
    for beat, told, sample in _samples(beats):
        name, labels, value = sample
        own = SOURCES[labels.get("source") == "user"]
        shown = " ".join(f'{key}="{label}"' for key, label in labels.items())
        process = f"{beat.run.cluster}/{beat.run.worker}"
        if source not in ("", own) or not _fits(text, name, told["help"], shown, process):
            continue
        family = found.setdefault(
            (told["name"], own), Family(told["name"], told["type"], told["help"], own)
        )
        if "le" in labels:
            family.buckets += 1
            continue
        if told["type"] in COUNTS and name.endswith(("_total", "_count")):
            family.total = (family.total or 0.0) + float(value)
        family.series.append(
            {"name": name, "process": process, "labels": shown, "value": _number(value)}
        )
    return [found[key] for key in sorted(found)]


def _samples(beats: Iterable[RunState]) -> Iterator[tuple[RunState, dict[str, Any], list[Any]]]:
    for beat in beats:
        for family in (beat.metrics or {}).get("families", ()):
            for sample in family["samples"]:
                yield beat, family, sample


def _fits(text: str, *parts: str) -> bool:
    return not text or any(text in part.lower() for part in parts)


def _number(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return f"{value:,.0f}" if value == int(value) else f"{value:,.6g}"


def _runs(request: HttpRequest) -> list[Run]:
    runs = Run.objects.order_by("-started_at", "-id").defer("config", "environment")
    for name in ("cluster", "worker"):
        if chosen := text_in(request.GET, name):
            runs = runs.filter(**{name: chosen})
    return list(runs[:SHOWN_RUNS])
