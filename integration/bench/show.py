"""Prints what was measured, and writes it as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from integration.bench.pipeline import HERE, THERE, Found, by_thread, ratio
from integration.bench.report import (
    Measured,
    floor_share,
    floor_spread,
    median,
    percentile,
    targets,
    times_by_hand,
)
from integration.bench.rounds import Peer

WORDS = {True: "met", False: "MISSED", None: "not measured"}
TITLES = {
    Peer.BY_HAND: "by hand",
    Peer.RECORDER_OFF: "recorder off",
    Peer.RECORDER_ON: "recorder on",
}
SHOWN_US = 0.5
"""Threads that take less a message are left out."""
PIPELINE_FIGURES = ("per_second", "total_cpu_us")
HEADINGS = (
    "",
    "msgs/s",
    "of floor",
    "x by hand",
    "K",
    "CPU ms",
    "programs",
    "postgres",
    "kafka",
)


def show(console: Console, measured: Measured) -> None:
    """Two tables: the figures, then the targets; then what disturbed them."""
    console.print(_figures(measured))
    console.print(_targets(measured))
    noise = measured.noise
    moved = f", the floor moved by {floor_spread(measured.floors):.2f}x" if measured.floors else ""
    console.print(
        f"load average before {noise.load_before:.2f}, after {noise.load_after:.2f}; "
        f"{noise.stolen_seconds:.1f} s stolen by the host{moved}; "
        "compare figures of one run only"
    )
    duplicates = sum(one.duplicates for rounds in measured.rounds.values() for one in rounds)
    if duplicates:
        console.print(f"WARNING: {duplicates} results came more than once")


def write_report(path: Path, measured: Measured) -> None:
    """Every round's figures, and the targets with their verdicts."""
    steady = measured.steady
    content = {
        "floor": [asdict(one) for one in measured.floors],
        "rounds": {
            peer.name.lower(): [{**asdict(one), "overhead": one.overhead} for one in rounds]
            for peer, rounds in measured.rounds.items()
        },
        "steady": {
            "worker_cpu_ms": steady.worker_cpu_ms,
            **{
                f"p{percent}_ms": percentile(steady.latencies_ms, percent)
                for percent in (50, 90, 99)
            },
        },
        "noise": asdict(measured.noise),
        "targets": [asdict(one) for one in targets(measured)],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def pipeline_table(found: Found) -> Table:
    """The pipeline alone: a row a mode and checkout, the ratios below each pair."""
    table = Table(title="the pipeline alone; CPU in us a message")
    for heading in ("", "msgs/s", "CPU us", "bytes of history", "by thread"):
        table.add_column(heading, justify="left" if heading in ("", "by thread") else "right")
    for (mode, title), rounds in found.items():
        threads = [f"{name} {us:.1f}" for name, us in by_thread(rounds).items() if us >= SHOWN_US]
        table.add_row(
            f"{mode}, {title}",
            f"{median(rounds, 'per_second'):,.0f}",
            f"{median(rounds, 'total_cpu_us'):.1f}",
            f"{median(rounds, 'history_bytes'):,.0f}",
            ", ".join(threads),
        )
        if title == THERE:
            ours = found[mode, HERE]
            table.add_row(
                "  here / there",
                *(f"{ratio(ours, rounds, figure):.3f}" for figure in PIPELINE_FIGURES),
            )
    return table


def write_pipeline_report(path: Path, found: Found) -> None:
    """Every round's figures of the pipeline alone, by mode and checkout."""
    content = {
        f"{mode} {title}": [asdict(one) for one in each] for (mode, title), each in found.items()
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _figures(measured: Measured) -> Table:
    count = len(measured.rounds[Peer.BY_HAND])
    table = Table(title=f"median of {count} rounds in turns; CPU in ms a message")
    for heading in HEADINGS:
        table.add_column(heading, justify="right" if heading else "left")
    if measured.floors:
        program, speed = (
            median(measured.floors, name) for name in ("program_cpu_ms", "per_second")
        )
        table.add_row(
            "C floor", f"{speed:,.0f}", "100 %", "-", "-", "-", f"{program:.3f}", "-", "-"
        )
    else:
        table.add_row("C floor: no gcc", *["-"] * (len(HEADINGS) - 1))
    for peer, title in TITLES.items():
        rounds, share = measured.rounds[peer], floor_share(measured, peer)
        figures = ("overhead", "worker_cpu_ms", "program_cpu_ms", "postgres_cpu_ms", "kafka_cpu_ms")
        table.add_row(
            title,
            f"{median(rounds, 'per_second'):,.0f}",
            "-" if share is None else f"{share:.1%}",
            f"{times_by_hand(measured, peer):.2f}",
            *(f"{median(rounds, figure):.3f}" for figure in figures),
        )
    return table


def _targets(measured: Measured) -> Table:
    table = Table(title="targets")
    for heading in ("figure", "target", "measured", ""):
        table.add_column(heading)
    for target in targets(measured):
        table.add_row(target.name, target.wanted, target.measured, WORDS[target.is_met])
    return table
