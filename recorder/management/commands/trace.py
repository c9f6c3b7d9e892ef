"""``manage.py trace``: what befell a message, as the page of its trace tells it."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError

from domain.printable import printable
from recorder.databases import own_connections
from recorder.lookup import NotUnderstood, find
from recorder.pages.trace import heads, leave_out_context
from recorder.trace import Place, Trace, trace
from recorder.trace_text import lines_of
from recorder.writer import limit_statements

FAILED, BAD_USE = 1, 2
STATEMENT_MS = 30_000


class Command(BaseCommand):
    """Finds the message as the page's search does."""

    help = (
        "Show the timeline of a message over workers, attempts and sinks. "
        "Exit codes: 0 shown, 1 not recorded, several fit, or Postgres is away, 2 bad use."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py trace search-requests/7:100"
        parser.add_argument("message", help="[TOPIC/]PARTITION:OFFSET, a task's id, or a label")
        parser.add_argument(
            "--all", action="store_true", help="also what befell partition and runs meanwhile"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            for each in own_connections():
                limit_statements(STATEMENT_MS, each)
            places = find(options["message"]).places
            found = trace(places[0]) if len(places) == 1 else None
        except NotUnderstood as exc:
            _refuse(f"message: {exc}", BAD_USE)
        except DatabaseError as exc:
            _refuse(f"Postgres: {exc}".strip(), FAILED)
        if found is None:
            _refuse(_choice(places), FAILED)
        if not found.events:
            _refuse(f"{_name(found.place)}: no event tells of it", FAILED)
        self._show(found, is_wide=options["all"])

    def _show(self, found: Trace, *, is_wide: bool) -> None:
        left_out = 0 if is_wide else leave_out_context(found)
        for cluster, state, words in heads(found):
            of = f" in {cluster}" if cluster else ""
            text = words if words == state else f"{state} ({words})"
            self.stdout.write(printable(f"{_name(found.place)}{of}: {text}"))
        for line in lines_of(found):
            self.stdout.write(line)
        if left_out:
            self.stdout.write(f"... left out: {left_out} of partition and runs meanwhile (--all)")


def _name(place: Place) -> str:
    return f"{place.topic}/{place.partition}:{place.offset}"


def _choice(places: tuple[Place, ...]) -> str:
    if not places:
        return "no message of the history fits"
    return f"several messages fit, name one: {', '.join(map(_name, places))}"


def _refuse(text: str, code: int) -> NoReturn:
    sys.stderr.write(f"trace: {printable(text)}\n")
    raise SystemExit(code)
