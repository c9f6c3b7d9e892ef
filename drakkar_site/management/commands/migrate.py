"""``manage.py migrate``: as Django's, and after it the history, where that has its own database."""

from __future__ import annotations

from typing import Any

from django.core.management.base import CommandParser
from django.core.management.commands import migrate
from django.db import DEFAULT_DB_ALIAS

from recorder.databases import HISTORY, is_apart

SETTINGS = {DEFAULT_DB_ALIAS: "site.database_url", HISTORY: "site.history_url"}


class Command(migrate.Command):
    """Migrates both databases; ``--database default`` or ``history`` the one alone."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.set_defaults(database=None)
        parser.epilog = "Example: manage.py migrate"

    def get_check_kwargs(self, options: dict[str, Any]) -> Any:
        """Return what Django checks before: the databases that are migrated."""
        checked: Any = super().get_check_kwargs(options)
        return {**checked, "databases": _aliases(options)}

    def handle(self, *args: Any, **options: Any) -> None:
        for alias in _aliases(options):
            if is_apart() and options["verbosity"] > 0:
                self.stdout.write(self.style.MIGRATE_HEADING(f"Database of {SETTINGS[alias]}:"))
            super().handle(*args, **{**options, "database": alias})


def _aliases(options: dict[str, Any]) -> list[str]:
    if options["database"] is not None:
        return [options["database"]]
    return [DEFAULT_DB_ALIAS, HISTORY] if is_apart() else [DEFAULT_DB_ALIAS]
