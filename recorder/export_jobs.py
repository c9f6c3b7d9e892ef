"""Exports that people ask for on a page and the controller runs: claimed, bounded, expiring."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any
from uuid import UUID, uuid4, uuid5

from django.db.models import Sum
from django.db.models.functions import Now

from domain.events import KINDS
from recorder.export import ExportTooLarge, NothingToExport, Selection, export
from recorder.formats import PACKED, BadFormat, suffix_of
from recorder.models import ExportJob, ExportState

MAX_WAITING = 20
MAX_RUNS = 1000
ENDED = (ExportState.DONE, ExportState.FAILED, ExportState.EXPIRED)
KEYS = UUID("5f0b9f4e-6f1c-4c55-9a0e-2a3f6d0c7b11")
"""Of ids made from a key: who asks twice with one asks for one export."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


class BadExport(ValueError):
    """An export that cannot be made; the text names the field, what was expected and what came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExportLimits:
    """Folder of the files, how long they stay, and how much all of them together may hold."""

    folder: Path
    ttl_hours: float
    max_bytes: int


def ask_for(
    selection: Selection, format_name: str, name: str, actor: str, key: str = ""
) -> ExportJob:
    """Queue an export; with a ``key`` that the actor used before, the export of that key.

    ``name`` is what the file will be called when downloaded; one that ends in ``.gz`` is packed.
    Raises BadExport, also for a key of another export.
    """
    asked = {"name": name, "format": format_name, "selection": _stored(selection)}
    job_id = uuid5(KEYS, f"{actor}\n{key}") if key else uuid4()
    if (known := ExportJob.objects.filter(id=job_id).first()) is not None:
        return _same(known, asked)
    _check(selection, format_name, name)
    job, _ = ExportJob.objects.get_or_create(
        id=job_id, defaults={**asked, "actor": actor, "created_at": Now(), "progress_at": Now()}
    )
    return _same(job, asked)


def _same(job: ExportJob, asked: Mapping[str, Any]) -> ExportJob:
    """Return the job if it is what was asked. Raises BadExport."""
    other = [name for name, value in asked.items() if getattr(job, name) != value]
    if other:
        raise BadExport(f"key: it was sent before, with another {other[0]}: send it anew")
    return job


def _check(selection: Selection, format_name: str, name: str) -> None:
    try:
        suffix_of(format_name, name)
    except BadFormat as exc:
        raise BadExport(str(exc)) from None
    if _NAME.fullmatch(name) is None:
        raise BadExport(
            f"name: expected letters, digits, dot, dash or underscore, got {name[:100]!r}"
        )
    if unknown := sorted(set(selection.kinds) - KINDS.keys()):
        raise BadExport(f"kind: expected kinds of docs/events.md, got {unknown[0][:40]}")
    if len(selection.runs) > MAX_RUNS:
        raise BadExport(f"run: expected at most {MAX_RUNS}, got {len(selection.runs)}")
    if ExportJob.objects.exclude(state__in=ENDED).count() >= MAX_WAITING:
        raise BadExport(f"{MAX_WAITING} exports wait already: try again when some are done")


def _stored(selection: Selection) -> dict[str, Any]:
    times = {"since": selection.since, "until": selection.until}
    return {
        "cluster": selection.cluster,
        "worker": selection.worker,
        "runs": [str(run) for run in selection.runs],
        "kinds": list(selection.kinds),
        **{name: at.isoformat() for name, at in times.items() if at is not None},
    }


def selection_of(job: ExportJob) -> Selection:
    """Return what the job is to export."""
    kept: dict[str, Any] = job.selection
    return Selection(
        cluster=kept["cluster"],
        worker=kept["worker"],
        runs=[UUID(run) for run in kept["runs"]],
        kinds=kept["kinds"],
        since=_at(kept.get("since")),
        until=_at(kept.get("until")),
    )


def _at(text: str | None) -> datetime | None:
    return datetime.fromisoformat(text) if text else None


def path_of(job: ExportJob, folder: Path) -> Path:
    """Return the job's file: named by its id alone, so nothing a person wrote reaches the disk."""
    return folder / f"{UUID(str(job.id))}{suffix_of(job.format, job.name)}"


def file_name_of(job: ExportJob) -> str:
    """Return what the file is called when downloaded."""
    name = job.name.removesuffix(PACKED).removesuffix(f".{job.format}")
    return f"{name}{suffix_of(job.format, job.name)}"


def run_job(job: ExportJob, limits: ExportLimits, note: Callable[..., None]) -> dict[str, Any]:
    """Make the job's file and return how it ended, as columns of its row. Raises DatabaseError and
    what ``note`` raises; that writes columns on the way."""
    limits.folder.mkdir(parents=True, exist_ok=True, mode=0o700)

    def progress(done: int, total: int) -> None:
        job.events_done = done
        note(events_done=done, events_total=total)

    try:
        summary = export(
            selection_of(job),
            path_of(job, limits.folder),
            job.format,
            progress=progress,
            max_bytes=_room(limits),
        )
    except (BadFormat, NothingToExport, ExportTooLarge, OSError) as exc:
        return {"state": ExportState.FAILED, "error": str(exc)[:500]}
    return {
        "state": ExportState.DONE,
        "events_done": summary.events,
        "events_total": summary.events,
        "size_bytes": summary.size_bytes,
        "expires_at": Now() + timedelta(hours=limits.ttl_hours),
    }


def _room(limits: ExportLimits) -> int:
    used = ExportJob.objects.filter(state=ExportState.DONE).aggregate(used=Sum("size_bytes"))
    return max(0, limits.max_bytes - (used["used"] or 0))


def expire(limits: ExportLimits) -> Sequence[UUID]:
    """Remove the files whose time is over; the jobs stay listed as expired."""
    over = ExportJob.objects.filter(state=ExportState.DONE, expires_at__lt=Now())
    gone = []
    for job in over.order_by("expires_at")[:MAX_RUNS]:
        path_of(job, limits.folder).unlink(missing_ok=True)
        ExportJob.objects.filter(id=job.id).update(state=ExportState.EXPIRED)
        gone.append(job.id)
    return gone
