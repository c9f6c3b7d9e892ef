"""What goes over the live socket, as JSON text."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import orjson

from recorder.models import Event, RunState
from workers.queries import Scope, dashboard, is_live

SENT = (
    "kind topic partition offset task_id slot exit_code duration_ms queue_ms attempt sink labels"
).split()
Cursor = dict[str, int]


def event_payload(event: Event, name: Scope) -> dict[str, Any]:
    """An event without output and details."""
    row = {field: getattr(event, field) for field in SENT}
    return {"at": event.ts, "seq": event.seq, "cluster": name[0], "worker": name[1], **row}


def frame(kind: str, cursor: Cursor, **body: Any) -> str:
    """One frame of the socket."""
    return orjson.dumps({"type": kind, "cursor": cursor, **body}).decode()


def state_body(beats: list[RunState], scope: Scope) -> dict[str, Any]:
    """The dashboard's figures for one listener's choice, and how old they are."""
    cluster, worker = scope
    chosen = [
        beat
        for beat in beats
        if cluster in ("", beat.run.cluster) and worker in ("", beat.run.worker)
    ]
    live = [beat.beat_at for beat in chosen if is_live(beat)]
    latest: datetime | None = max(live, default=None)
    return {"dashboard": dashboard(chosen), "beat_at": latest}
