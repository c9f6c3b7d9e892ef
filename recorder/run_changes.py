"""Changes of a run: what it was started with otherwise than the run before it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from django.db import DatabaseError

from domain.changes import MASKED_VALUES, Change, config_changes, version_changes
from recorder.databases import close_own_connections
from recorder.models import Run
from recorder.runs import RunDescription


@dataclass(frozen=True, slots=True, kw_only=True)
class RunChanges:
    """Differences from ``run_before``; all None where there was no run to compare with."""

    run_before: UUID | None = None
    versions: tuple[Change, ...] | None = None
    config: tuple[Change, ...] | None = None

    def columns(self) -> dict[str, Any]:
        """Return the columns of ``Run`` that hold them."""
        return {
            "run_before": self.run_before,
            "version_changes": _documents(self.versions),
            "config_changes": _documents(self.config),
        }

    @classmethod
    def stored(cls, run: Run) -> RunChanges:
        """Return what a run's row holds."""
        return cls(
            run_before=run.run_before,
            versions=_changes(run.version_changes),
            config=_changes(run.config_changes),
        )


def recorded_changes(run_id: UUID) -> RunChanges:
    """Return what the row of a run holds; nothing where Postgres is away.

    For a thread of its own, whose database connections are closed.
    """
    try:
        run = Run.objects.filter(id=run_id).first()
    except DatabaseError:
        return RunChanges()
    finally:
        close_own_connections()
    return RunChanges() if run is None else RunChanges.stored(run)


def changes_of(run: RunDescription) -> RunChanges:
    """Compare a run with the last one of its name, or else of its cluster, started before it.

    A run without a configuration is no worker's, and is compared with none.
    """
    before = _run_before(run) if run.config else None
    if before is None:
        return RunChanges()
    return RunChanges(
        run_before=before.id,
        versions=version_changes(_versions(before), _versions(run)),
        config=_config_changes(before, run),
    )


def _run_before(run: RunDescription) -> Run | None:
    started = datetime.fromtimestamp(run.started_at, UTC)
    earlier = Run.objects.filter(cluster=run.cluster, started_at__lt=started).order_by(
        "-started_at"
    )
    return earlier.filter(worker=run.worker).first() or earlier.first()


def _versions(run: Run | RunDescription) -> dict[str, str]:
    return {
        "handler": run.handler_version,
        "program": run.program_version,
        "drakkar": run.version,
    }


def _config_changes(before: Run, run: RunDescription) -> tuple[Change, ...]:
    if before.config_hash and before.config_hash == run.config_hash:
        return ()
    shown = config_changes(before.config, run.config)
    if shown or not before.config_hash:
        return shown
    return (Change(MASKED_VALUES, before.config_hash, run.config_hash),)


def _documents(changes: tuple[Change, ...] | None) -> list[dict[str, str | None]] | None:
    return None if changes is None else [change.document() for change in changes]


def _changes(documents: list[dict[str, str | None]] | None) -> tuple[Change, ...] | None:
    if documents is None:
        return None
    return tuple(Change(str(each["key"]), each["old"], each["new"]) for each in documents)
