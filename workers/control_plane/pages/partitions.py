"""``/partitions`` and the page of one partition: who has it, how far it is, what holds it back."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.drain import drain
from domain.events import Shown, kinds_of
from domain.parking import remedy_of
from domain.unknown import total
from recorder.databases import is_history_away, unless_away
from recorder.models import Event, Run, RunState
from recorder.queries import Filters, page
from recorder.reading import few
from workers.control_plane.cluster_requests import standing
from workers.control_plane.pages.presentation import (
    blocker,
    partition_status,
    place_names,
    strip,
)
from workers.control_plane.paused_by import PausedBy, partitions_paused_by
from workers.control_plane.queries import (
    PARTITION_FIGURES,
    OwnedPartition,
    age_seconds,
    beats,
    cluster_lags,
    controller_beat,
    is_live,
    oldest_age,
    partitions_of,
)
from workers.control_plane.unowned_partitions import unowned_partitions

PAGE_ROWS = 50
UNOWNED = "no worker"
OWNERS = 50
MOST_MOVES = 1000
"""Of all clusters that read the topic, that are looked at."""
Row = dict[str, Any]
SORTS: dict[str, Callable[[Row], Any]] = {
    "partition": lambda row: (row["cluster"], row["topic"], row["partition"]),
    "state": lambda row: row["rank"],
    "owner": lambda row: row["owner"],
    "queue": lambda row: -(row["queue"] or 0),
    "pending": lambda row: -(row["pending"] or 0),
    "lag": lambda row: -(row["lag"] if row["lag"] is not None else -1),
    "blocker": lambda row: -((row["blocker"] or {}).get("seconds") or 0),
}
RANKS = {"failed": 0, "running": 1, "paused": 2, "waiting": 3, "completed": 4}


def partitions(request: HttpRequest) -> HttpResponse:
    """Every known partition, 50 a page; the URL holds filter, order, and where it goes on."""
    found = beats(request.GET.get("cluster", ""), request.GET.get("worker", ""))
    live = [beat for beat in found if is_live(beat)]
    owned = owned_rows(live)
    unowned = unless_away(unowned_partitions, [], found)
    every = owned + [_unowned(row) for row in unowned]
    shown = [row for row in every if fits(row, request.GET.get("state"), request.GET.get("text"))]
    order = request.GET.get("sort", "partition")
    shown.sort(key=SORTS["partition"])
    shown.sort(key=SORTS.get(order, SORTS["partition"]))
    first = _place_after(shown, request.GET.get("after", ""))
    rows = shown[first : first + PAGE_ROWS]
    places = place_names(every)
    states = sorted({str(row["state"]) for row in every})
    paused_by = _paused_by(rows)
    context = {
        "rows": [
            {**row, "place": places[row["cluster"], row["topic"]], "by": paused_by.get(_place(row))}
            for row in rows
        ],
        "every": every,
        "shown": len(shown),
        "is_first": first == 0,
        "next": name_of(rows[-1]) if len(shown) > first + PAGE_ROWS else None,
        "states": [(s, sum(str(row["state"]) == s for row in every)) for s in states],
        "sort": order if order in SORTS else "partition",
        "lag": total(cluster_lags(found, unowned, controller_beat()).values()),
        "lag_at_least": sum(row["lag"] or 0 for row in owned),
        "live_count": len(live),
        "standing": list(standing(request.GET.get("cluster", ""))),
        "last_beat": max((beat.beat_at for beat in found), default=None),
        "odd": sum(row["status"] != "completed" for row in every),
        "age": oldest_age(live),
        "asked": request.GET,
        "is_history_away": is_history_away(),
    }
    return render(request, "partitions.html", context)


def _place(row: Row) -> tuple[str, str, int]:
    return row["cluster"], row["topic"], row["partition"]


def _paused_by(rows: Iterable[Row]) -> dict[tuple[str, str, int], PausedBy]:
    """Return by whom those of the rows are paused that are, where it is known."""
    return partitions_paused_by([_place(row) for row in rows if row.get("is_paused")])


def name_of(row: Row) -> str:
    """Return cluster, topic and number of a row as one text."""
    return f"{row['cluster']}/{row['topic']}/{row['partition']}"


def _place_after(shown: list[Row], name: str) -> int:
    """Behind the named row, wherever it stands by now; 0 when it is none of these."""
    return next((n for n, row in enumerate(shown, 1) if name_of(row) == name), 0)


def _unowned(row: Row) -> Row:
    figures = dict.fromkeys(PARTITION_FIGURES)
    status = {"state": UNOWNED, "status": "failed", "glyph": "failed", "rank": RANKS["failed"]}
    return {**figures, "parked": [], **row, **status, "strip": strip(None)}


def owned_rows(live: list[RunState]) -> list[Row]:
    """Return each partition that these live workers own, by place."""
    ages = {(beat.run.cluster, beat.run.worker): age_seconds(beat) for beat in live}
    return [_row(row, ages[row.cluster, row.owner]) for row in partitions_of(live)]


def _row(row: OwnedPartition, age: float) -> Row:
    status, glyph = partition_status(row.beat.state)
    return {
        **row.document(),
        "is_paused": row.beat.has_pause,
        "parked": [(each, detail, remedy_of(each)) for each, detail in row.beat.parked.items()],
        "status": status,
        "glyph": glyph,
        "rank": RANKS[status],
        "strip": strip(row.beat.strip),
        "drain": drain(row.beat.lag, row.beat.lag_paces),
        "blocker": blocker(row.beat.blocker, age),
    }


def fits(row: Row, state: str | None, text: str | None) -> bool:
    """Tell whether a row has the state, and the text in its place, owner or task."""
    task = (row["blocker"] or {}).get("task_id") or ""
    said = f"{row['topic']}/{row['partition']} {row['owner']} {task}"
    return (not state or str(row["state"]) == state) and (not text or text.strip() in said)


def partition(request: HttpRequest, cluster: str, topic: str, number: int) -> HttpResponse:
    """One partition: its figures now, its owners over time, its events."""
    live = [beat for beat in beats(cluster) if is_live(beat)]
    row = next(
        (r for r in owned_rows(live) if (r["topic"], r["partition"]) == (topic, number)), None
    )
    wants_all = request.GET.get("events") == "all"
    kinds = () if wants_all else kinds_of(shown=Shown.PARTITION)
    asked = Filters(kinds=kinds, cluster=cluster, topic=topic, partition=number)
    events, moves = unless_away(_told, ([], []), asked)
    ids = {event.run for event in (*events, *moves)}
    told_by = Run.objects.filter(id__in=ids, cluster=cluster)
    runs = told_by.select_related("beat").defer("config", "beat__metrics")
    names = {run.id: run.worker for run in runs}
    owners = _epochs(moves, {run.id: run.beat for run in runs if hasattr(run, "beat")})[:OWNERS]
    context = {
        "row": row,
        "by": _paused_by([row]).get(_place(row)) if row else None,
        "cluster_name": cluster,
        "topic": topic,
        "number": number,
        "owners": owners,
        "standing": list(standing(cluster)),
        "events": [(event, names.get(event.run, "unknown")) for event in events],
        "wants_all": wants_all,
        "age": oldest_age(beat for beat in live if row and beat.run.worker == row["owner"]),
        "is_history_away": is_history_away(),
    }
    is_known = row is not None or owners or events or is_history_away()
    return render(request, "partition.html", context, status=200 if is_known else 404)


def _told(asked: Filters) -> tuple[list[Event], list[Event]]:
    """Return the events of a partition, and those by which it went from run to run."""
    assert asked.partition is not None
    return list(page(asked).rows), _moves(asked.topic, asked.partition)


def _moves(topic: str, number: int) -> list[Event]:
    """Return the events by which the partition went from run to run, of whichever cluster, youngest
    first."""
    kinds = ("assigned", "revoked", "lost")
    rows = Event.objects.defer("args", "stdout", "stderr", "labels").filter(
        kind__in=kinds, partition=number, topic=topic
    )
    told = few(rows)
    return list(rows.order_by("-ts", "-id")[:MOST_MOVES]) if told is None else told[::-1]


def _epochs(events: Iterable[Event], names: dict[Any, RunState]) -> list[Row]:
    """Return who had the partition and until when, youngest first; runs without a name are left
    out."""
    ends: dict[tuple[Any, Any], Event] = {}
    found: list[Row] = []
    for event in events:
        if event.run not in names:
            continue
        key = event.run, (event.data or {}).get("epoch")
        if event.kind != "assigned":
            ends[key] = event
            continue
        beat, end = names[event.run], ends.get(key)
        until, word = _end(beat, end)
        found.append(
            {
                "worker": beat.run.worker,
                "epoch": key[1],
                "since": event.ts,
                "until": until,
                "word": word,
                "first": event.offset,
                "last": end.offset if end is not None else None,
                "dropped": (end.data or {}).get("dropped_messages") if end is not None else None,
                "seconds": (until - event.ts).total_seconds() if until else None,
            }
        )
    return found


def _end(beat: RunState, end: Event | None) -> tuple[datetime | None, str]:
    if end is not None:
        return end.ts, end.kind
    if is_live(beat):
        return None, "has it"
    return beat.ended_at or beat.beat_at, f"run {beat.state}"
