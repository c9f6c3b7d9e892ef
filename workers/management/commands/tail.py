"""``manage.py tail``: what a task prints, as it comes, until it ends."""

from __future__ import annotations

import sys
import time
from dataclasses import dataclass, field
from typing import Any, TextIO

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from django.db import DatabaseError, connection

from domain.live_tail import TailFacts, TailState, TailText, Written
from domain.printable import printable, printable_block
from recorder.task_detail import OPEN, TaskDetail, task_detail, text_of
from workers.cluster_choice import known_cluster, refuse
from workers.control_plane.live.tail_reader import TailReader, live_fleet
from workers.control_plane.live.tail_socket import is_task_id

POLL_SECONDS = 0.25
AWAY_SECONDS = 2.0
SETTLE_SECONDS = 5.0
"""The history may tell the end of a task so much later than its worker."""
FAILED, INTERRUPTED = 1, 130
RED, PLAIN = "\x1b[31m", "\x1b[0m"


class Command(BaseCommand):
    """Follows one task over its attempts and workers; gives its lease back at the end."""

    help = (
        "Show what a task prints, as it comes: its stdout on stdout, its stderr on stderr. "
        "Exit codes: 0 it ended well, 1 it did not or cannot be followed, 2 bad use, 130 Ctrl-C."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py tail 7:100:0 --cluster main"
        parser.add_argument("task", help="a task's id, as its page shows it")
        parser.add_argument("--cluster", help="a name under `clusters`; default: the only one")

    def handle(self, *args: Any, **options: Any) -> None:
        cluster = _cluster(options["cluster"])
        if not is_task_id(options["task"]):
            what = "expected an id like 7:100:0 (partition:offset:number)"
            refuse([f"task: {what}, got {printable(options['task'][:100])!r}"])
        tail = Tail(TailReader(cluster, options["task"]), Screen(sys.stdout, sys.stderr))
        try:
            code = tail.follow()
        except KeyboardInterrupt:
            code = INTERRUPTED
        except BrokenPipeError:
            code = FAILED
        finally:
            tail.end()
        raise SystemExit(code)


def _cluster(name: str | None) -> str:
    known = [] if settings.DRAKKAR is None else list(settings.DRAKKAR.clusters)
    chosen = known[0] if name is None and len(known) == 1 else name or ""
    known_cluster(chosen)
    return chosen


@dataclass(slots=True)
class Screen:
    """Where output goes. On a terminal no text steers it, and stderr is red; elsewhere the text
    goes as it is."""

    out: TextIO
    err: TextIO

    def show(self, written: Written) -> None:
        """Print output of the task, and first what is missing."""
        if written.left_out:
            self.say(f"{written.left_out:,} bytes of {written.stream} left out")
        stream = self.out if written.stream == "stdout" else self.err
        if not stream.isatty():
            stream.write(written.text)
        elif written.stream == "stdout":
            stream.write(printable_block(written.text))
        else:
            stream.write(f"{RED}{printable_block(written.text)}{PLAIN}")
        stream.flush()

    def say(self, text: str) -> None:
        """Print a line of our own, on stderr."""
        self.err.write(f"-- {printable(text)}\n")
        self.err.flush()


@dataclass(slots=True)
class Tail:
    """One task on a screen, until it ends."""

    reader: TailReader
    screen: Screen
    _text: TailText = field(default_factory=TailText)
    _said: str = ""
    _has_shown: bool = False
    _gone_at: float | None = None

    def follow(self) -> int:
        """Show the task to its end; return the exit code."""
        while True:
            now = time.monotonic()
            try:
                code = self._step(now)
            except DatabaseError as exc:
                self._tell(f"Postgres is away, trying again: {exc}".strip())
                connection.close()
                time.sleep(AWAY_SECONDS)
                continue
            if code is not None:
                return code
            time.sleep(POLL_SECONDS)

    def end(self) -> None:
        """Give the lease back; with Postgres away it expires by itself."""
        try:
            self.reader.end()
        except DatabaseError:
            self.screen.say("Postgres is away: the lease ends by itself in 30 s")

    def _step(self, now: float) -> int | None:
        """Show what came; return the exit code when that was all. Raises DatabaseError."""
        fleet = live_fleet(self.reader.cluster) if self.reader.is_lost(now) else None
        news = self.reader.look(now, fleet)
        if news.is_moved:
            self._text = TailText()
        for piece in news.pieces:
            if (written := self._text.add(piece)) is not None:
                self._show(written)
        if news.worker is None or news.facts is None or news.facts.state == TailState.ABSENT:
            return self._absent(now, news.worker, is_known=news.facts is not None)
        self._gone_at = None
        if news.facts.state == TailState.REFUSED:
            self.screen.say(f"{news.worker}: {news.facts.detail}")
            return FAILED
        self._tell(_standing(news.worker, news.facts))
        return None

    def _absent(self, now: float, worker: str | None, *, is_known: bool) -> int | None:
        """Nobody runs it, or nobody said so yet: the history may know how it ended."""
        found = task_detail(self.reader.cluster, self.reader.task_id)
        if found is not None and found.status not in OPEN:
            return self._ended(found)
        self._gone_at = now if self._gone_at is None else self._gone_at
        if worker is None:
            self._tell("no live worker has its partition; waiting for one")
            is_over = found is None
        else:
            self._tell(f"{worker} does not run it" if is_known else f"{worker} is asked")
            is_over = is_known and now - self._gone_at >= SETTLE_SECONDS
        if not is_over:
            return None
        if found is None and not self._has_shown:
            what = f"no worker runs it and no event names it in cluster {self.reader.cluster}"
            refuse([f"task: {self.reader.task_id}: {what}"])
        self.screen.say("it ended; the history does not tell how")
        return FAILED

    def _ended(self, found: TaskDetail) -> int:
        last = found.latest
        if last is not None and not self._has_shown:
            for name, output in (("stdout", last.stdout), ("stderr", last.stderr)):
                text = text_of(output) or ""
                self._show(Written(stream=name, offset=0, left_out=0, text=text))
        facts = [] if last is None else [f"attempt {last.attempt} at {last.worker}"]
        if last is not None and last.exit_code is not None:
            facts.append(f"exit code {last.exit_code}")
        if last is not None and last.duration_ms is not None:
            facts.append(f"{last.duration_ms / 1000:.3g} s")
        if last is not None and last.kill_reason:
            facts.append(last.kill_reason)
        self.screen.say(f"task {found.task_id} {found.status}: {', '.join(facts)}")
        return 0 if found.status == "completed" else FAILED

    def _show(self, written: Written) -> None:
        self._has_shown = self._has_shown or bool(written.text)
        self.screen.show(written)

    def _tell(self, text: str) -> None:
        """Say how it stands, once."""
        if text != self._said:
            self._said = text
            self.screen.say(text)


def _standing(worker: str, facts: TailFacts) -> str:
    told = [f"attempt {facts.attempt or 'unknown'} {facts.state} at {worker}"]
    if facts.detail is not None:
        told.append(f"for {facts.detail}")
    if facts.pid is not None:
        told.append(f"pid {facts.pid}")
    return ", ".join(told)
