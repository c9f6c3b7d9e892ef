"""``python -m integration.chaos``: the demo under a schedule of faults, then the verdict.

Workers go down and come back while messages flow; a line every five seconds shows who owns what.
Exit code 0 when every rule of the verdict holds.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Sequence
from http.client import HTTPException
from pathlib import Path
from typing import Any

from integration.chaos.moves import Outage, breaches, moves
from integration.chaos.outages import LOAD_PER_SECOND, Outages
from integration.chaos.pages import Pages
from integration.chaos.plan import (
    OPPOSITES,
    START_SHARE,
    WORKERS,
    Deed,
    Step,
    at_random,
    killing,
    live_after,
    rolling,
    short,
)
from integration.demo.__main__ import up
from integration.demo.clusters import KAFKA, MAIN, SOURCE_TOPIC
from integration.demo.faults import problem_of
from integration.demo.folder import RUN
from integration.demo.kafka import kafka_kind
from integration.demo.plan import (
    MIN_SESSION_TIMEOUT_MS,
    SESSION_TIMEOUT_MS,
    TASK_TIMEOUT_SECONDS,
    Options,
)
from integration.demo.running import RunningDemo
from integration.verdict.facts import lines_of

PEEK_SECONDS = 5.0
REBALANCE_SECONDS = 60.0
READY_SECONDS = 60.0
POLL_SECONDS = 0.25
ASK_SECONDS = 5.0
SHORT_START_SHARE = 0.1
SPEED, SHORT_SPEED = 10.0, 20.0
PARTITIONS, SHORT_PARTITIONS = 50, 12
SLOW_PERCENT, SHORT_SLOW_PERCENT = 3.0, 1.0
MOVE_SECONDS = 5.0
"""Seconds after the session timeout that each partition of a killed worker may stand still."""


class ChaosFailed(Exception):
    """A step could not be done, or the group did not come together in time."""


class Chaos(threading.Thread):
    """Runs a schedule, notes each worker that went down in ``outages``.

    ``problem`` tells why it could not go on, else empty.
    """

    def __init__(
        self, demo: RunningDemo, steps: list[Step], start_share: float, outages: list[Outage]
    ) -> None:
        super().__init__(name="chaos", daemon=True)
        self.problem = ""
        self._outages = outages
        self._demo = demo
        self._steps = steps
        self._start_share = start_share
        self._peeked_at = 0.0

    def give_up(self) -> None:
        """The backlog is drained; a schedule is finished all the same."""

    def run(self) -> None:
        """Every step in its time; then it looks on until the backlog is drained."""
        self.problem = problem_of(self._run_steps, "chaos")

    def _run_steps(self) -> None:
        self._wait(self._has_begun, float("inf"), "the beginning")
        began = time.monotonic()
        self._say("t1: the schedule begins")
        for number, step in enumerate(self._steps, 1):
            self._run_step(step, began, self._steps[:number])
        self._say("the schedule is done; the backlog drains")
        self._wait(self._demo.is_drained, float("inf"), "the backlog to drain")

    def _run_step(self, step: Step, began: float, done: list[Step]) -> None:
        due = began + step.at_seconds / self._demo.speed
        self._wait(lambda: time.monotonic() >= due, float("inf"), "its time")
        for deed, target in step.deeds:
            owned, at = self._owned_by(target), time.time()
            note = self._demo.act(deed, target)
            self._say(f"+{step.at_seconds:.0f} s: {target} {deed.value} {note}".rstrip())
            if deed in OPPOSITES and target in WORKERS:
                # A worker that drains commits until its end.
                at = time.time() if deed is Deed.STOP else at
                self._outages.append(Outage(at=at, deed=deed, worker=target, partitions=owned))
            if deed in OPPOSITES.values() and target in self._demo.worker_ports:
                self._wait(lambda: self._is_ready(target), READY_SECONDS, f"{target} to be ready")  # noqa: B023
        live = live_after(done)
        if any(map(_moves_partitions, step.deeds)):
            self._wait(lambda: self._own_all(live), REBALANCE_SECONDS, f"{sorted(live)} to own all")

    def _has_begun(self) -> bool:
        """Whether the share is done and each worker has something to lose."""
        if self._demo.count_fates() < self._start_share * self._demo.messages:
            return False
        return len({*self._owners()} & {*WORKERS}) == min(len(WORKERS), self._demo.partitions)

    def _own_all(self, live: set[str]) -> bool:
        """Whether the live workers, and nobody else, own every partition."""
        owners = self._owners()
        return len(owners) == self._demo.partitions and set(owners) <= live

    def _owners(self) -> list[str]:
        """Of each partition that has one; none while the page is away."""
        return [row["owner"] for row in self._partitions()]

    def _owned_by(self, worker: str) -> frozenset[int]:
        """Its partitions; none while the page is away."""
        return frozenset(row["partition"] for row in self._partitions() if row["owner"] == worker)

    def _partitions(self) -> list[dict[str, Any]]:
        """The partitions of the source topic."""
        rows = (self._dashboard() or {"partitions": []})["partitions"]
        return [row for row in rows if row["topic"] == SOURCE_TOPIC]

    def _is_ready(self, worker: str) -> bool:
        port = self._demo.worker_ports[worker]
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz", timeout=ASK_SECONDS):
                return True
        except (OSError, HTTPException):
            return False

    def _dashboard(self) -> dict[str, Any] | None:
        """The cluster's dashboard document; None while the page or its database is away."""
        ask = urllib.request.Request(
            f"{self._demo.web_url}api/v1/dashboard?cluster={MAIN.name}",
            headers={"Authorization": f"Bearer {self._demo.auth_token}"},
        )
        try:
            with urllib.request.urlopen(ask, timeout=ASK_SECONDS) as answer:
                found: dict[str, Any] = json.load(answer)
        except (OSError, HTTPException, ValueError):
            return None
        return found

    def _wait(self, holds: Callable[[], bool], seconds: float, what: str) -> None:
        deadline = time.monotonic() + seconds
        while not holds():
            if time.monotonic() > deadline:
                raise ChaosFailed(f"waited {seconds:g} s for {what}; {self._standing()}")
            self._peek()
            time.sleep(POLL_SECONDS)

    def _peek(self) -> None:
        if time.monotonic() - self._peeked_at >= PEEK_SECONDS:
            self._peeked_at = time.monotonic()
            self._say(self._standing())

    def _standing(self) -> str:
        document = self._dashboard()
        if document is None:
            return "the page does not answer"
        return (
            "; ".join(
                f"{row['name']} {row['state']}: {row['partition_count']} partitions, "
                f"{row['tasks_completed'] or 0} completed"
                for row in document["workers"]
            )
            or "no worker has beaten yet"
        )

    def _say(self, text: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True)


