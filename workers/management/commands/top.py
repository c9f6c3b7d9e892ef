"""``manage.py top``: workers, slots, lag and failures on a terminal, every two seconds."""

from __future__ import annotations

import sys
from functools import partial
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workers.cluster_choice import known_cluster, refuse
from workers.control_plane.top.overview import overview


class Command(BaseCommand):
    """Thin: parses, runs the screen."""

    help = (
        "Watch workers, slots, lag and failures: Enter shows a worker, f the failures, q ends. "
        "Exit codes: 0 ended, 2 bad use."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py top --cluster main"
        parser.add_argument("--cluster", help="a name under `clusters`; default: all of them")

    def handle(self, *args: Any, **options: Any) -> None:
        if options["cluster"] is not None:
            known_cluster(options["cluster"])
        if not (sys.stdin.isatty() and sys.stdout.isatty()):
            refuse(["top: expected a terminal, got none; /api/v1/workers tells the same"])
        from workers.control_plane.top.screen import Top  # other commands need no Textual

        Top(partial(overview, options["cluster"] or "")).run()
