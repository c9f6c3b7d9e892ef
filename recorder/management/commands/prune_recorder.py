"""``manage.py prune_recorder``: drop the days of history that are past their time or bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, OperationalError
from django.utils import timezone

from recorder.retention import Day, Retention, plan, prune

ATTEMPTS = 30
RETRY_SECONDS = 1.0


class Command(BaseCommand):
    """Thin: plans or prunes, says which days."""

    help = (
        "Drop days of history older than site.history_retention_days or past "
        "site.history_max_bytes, for example: manage.py prune_recorder --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")
        parser.add_argument("--json", action="store_true", help="print the days as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        site = settings.DRAKKAR_STATE.site
        retention = Retention(days=site.history_retention_days, max_bytes=site.history_max_bytes)
        try:
            days = plan(retention, timezone.now()) if options["dry_run"] else _pruned(retention)
        except DatabaseError as exc:
            raise CommandError(f"prune: {exc}") from exc
        self.stdout.write(
            json.dumps([_plain(day) for day in days])
            if options["json"]
            else _said(days, is_dry=options["dry_run"])
        )


def _pruned(retention: Retention) -> list[Day]:
    """Prune, trying again where writers hold what is to go."""
    planned = plan(retention, timezone.now())
    for _ in range(ATTEMPTS - 1):
        try:
            prune(retention, timezone.now())
        except OperationalError:
            threading.Event().wait(RETRY_SECONDS)
        else:
            return planned
    prune(retention, timezone.now())
    return planned


def _plain(day: Day) -> dict[str, Any]:
    return {"day": day.day.isoformat(), "size_bytes": day.size_bytes, "reason": day.reason}


def _said(days: Sequence[Day], *, is_dry: bool) -> str:
    if not days:
        return "Nothing has to go"
    verb = "would go" if is_dry else "dropped"
    return "\n".join(
        f"{day.day.isoformat()}: {day.size_bytes:,} bytes, {verb} by {day.reason}" for day in days
    )
