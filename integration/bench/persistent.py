"""``--persistent``: one Python program, spawned for each task and persistent, in turns on Kafka."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path

from rich.table import Table

from integration.bench.config import persistent, program_args
from integration.bench.figures import by_thread, median, ratio
from integration.bench.rounds import Peer, Place, Throughput, Work, throughput

IMPORT_SECONDS = "3"
SLOW = ("--import-seconds", IMPORT_SECONDS)
SLOW_MESSAGES, SPAWNED_SHARE = 8, 100
MIN_PER_SECOND, MIN_TIMES_SPAWNED = 5000.0, 15.0

Found = dict["Kind", list[Throughput]]
"""Rounds by kind."""


class Kind(StrEnum):
    """What is measured: how the program is run, with a history or without, and how it starts."""

    PERSISTENT = "persistent, recorder off"
    RECORDED = "persistent, recorder on"
    SPAWNED = "spawned, recorder off"
    SLOW_PERSISTENT = "3 s of imports: persistent"
    SLOW_SPAWNED = "3 s of imports: spawned"


def spawned_and_persistent(
    place: Place, messages: int, rounds: int, tell: Callable[[str], None]
) -> Found:
    """Measure the quick program in every round, the slow one in the first. Raises BenchFailed."""
    found: Found = {}
    for number in range(rounds):
        for kind in Kind:
            if number and kind in (Kind.SLOW_PERSISTENT, Kind.SLOW_SPAWNED):
                continue
            count = _messages(kind, messages)
            peer = Peer.RECORDER_ON if kind is Kind.RECORDED else Peer.RECORDER_OFF
            label = f"{kind.name.lower().replace('_', '-')}-{number}"
            one = throughput(place, label, count, peer, _work(kind))
            found.setdefault(kind, []).append(one)
            tell(f"{kind}: {one.per_second:,.2f}/s of {count}")
    return found


def _messages(kind: Kind, messages: int) -> int:
    if kind is Kind.SPAWNED:
        return max(100, messages // SPAWNED_SHARE)
    return SLOW_MESSAGES if kind is Kind.SLOW_SPAWNED else messages


def _work(kind: Kind) -> Work:
    if kind in (Kind.PERSISTENT, Kind.RECORDED):
        return Work(executor=persistent(), warm_up=2000)
    if kind is Kind.SLOW_PERSISTENT:
        return Work(executor=persistent(*SLOW))
    words = SLOW if kind is Kind.SLOW_SPAWNED else ()
    app = {"args": program_args(*words)}
    return Work(executor={"binary": sys.executable}, app=app, warm_up=4)


def persistent_table(found: Found) -> Table:
    """A row a kind, then what was to be shown and what was."""
    table = Table(title="one Python program; CPU in ms a message, programs included; medians")
    for heading in ("", "msgs/s", "CPU ms", "postgres", "start s", "by thread, us"):
        table.add_column(heading, justify="left" if heading in ("", "by thread, us") else "right")
    for kind, rounds in found.items():
        cpu = median(rounds, "worker_cpu_ms") + median(rounds, "program_cpu_ms")
        threads = by_thread([one.threads_us for one in rounds])
        table.add_row(
            kind,
            f"{median(rounds, 'per_second'):,.2f}",
            f"{cpu:.3f}",
            f"{median(rounds, 'postgres_cpu_ms'):.3f}",
            f"{median(rounds, 'start_seconds'):.2f}",
            ", ".join(f"{name} {us:.1f}" for name, us in threads.items() if us >= 1),
        )
    table.add_section()
    quick, spawned = found[Kind.PERSISTENT], found[Kind.SPAWNED]
    speed, times = median(quick, "per_second"), ratio(quick, spawned, "per_second")
    for name, wanted, measured in (
        ("messages a second, recorder off", MIN_PER_SECOND, speed),
        ("times as many as spawned", MIN_TIMES_SPAWNED, times),
    ):
        verdict = "met" if measured >= wanted else "MISSED"
        table.add_row(name, f"{measured:,.0f}", "", "", "", f"at least {wanted:,.0f}: {verdict}")
    return table


def write_persistent_report(path: Path, found: Found) -> None:
    """Every round's figures, by kind."""
    content = {kind.name.lower(): [asdict(one) for one in each] for kind, each in found.items()}
    path.write_text(json.dumps(content, indent=2) + "\n")
