"""``manage.py prune_recorder``: drop what is past its time or bytes: days of history, the audit."""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Sequence
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError, OperationalError
from django.utils import timezone

from recorder.audit_retention import aged_audit, prune_audit
from recorder.retention import Part, Retention, plan, prune
from recorder.rollups.retention import RollupRetention, aged_rollups, prune_rollups

ATTEMPTS = 30
RETRY_SECONDS = 1.0
NO_END = sys.maxsize


class Command(BaseCommand):
    """Thin: plans or prunes, says which days."""

    help = (
        "Drop days, or hours, of history older than site.history_retention_days or past "
        "site.history_max_bytes, rollups past site.rollup_minute_days and "
        "site.rollup_retention_days, and audit entries older than site.audit_retention_days, "
        "for example: manage.py prune_recorder --dry-run"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--dry-run", action="store_true", help="only say what would go")
        parser.add_argument("--json", action="store_true", help="print what went as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        site = settings.DRAKKAR_STATE.site
        retention = Retention(days=site.history_retention_days, max_bytes=site.history_max_bytes)
        rolled = RollupRetention(
            minute_days=site.rollup_minute_days, hour_days=site.rollup_retention_days
        )
        try:
            if options["dry_run"]:
                days = plan(retention, timezone.now())
                rollups = aged_rollups(rolled, timezone.now())
                entries = aged_audit(site.audit_retention_days, timezone.now()).count()
            else:
                days = _pruned(retention)
                rollups = prune_rollups(rolled, timezone.now(), steps=NO_END)
                entries = prune_audit(site.audit_retention_days, timezone.now(), steps=NO_END)
        except DatabaseError as exc:
            raise CommandError(f"prune: {exc}") from exc
        plain = {
            "days": [_plain(day) for day in days], "rollups": rollups, "audit_entries": entries,
        }  # fmt: skip
        self.stdout.write(
            json.dumps(plain)
            if options["json"]
            else _said(days, rollups, entries, is_dry=options["dry_run"])
        )


def _pruned(retention: Retention) -> list[Part]:
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


def _plain(part: Part) -> dict[str, Any]:
    return {"day": str(part.span), "size_bytes": part.size_bytes, "reason": part.reason}


def _said(parts: Sequence[Part], rollups: int, entries: int, *, is_dry: bool) -> str:
    verb = "would go" if is_dry else "dropped"
    lines = [f"{part.span}: {part.size_bytes:,} bytes, {verb} by {part.reason}" for part in parts]
    if rollups:
        lines.append(
            f"rollups: {rollups:,} rows, {verb} by rollup_minute_days and rollup_retention_days"
        )
    if entries:
        lines.append(f"audit: {entries:,} entries, {verb} by audit_retention_days")
    return "\n".join(lines) or "Nothing has to go"
