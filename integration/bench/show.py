"""Prints what was measured, and writes it as JSON."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from integration.bench.report import Measured, floor_share, median, percentile, targets

WORDS = {True: "met", False: "MISSED", None: "not measured"}


def show(console: Console, measured: Measured) -> None:
    """Two tables: the figures, then the targets."""
    console.print(_figures(measured))
    console.print(_targets(measured))
    console.print(
        f"load average before {measured.load_before:.2f}, after {measured.load_after:.2f};"
        " other work on the machine moves every figure"
    )
    duplicates = sum(one.duplicates for one in [*measured.off, *measured.on])
    if duplicates:
        console.print(f"WARNING: {duplicates} results came more than once")


def write_report(path: Path, measured: Measured) -> None:
    """Every round's figures, and the targets with their verdicts."""
    content = {
        "floor": [asdict(one) for one in measured.floors],
        "recorder_off": [asdict(one) for one in measured.off],
        "recorder_on": [asdict(one) for one in measured.on],
        "latency_ms": {
            f"p{percent}": percentile(measured.latencies_ms, percent) for percent in (50, 90, 99)
        },
        "floor_share": floor_share(measured),
        "load_average": {"before": measured.load_before, "after": measured.load_after},
        "targets": [asdict(one) for one in targets(measured)],
    }
    path.write_text(json.dumps(content, indent=2) + "\n")


def _figures(measured: Measured) -> Table:
    table = Table(title=f"median of {len(measured.on)} interleaved rounds")
    for heading in ("", "tasks/s", "of the floor", "CPU ms/message", "postgres ms", "kafka ms"):
        table.add_column(heading, justify="right" if heading else "left")
    floor = median(measured.floors, "per_second") if measured.floors else None
    if floor is None:
        table.add_row("C floor: SKIPPED, gcc is missing", "-", "-", "-", "-", "-")
    else:
        own = f"{median(measured.floors, 'program_cpu_ms'):.3f} (program)"
        table.add_row("C floor", f"{floor:,.0f}", "100 %", own, "-", "-")
    for name, rounds in (("recorder off", measured.off), ("recorder on", measured.on)):
        speed = median(rounds, "per_second")
        figures = ("worker_cpu_ms", "postgres_cpu_ms", "kafka_cpu_ms")
        table.add_row(
            f"worker, {name}",
            f"{speed:,.0f}",
            "-" if floor is None else f"{speed / floor:.1%}",
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
