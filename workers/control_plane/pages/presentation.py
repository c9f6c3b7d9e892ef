"""Drawing of runs, partitions and durations: colours, glyphs, strips."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any
from urllib.parse import quote

from domain.beat import Blocker, PartitionState
from recorder.models import RunState
from workers.control_plane.queries import LATE_SECONDS, age_seconds, is_live

STRIP_WIDTH = 200
OF_RUN = {"ready": "completed", "lost": "failed", "paused": "paused"}
OF_PARTITION: Mapping[str, tuple[str, str]] = {
    PartitionState.RUNNING: ("completed", "completed"),
    PartitionState.PAUSED: ("paused", "paused"),
    PartitionState.PARKED: ("failed", "parked"),
    PartitionState.STALLED: ("running", "warn"),
}
LONG_SECONDS, VERY_LONG_SECONDS = 15.0, 60.0


def place_names(rows: Iterable[Mapping[str, Any]]) -> dict[tuple[str, str], str]:
    """Return what tells a (cluster, topic) from the others: empty for the only one,
    else the cluster, with the topic where a cluster has several."""
    places = sorted({(row["cluster"], row["topic"]) for row in rows})
    clusters = [cluster for cluster, _ in places]
    if len(places) < 2:
        return dict.fromkeys(places, "")
    return {(c, t): c if clusters.count(c) == 1 else f"{c}: {t}" for c, t in places}


def sink_anchor(cluster: str, name: str) -> str:
    """Return the place of a sink on the page of all sinks."""
    return f"sink-{quote(f'{cluster}/{name}', safe='')}"


def run_status(beat: RunState) -> str:
    """Return the status colour of a run."""
    if is_live(beat) and age_seconds(beat) > LATE_SECONDS:
        return "running"
    return OF_RUN.get(beat.state, "waiting")


def partition_status(state: str | None) -> tuple[str, str]:
    """Colour and glyph of a partition's state."""
    return OF_PARTITION.get(str(state), ("waiting", "waiting"))


def tone(seconds: float | None) -> str:
    """Return the colour of an age that should be short; empty for a short one."""
    if seconds is None or seconds < LONG_SECONDS:
        return ""
    return "failed" if seconds > VERY_LONG_SECONDS else "retrying"


def strip(stretches: Sequence[tuple[int, bool]] | None) -> dict[str, str]:
    """Return the gap strip of a partition, offsets above the watermark: a path of those
    ``with_fate``, one of those ``without``, and what it says (``told``)."""
    if stretches is None:
        return {"with_fate": "", "without": "", "told": "unknown"}
    total = sum(count for count, _ in stretches)
    done = sum(count for count, has_fate in stretches if has_fate)
    told = f"{total:,} above the watermark: {done:,} with fate, {total - done:,} without"
    return {
        "with_fate": _bars(stretches, total, has_fate=True),
        "without": _bars(stretches, total, has_fate=False),
        "told": told if total else "nothing above the watermark",
    }


def _bars(stretches: Iterable[tuple[int, bool]], total: int, *, has_fate: bool) -> str:
    """SVG path data, one for all: a shape a stretch made the page slow. The first stands out."""
    path, at = [], 0
    for count, is_done in stretches:
        if is_done == has_fate:
            x, width = at / total * STRIP_WIDTH, max(count / total * STRIP_WIDTH, 0.8)
            top, height = (3, 8) if at else (0, 14)
            path.append(f"M{x:.1f} {top}h{width:.1f}v{height}h-{width:.1f}z")
        at += count
    return "".join(path)


def blocker(found: Blocker | None, beat_age_seconds: float) -> dict[str, Any] | None:
    """Return what holds the commit back, for how long by now, and what that waits for."""
    if found is None:
        return None
    age = found.age_seconds
    seconds = None if age is None else age + beat_age_seconds
    shown = {
        "offset": found.offset, "task_id": found.task_id, "waits_for": found.waits_for
    }  # fmt: skip
    return {**shown, "seconds": seconds, "tone": tone(seconds)}
