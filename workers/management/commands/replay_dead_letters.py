"""``manage.py replay_dead_letters``: send dead letters to their source topic again."""

from __future__ import annotations

import getpass
import json
import socket
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any
from uuid import uuid4

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser
from django.db import DatabaseError

from domain.failure import FailureKind, Stage
from domain.printable import printable
from recorder.command_recorder import CommandRecorder
from recorder.timestamps import utc_argument
from sinks.base import SinkError
from sinks.letter_events import tell_sent
from sinks.letter_job_end import who_had
from sinks.letter_jobs import MAX_LETTERS, BadJob, ask_for
from sinks.models import DeadLetter, LetterAction, LetterState
from sinks.replay import Outcome, Selection, Sent, pacer, replay, walk
from sinks.replay_kafka import KafkaReplayTransport, transport_of
from workers.clock import Clock
from workers.control_plane.control_run import control_run

DEFAULT_LIMIT = 1000
MAX_RATE = 10_000.0


class Command(BaseCommand):
    """Thin: parses the selection, replays, says what became of each letter."""

    help = (
        "Send dead letters of a cluster to its source topic again, each message once. "
        "Exit codes: 0 fine, 1 some were not replayed, 2 bad use."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = (
            "Example: manage.py replay_dead_letters --cluster main --stage task --dry-run"
        )
        parser.add_argument("--cluster", required=True, help="a name under `clusters`")
        parser.add_argument("--id", nargs="+", type=int, default=[], help="only these letters")
        stages, kinds = [each.value for each in Stage], [each.value for each in FailureKind]
        parser.add_argument("--stage", default="", choices=stages, metavar="STAGE")
        parser.add_argument("--failure", default="", choices=kinds, metavar="KIND")
        parser.add_argument("--sink", default="", help="only letters of this sink")
        parser.add_argument(
            "--since", type=utc_argument, help="from this time, in UTC unless it says"
        )
        parser.add_argument("--until", type=utc_argument, help="before this time")
        parser.add_argument(
            "--unconfirmed",
            action="store_true",
            help="those whose sender died over 60 s ago; look into the topic first",
        )
        parser.add_argument(
            "--to",
            choices=["source", "sink"],
            help="sink: straight to the failed sink, by the controller and a live worker "
            "(default with --stage deliver), else source",
        )
        parser.add_argument("--limit", type=int, default=DEFAULT_LIMIT, help="most letters (1000)")
        parser.add_argument("--rate", type=float, default=10.0, help="letters a second (10)")
        parser.add_argument("--dry-run", action="store_true", help="show them, send nothing")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        transport = _transport(options["cluster"])
        if options["limit"] < 1:
            raise CommandError(f"--limit: expected 1 or more, got {options['limit']}", returncode=2)
        if not 0 < options["rate"] <= MAX_RATE:
            expected = f"more than 0, {MAX_RATE:g} or less"
            raise CommandError(f"--rate: expected {expected}, got {options['rate']}", returncode=2)
        to = options["to"] or ("sink" if options["stage"] == Stage.DELIVER else "source")
        try:
            if to == "sink" and not options["dry_run"]:
                self._ask(options)
            else:
                self._work(transport, options)
        except BadJob as exc:
            raise CommandError(str(exc), returncode=2) from exc
        except (SinkError, DatabaseError) as exc:
            raise CommandError(f"cut short: {exc}") from exc

    def _work(self, transport: KafkaReplayTransport, options: dict[str, Any]) -> None:
        letters = walk(_selection(options), options["limit"])
        told = (lambda *_: None) if options["json"] else self._tell
        left_out = [] if options["unconfirmed"] else self._left_out(options)
        if options["dry_run"]:
            self._show([_tell_each(letter, told) for letter in letters], options["json"])
            _exit_for(left_out)
            return
        pace = pacer(options["rate"], time.monotonic, time.sleep)
        actor = _actor()
        recorder = CommandRecorder(control_run("replay_dead_letters", Clock()))

        def arrived(letter: DeadLetter, sent: Sent) -> None:
            tell_sent(recorder.tell, letter, sent, actor)

        self._sum_up(
            replay(letters, transport, actor=actor, pace=pace, told=told, arrived=arrived),
            options["json"],
        )
        _exit_for(left_out)

    def _left_out(self, options: dict[str, Any]) -> list[int]:
        """Return the letters named by --id that are not open; each is told to stderr with why."""
        known = DeadLetter.objects.filter(cluster=options["cluster"]).in_bulk(options["id"])
        found = {number: known.get(number) for number in options["id"]}
        why = {
            number: "no such letter of the cluster" if letter is None else who_had(letter)
            for number, letter in found.items()
            if letter is None or letter.state != LetterState.OPEN
        }
        for number, reason in why.items():
            self.stderr.write(printable(f"{number}  left out: {reason}"))
        return list(why)

    def _ask(self, options: dict[str, Any]) -> None:
        """Queue the delivery; it needs a worker's lanes."""
        if options["unconfirmed"] or options["stage"] not in ("", Stage.DELIVER):
            raise BadJob("--to sink: expected letters of stage deliver that are open")
        selection = replace(_selection(options), stage=Stage.DELIVER.value)
        ids = [letter.pk for letter in walk(selection, min(options["limit"], MAX_LETTERS))]
        job = ask_for(
            Selection(cluster=options["cluster"], ids=ids or [0]),
            LetterAction.SINK,
            actor=_actor(),
            key=uuid4().hex,
            reason="",
            rate=options["rate"],
        )
        if options["json"]:
            self.stdout.write(json.dumps({"job": str(job.id), "letters": job.letters_total}))
        else:
            told = f"{job.letters_total} letters wait for the controller"
            self.stdout.write(f"{told}: see /dead-letters/jobs/{job.id}")

    def _tell(self, letter: DeadLetter, what: str) -> None:
        where = f"{letter.topic} {letter.partition}:{letter.offset}"
        line = f"{letter.pk}  {where}  {letter.stage}/{letter.failure}  {what}"
        self.stdout.write(printable(line))

    def _show(self, ids: list[int], as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps({"dry_run": True, "letters": ids}))
        else:
            self.stdout.write(f"{len(ids)} letters would be replayed")

    def _sum_up(self, outcome: Outcome, as_json: bool) -> None:
        if as_json:
            self.stdout.write(json.dumps(asdict(outcome)))
        else:
            self.stdout.write(
                f"{outcome.replayed} messages replayed for {outcome.letters} letters, "
                f"{outcome.expired} expired, {outcome.taken} left out, "
                f"{len(outcome.failed)} failed, {len(outcome.unconfirmed)} not confirmed"
            )
        if outcome.failed or outcome.unconfirmed:
            raise SystemExit(1)


def _exit_for(left_out: list[int]) -> None:
    if left_out:
        raise SystemExit(1)


def _tell_each(letter: DeadLetter, told: Callable[[DeadLetter, str], None]) -> int:
    told(letter, "would be replayed")
    return int(letter.pk)


def _actor() -> str:
    return f"{getpass.getuser()}@{socket.gethostname()}"


def _selection(options: dict[str, Any]) -> Selection:
    names = ("cluster", "stage", "failure", "sink", "since", "until")
    given = {name: options[name] for name in names}
    return Selection(ids=options["id"], is_unconfirmed=options["unconfirmed"], **given)


def _transport(name: str) -> KafkaReplayTransport:
    clusters: Any = settings.DRAKKAR.clusters if settings.DRAKKAR else {}
    if name not in clusters:
        known = ", ".join(clusters) or "none"
        raise CommandError(f"--cluster: expected one of {known}, got {name}", returncode=2)
    return transport_of(clusters[name])
