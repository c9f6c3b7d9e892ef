"""``manage.py export_recorder``: the history of some runs as one file."""

from __future__ import annotations

import json
import sys
from argparse import ArgumentTypeError
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any
from uuid import UUID

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from domain.events import KINDS
from recorder.export import (
    ExportTooLarge,
    NothingToExport,
    Progress,
    Selection,
    Summary,
    export,
)
from recorder.formats import WRITERS, BadFormat
from recorder.timestamps import utc_argument


class Command(BaseCommand):
    """Thin: parses the selection, exports, says what was written."""

    help = (
        "Export recorded runs into one file, for example: "
        "manage.py export_recorder --cluster main --since 1d "
        "--format sqlite -o main.sqlite"
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("--cluster", default="", help="only runs of this cluster")
        parser.add_argument("--worker", default="", help="only runs of this worker")
        parser.add_argument("--run", action="append", default=[], type=_run, help="a run's id")
        parser.add_argument(
            "--since",
            type=utc_argument,
            help="from this time (UTC unless it says) or an age like 90m, 2h, 7d",
        )
        parser.add_argument("--until", type=utc_argument, help="before this time")
        parser.add_argument(
            "--kind", nargs="+", action="extend", default=[], choices=sorted(KINDS), metavar="KIND"
        )
        parser.add_argument("--format", required=True, choices=sorted(WRITERS))
        parser.add_argument(
            "-o",
            "--output",
            required=True,
            type=Path,
            metavar="FILE",
            help="packed where it ends in .gz",
        )
        parser.add_argument("--json", action="store_true", help="print the summary as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        selection = Selection(
            cluster=options["cluster"],
            worker=options["worker"],
            runs=options["run"],
            kinds=options["kind"],
            since=options["since"],
            until=options["until"],
        )
        path: Path = options["output"]
        if path.is_dir() or not path.parent.is_dir():
            raise CommandError(f"-o: expected a file in a folder, got {path}", returncode=2)
        try:
            with _bar() as progress:
                summary = export(selection, path, options["format"], progress=progress)
        except BadFormat as exc:
            raise CommandError(f"export: {exc}", returncode=2) from None
        except (NothingToExport, ExportTooLarge, OSError, DatabaseError) as exc:
            raise CommandError(f"export: {exc}") from exc
        self.stdout.write(json.dumps(asdict(summary)) if options["json"] else _said(summary, path))


def _said(summary: Summary, path: Path) -> str:
    return (
        f"{path}: {summary.events:,} events of {summary.runs:,} runs, {summary.size_bytes:,} bytes"
    )


def _run(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError:
        raise ArgumentTypeError(f"expected a run's id, got {text}") from None


@contextmanager
def _bar() -> Iterator[Progress]:
    """A progress bar on a terminal, nothing elsewhere."""
    columns = (TextColumn("events"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Bar(*columns, console=console, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("events", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