def _moves_partitions(act: tuple[Deed, str]) -> bool:
    """Whether it changes who owns what: while Kafka is away nobody hears of anything."""
    deed, target = act
    return target in WORKERS or (target == KAFKA and deed in OPPOSITES.values())


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="integration.chaos", description=__doc__)
    kind = root.add_mutually_exclusive_group()
    kind.add_argument("--kill", action="store_true", help="SIGKILL in place of SIGTERM")
    kind.add_argument("--freeze", action="store_true", help="SIGSTOP and SIGCONT")
    kind.add_argument("--outages", action="store_true", help="each server 20 s, under steady load")
    kind.add_argument(
        "--pages", action="store_true", help="what open pages show, under steady load"
    )
    kind.add_argument("--short", action="store_true", help="a freeze and a kill, soon")
    kind.add_argument(
        "--kill-every", type=float, metavar="SECONDS", help="SIGKILL of one worker after the other"
    )
    kind.add_argument("--random", action="store_true", help="random faults of workers and servers")
    root.add_argument("--minutes", type=float, default=5.0, help="of --random and --kill-every")
    root.add_argument("--seed", type=int, default=7, help="reproduces load and schedule")
    root.add_argument("--messages", type=int, default=10_000)
    root.add_argument("--speed", type=float, help="divides every duration; 10, of --short 20")
    root.add_argument("--partitions", type=int, help="50, of --short 12")
    root.add_argument("--kafka", choices=("auto", "apache", "mock"), default="auto")
    root.add_argument("--report", type=Path, help="where the verdict writes its report")
    return root


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line, with what it left open."""
    found = parser().parse_args(given)
    if found.speed is None:
        found.speed = SHORT_SPEED if found.short else SPEED
    if found.partitions is None:
        found.partitions = SHORT_PARTITIONS if found.short else PARTITIONS
    return found


def schedule(given: argparse.Namespace) -> list[Step]:
    """The steps that the command line asks for; minutes and seconds are not scaled by the speed.

    ``given.kafka`` names the kind of broker, never ``auto``.
    """
    if given.short:
        return short()
    if given.random or given.kill_every:
        steps = (
            at_random(given.seed, given.minutes, given.kafka)
            if given.random
            else killing(given.kill_every, given.minutes)
        )
        return [Step(at_seconds=step.at_seconds * given.speed, deeds=step.deeds) for step in steps]
    return rolling(Deed.KILL if given.kill else Deed.FREEZE if given.freeze else Deed.STOP)


def options(given: argparse.Namespace, per_second: float | None = None) -> Options:
    """The demo's options; ``per_second`` is the rate of a steady load."""
    return Options(
        messages=given.messages,
        speed=given.speed,
        per_second=per_second,
        partitions=given.partitions,
        seed=given.seed,
        kafka=given.kafka,
        until_drained=True,
        report=given.report,
        slow_percent=slow_percent(given),
        env=even_tasks() if given.kill_every else (*ordered_tasks(), *persistent_searches()),
    )


