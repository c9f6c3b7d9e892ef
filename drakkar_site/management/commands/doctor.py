"""``manage.py doctor``: what a worker needs here, a line each, with what to do."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from domain.printable import printable
from drakkar_site.doctor import Finding, Level, findings

FAILED = 1
COLOURS = {Level.OK: "\x1b[32m", Level.WARN: "\x1b[33m", Level.FAIL: "\x1b[31m"}
PLAIN = "\x1b[0m"


class Command(BaseCommand):
    """Prints each finding as it comes."""

    help = (
        "Look at configuration, Kafka, topics, Postgres, migrations, clock, limits, isolation "
        "and disk. Exit codes: 0 a worker can run, 1 something fails."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py doctor --json"
        parser.add_argument("--json", action="store_true", help="print the findings as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        found = []
        for finding in findings(settings.DRAKKAR_STATE):
            found.append(finding)
            if not options["json"]:
                self.stdout.write(_line(finding, is_coloured=sys.stdout.isatty()))
                self.stdout.flush()
        if options["json"]:
            self.stdout.write(json.dumps({"findings": [asdict(each) for each in found]}, indent=2))
        if any(each.level is Level.FAIL for each in found):
            raise SystemExit(FAILED)


def _line(finding: Finding, *, is_coloured: bool) -> str:
    level = f"{finding.level:<4}"
    if is_coloured:
        level = f"{COLOURS[finding.level]}{level}{PLAIN}"
    text = f"{level}  {finding.check:<13}  {printable(finding.found)}"
    return f"{text}\n{'':<21}-> {printable(finding.advice)}" if finding.advice else text
