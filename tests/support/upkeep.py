"""What the controller's jobs are given in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from domain.events import Event, ignore
from recorder.export_jobs import ExportLimits
from recorder.retention import Retention
from recorder.rollups.retention import RollupRetention
from sinks.letter_jobs import ReplayTransports
from workers.control_plane.jobs import Turn, Upkeep


def an_upkeep(folder: Path = Path("nowhere"), **values: Any) -> Upkeep:
    """Seven days, any bytes, no cluster."""
    given: dict[str, Any] = {
        "retention": Retention(days=7, max_bytes=None),
        "rollups": RollupRetention(minute_days=7, hour_days=400),
        "audit_days": 400,
        "request_days": 30,
        "exports": ExportLimits(folder=folder, ttl_hours=1, max_bytes=1024 * 1024),
        "kafka": {},
        "transports": ReplayTransports(transports={}, redeliver=lambda letters, actor, tick: []),
        "sources": {},
    }
    return Upkeep(**(given | values))


def a_turn(told: list[Event] | None = None, **values: Any) -> Turn:
    """A turn of a controller that reached Postgres long ago."""
    given: dict[str, Any] = {
        "tell": ignore if told is None else told.append,
        "wall": 0.0,
        "reached_seconds": 3600.0,
        "upkeep": an_upkeep(),
        "lags": {},
    }
    return Turn(**(given | values))


def kinds(events: Sequence[Event]) -> list[str]:
    """The kinds of events, in order."""
    return [event.kind for event in events]
