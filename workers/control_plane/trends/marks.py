"""What befell the fleet while its figures were what they were: vertical lines on every chart.

Rebalances and pauses of single partitions are drawn in times of up to a week.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import partial
from typing import Any

from django.db.models import QuerySet
from django.db.models.functions import Extract

from domain.events import KINDS, PartitionEvent, RunEvent, kinds_of
from recorder.models import Event, Run
from recorder.reading import of_runs
from workers.control_plane.queries import CONTROL_CLUSTER
from workers.control_plane.trends.window import Window

GROUPS = {
    "deploy": "Versions",
    "config": "Configuration",
    "outage": "Outages",
    "rebalance": "Rebalances",
    "pause": "Pauses",
    "run": "Starts and stops",
}
"""Kinds of marks that a reader can take away, with their title."""
_GROUP_OF_SHAPE = {"rebalance": "rebalance", "pause": "pause", "start": "run", "stop": "run"}
_GROUP_OF_KIND = {
    "version_changed": "deploy",
    "config_changed": "config",
    "worker_lost": "outage",
    "resumed": "pause",
    "rewound": "pause",
    "breaker_opened": "outage",
    "breaker_closed": "outage",
}
_OWN_SHAPES = ("deploy", "config")
_BREAKER_KINDS = ("breaker_opened", "breaker_closed")
_RUN_KINDS = (
    *_BREAKER_KINDS,
    *(name for name in kinds_of(RunEvent) if KINDS[name].mark is not None),
)
_PARTITION_KINDS = tuple(name for name in kinds_of(PartitionEvent) if KINDS[name].mark is not None)
PARTITIONS_WITHIN = timedelta(days=7)
"""Rebalances and pauses of partitions are too many to be told apart in a longer time."""
MOST_EVENTS, MOST_MARKS = 2000, 200
TOGETHER_SECONDS = 10
MOST_CHARS = 40
"""Characters of a value that a mark shows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """A moment, or a time that lasted ``until`` then (UTC epoch seconds); ``status`` is its colour,
    ``kind`` what the history calls it."""

    at: float
    group: str
    shape: str
    status: str
    text: str
    kind: str
    until: float | None = None


_AWAY = partial(Mark, group="outage", shape="stop", status="failed")


@dataclass(frozen=True, slots=True)
class _Told:
    """One thing of one worker, before the same of others are put beside it."""

    at: float
    group: str
    kind: str
    what: str
    worker: str


def marks(window: Window, cluster: str = "", worker: str = "", host: str = "") -> list[Mark]:
    """Return the newest marks of a window, oldest first, of a cluster, worker and host (empty:
    all)."""
    runs = Run.objects.exclude(cluster=CONTROL_CLUSTER)
    for name, value in (("cluster", cluster), ("worker", worker), ("host", host)):
        runs = runs.filter(**{name: value}) if value else runs
    told = list(_happened(window, runs, bool(cluster or worker or host)))
    others = [each for each in told if not _is_breaker(each)]
    found = [*_outages(told), *_together(others, window)]
    return sorted(found, key=lambda mark: mark.at)[-MOST_MARKS:]


def _happened(window: Window, runs: QuerySet[Run], is_chosen: bool) -> Iterable[_Told]:
    is_short = window.until - window.since <= PARTITIONS_WITHIN
    kinds = (*_RUN_KINDS, *(_PARTITION_KINDS if is_short else ()))
    asked: Any = Event.objects.filter(kind__in=kinds, ts__gte=window.since, ts__lt=window.until)
    if is_chosen:
        asked = asked.filter(of_runs(runs.values_list("id", flat=True)))
    # By an expression: by ``ts`` itself, all events of the time would be walked for a few kinds.
    rows = asked.order_by(Extract("ts", "epoch").desc())
    columns = ("ts", "kind", "run", "sink", "partition", "data")
    events = list(rows.values_list(*columns)[:MOST_EVENTS])
    told_by = Run.objects.filter(id__in={each[2] for each in events})
    names = dict(told_by.values_list("id", "worker"))
    for ts, kind, run, sink, partition, data in events:
        shape = KINDS[kind].mark
        group = _GROUP_OF_KIND.get(kind) or _GROUP_OF_SHAPE[shape.shape if shape else "start"]
        who = (data or {}).get("worker") if kind == "worker_lost" else names.get(run)
        what = sink or _changes(data) or ("" if partition is None else "partition")
        yield _Told(ts.timestamp(), group, kind, what, who or "unknown")


def _changes(data: Any) -> str:
    """Return in words what a run was started with otherwise than the one before; empty for what
    tells of no change."""
    changes = data.get("changes") if isinstance(data, dict) else None
    if not changes:
        return ""
    first, more = changes[0], len(changes) - 1
    was, now = (str(first.get(side) or "unknown")[:MOST_CHARS] for side in ("old", "new"))
    return f"{first.get('key')} {was} to {now}{f' and {more} more' if more else ''}"


def _is_breaker(told: _Told) -> bool:
    return told.kind in _BREAKER_KINDS


def _outages(told: Iterable[_Told]) -> list[Mark]:
    """Return a mark of each time that a breaker was open, as long as that lasted."""
    opened: dict[tuple[str, str], int] = {}
    found: list[Mark] = []
    for each in sorted(filter(_is_breaker, told), key=lambda one: one.at):
        key = (each.worker, each.what)
        if each.kind == "breaker_opened":
            opened[key] = len(found)
            text = f"sink {each.what} away, by {each.worker}"
            found.append(_AWAY(at=each.at, text=text, kind=each.kind))
        elif key in opened:
            place = opened.pop(key)
            found[place] = replace(found[place], until=each.at)
    return found


def _together(told: Iterable[_Told], window: Window) -> list[Mark]:
    """Return one mark of what several workers or partitions were told of within a moment."""
    near = max(TOGETHER_SECONDS, window.step_seconds // 2)
    by_moment: dict[tuple[Any, ...], list[_Told]] = {}
    for each in told:
        by_moment.setdefault((each.group, each.kind, each.what, each.at // near), []).append(each)
    return [_mark(group) for group in by_moment.values()]


def _mark(told: Sequence[_Told]) -> Mark:
    first = min(told, key=lambda each: each.at)
    look = KINDS[first.kind].mark
    workers = sorted({each.worker for each in told})
    who = workers[0] if len(workers) == 1 else f"{len(workers)} workers"
    count = f" {len(told)} partition{'s' * (len(told) > 1)}" if first.what == "partition" else ""
    told_of = count or f" {first.what}".rstrip()
    return Mark(
        at=first.at,
        group=first.group,
        shape=first.group if first.group in _OWN_SHAPES else look.shape if look else "stop",
        status="failed" if first.group == "outage" or look is None else look.status,
        text=f"{who}: {first.kind.replace('_', ' ')}{told_of}",
        kind=first.kind,
    )