def slow_percent(given: argparse.Namespace) -> float:
    """Percentage of messages that ask for a task that times out; each costs a core a second."""
    if given.kill_every:
        return 0.0
    return SHORT_SLOW_PERCENT if given.short else SLOW_PERCENT


def even_tasks() -> tuple[tuple[str, str, str], ...]:
    """Settings of the workers of ``main`` under which each task takes about 50 ms, and one attempt:
    a partition that stands still waits for its new owner, not for a task that failed or starved."""
    settings = {
        "EXECUTOR__ENV__RUN_RG_PAUSE_SECONDS": "0",
        "EXECUTOR__MAX_EXECUTORS": "2",
        "EXECUTOR__TASK_TIMEOUT_SECONDS": f"{TASK_TIMEOUT_SECONDS:g}",
        "APP__FAIL_CHANCE": "0",
    }
    return tuple(
        (worker, MAIN.prefix + key, value) for worker in WORKERS for key, value in settings.items()
    )


def ordered_tasks() -> tuple[tuple[str, str, str], ...]:
    """Settings of the workers of ``main`` under which searches in one file follow each other, and
    patterns share the slots."""
    settings = {
        "APP__ORDER_BY_FILE": "true",
        "APP__GROUP_BY_PATTERN": "true",
        "EXECUTOR__GROUPS": '{"*": {max_running: 3}, the: {weight: 4}}',
    }
    return tuple(
        (worker, MAIN.prefix + key, value) for worker in WORKERS for key, value in settings.items()
    )


def persistent_searches() -> tuple[tuple[str, str, str], ...]:
    """Settings of the workers of ``main`` under which processes that stay do the searches."""
    settings = {
        "EXECUTOR__MODE": "persistent",
        "EXECUTOR__BINARY": "integration/bin/serve-rg",
        "EXECUTOR__PERSISTENT__AWAIT_READY": "true",
        "EXECUTOR__PERSISTENT__MAX_REQUESTS": "25",
    }
    return tuple(
        (worker, MAIN.prefix + key, value) for worker in WORKERS for key, value in settings.items()
    )


def session_seconds(speed: float) -> float:
    """After how long a silent worker's partitions go to the others."""
    return max(MIN_SESSION_TIMEOUT_MS, SESSION_TIMEOUT_MS / speed) / 1000


def judge_moves(outages: list[Outage], bound_seconds: float | None) -> list[str]:
    """Print how long partitions stood still; breaches of the bound, if there is one."""
    found = list(moves(outages, samples()))
    print("How long partitions stood still, until their committed offset moved:")
    for move in found:
        print(f"  {move.text()}")
    problems = [] if bound_seconds is None else list(breaches(found, bound_seconds))
    for problem in problems:
        print(f"  BREACH  {problem}")
    return problems


def samples() -> list[tuple[float, dict[int, int]]]:
    """The committed offsets of ``main`` as they were sampled. Raises FactsMissing."""
    rows = lines_of(MAIN.committed_path(RUN))
    return [(row["at"], {int(n): at for n, at in row["offsets"].items()}) for row in rows]


def look_at_pages(given: argparse.Namespace) -> int:
    """The demo with open pages; an exit code."""
    missed: list[str] = []
    moved_seconds = session_seconds(given.speed) + MOVE_SECONDS
    load = options(given, per_second=LOAD_PER_SECOND)
    code = up(load, lambda demo: Pages(demo, moved_seconds, missed))
    if missed or not code:
        print("\n  ".join([f"Pages: {len(missed)} bounds missed", *missed]))
    return code or int(bool(missed))


def main() -> int:
    """Run it; an exit code."""
    given = arguments()
    given.kafka = kafka_kind(given.kafka)
    if given.outages:
        return up(options(given, per_second=LOAD_PER_SECOND), Outages)
    if given.pages:
        return look_at_pages(given)
    steps = schedule(given)
    share = SHORT_START_SHARE if given.short else START_SHARE
    print(f"Schedule (seconds after {share:.0%} of the messages have a fate, before --speed):")
    for step in steps:
        print(f"  +{step.at_seconds:6.0f}  {step.text()}")
    outages: list[Outage] = []
    code = up(options(given), lambda demo: Chaos(demo, steps, share, outages))
    bound = session_seconds(given.speed) + MOVE_SECONDS if given.kill_every else None
    problems = judge_moves(outages, bound) if outages else []
    return code or int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
