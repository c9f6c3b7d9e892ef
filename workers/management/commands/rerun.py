"""``manage.py rerun``: run failed messages again, all that match or one by name."""

from __future__ import annotations

import getpass
import json
import socket
import sys
import time
from typing import Any
from uuid import uuid4

from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError
from django.utils import timezone

from domain.failure import FailureKind
from domain.paging import BadFilter
from domain.printable import printable
from workers.control_plane.rerun.filters import NAMES, Filters, filters_of
from workers.control_plane.rerun.jobs import (
    DEFAULT_RATE,
    FINAL,
    BadRerun,
    Choices,
    ask_for,
    counts_of,
    preview,
)
from workers.control_plane.rerun.matching import Chosen
from workers.control_plane.rerun.report import document_of, words_of
from workers.control_plane.rerun.watch import note_outcomes
from workers.models import RerunJob, RerunState

BAD_USE = 2
LOOK_SECONDS = 0.5
NOT_WELL = ("gone", "refused", "sending", "failed_again")


class Command(BaseCommand):
    """Thin: parses the filters, shows what they mean, asks the controller, waits if told to."""

    help = (
        "Run failed messages of a cluster again: those whose latest outcome is a failure and that "
        "match all filters. The controller reads their bytes from the source topic and sends them "
        "there again. Exit codes: 0 fine, 1 failed, 2 bad use."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = (
            "Example: manage.py rerun --cluster main --failure exit --since 2h --dry-run"
        )
        parser.add_argument("--cluster", required=True, help="a name under `clusters`")
        kinds = ", ".join(FailureKind)
        parser.add_argument("--failure", metavar="KIND", help=f"one of {kinds}")
        parser.add_argument("--exit-code", metavar="CODE", help="exit code of the failed task")
        parser.add_argument("--label", metavar="NAME=VALUE", help="label of the failed task")
        parser.add_argument(
            "--since", help="failed from this time on (UTC unless it says), or an age like 2h"
        )
        parser.add_argument("--until", help="failed before this time or age")
        parser.add_argument("--key", help="key of the message, as text; compared when it is read")
        parser.add_argument("--partition", help="of the source topic")
        parser.add_argument("--message", metavar="PARTITION:OFFSET", help="only this message")
        parser.add_argument("--task", metavar="ID", help="only this task of its message")
        parser.add_argument(
            "--again",
            action="store_const",
            const="yes",
            help="those too that were sent again and have not ended since",
        )
        parser.add_argument(
            "--all-tasks",
            action="store_true",
            help="run all tasks of a message, not only those that failed",
        )
        parser.add_argument(
            "--new-identity",
            action="store_true",
            help="as other messages, with new delivery ids: what was stored is stored again",
        )
        parser.add_argument(
            "--rate", type=float, default=DEFAULT_RATE, help=f"messages a second ({DEFAULT_RATE:g})"
        )
        parser.add_argument("--reason", default="", help="why, shown with the rerun")
        parser.add_argument("--dry-run", action="store_true", help="show them, send nothing")
        parser.add_argument("--yes", action="store_true", help="do not ask back")
        parser.add_argument("--wait", action="store_true", help="wait until all have ended")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        try:
            filters = filters_of(_texts(options), options["cluster"], timezone.now())
            self._work(filters, options)
        except (BadFilter, BadRerun) as exc:
            raise CommandError(printable(f"--{exc}"), returncode=BAD_USE) from exc
        except DatabaseError as exc:
            raise CommandError(f"cut short: {exc}") from exc

    def _work(self, filters: Filters, options: dict[str, Any]) -> None:
        chosen = preview(filters)
        if options["dry_run"]:
            self._show(chosen, filters, options)
            return
        if not chosen.matches:
            self._show(chosen, filters, options)
            return
        if not options["yes"]:
            self._show(chosen, filters, options | {"json": False})
            self._ask_back()
        job = ask_for(
            filters, _choices(options), actor=_actor(), key=uuid4().hex, reason=options["reason"]
        )
        if options["wait"]:
            self._wait(job)
        self._tell(job, len(chosen.matches), options)

    def _show(self, chosen: Chosen, filters: Filters, options: dict[str, Any]) -> None:
        if options["json"]:
            self.stdout.write(json.dumps({"dry_run": True, **document_of(chosen, filters)}))
            return
        for line in words_of(chosen, filters):
            self.stdout.write(printable(line))

    def _ask_back(self) -> None:
        if not sys.stdin.isatty():
            raise BadRerun("yes: expected where nobody can be asked back")
        self.stdout.write("Run them again? Type yes: ", ending="")
        self.stdout.flush()
        if sys.stdin.readline().strip() != "yes":
            raise CommandError("nothing was sent")

    def _wait(self, job: RerunJob) -> None:
        """Look until the rerun is over and all that it sent has ended."""
        told = ""
        while True:
            job.refresh_from_db()
            note_outcomes()
            counts = counts_of(job)
            line = f"{job.state}: {_counted(counts)}"
            if line != told and sys.stdout.isatty():
                self.stderr.write(line)
            told = line
            if job.state in FINAL and not counts.get("on_their_way"):
                return
            time.sleep(LOOK_SECONDS)

    def _tell(self, job: RerunJob, matched: int, options: dict[str, Any]) -> None:
        counts = counts_of(job)
        if options["json"]:
            found = {"job": str(job.id), "state": job.state, "error": job.error}
            self.stdout.write(json.dumps({**found, "messages": matched, **counts}))
        elif options["wait"]:
            self.stdout.write(printable(f"{job.state}: {_counted(counts)} {job.error}".strip()))
        else:
            messages = f"{matched} message{' waits' if matched == 1 else 's wait'}"
            self.stdout.write(f"{messages} for the controller: /reruns/{job.id}")
        is_bad = job.state in (RerunState.FAILED, RerunState.CANCELLED)
        if options["wait"] and (is_bad or any(counts.get(name) for name in NOT_WELL)):
            raise SystemExit(1)


def _texts(options: dict[str, Any]) -> dict[str, str]:
    return {name: options[name] or "" for name in NAMES}


def _choices(options: dict[str, Any]) -> Choices:
    return Choices(
        only_failed_tasks=not options["all_tasks"],
        is_new_identity=options["new_identity"],
        rate=options["rate"],
    )


def _counted(counts: dict[str, int]) -> str:
    return ", ".join(f"{count} {name.replace('_', ' ')}" for name, count in counts.items()) or "-"


def _actor() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"
