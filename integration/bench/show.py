"""Prints what was measured, and writes it as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from rich.console import Console
from rich.table import Table

from integration.bench.figures import by_thread, median, ratio
from integration.bench.pipeline import HERE, THERE, Found
from integration.bench.report import (
    Measured,
    floor_share,
    floor_spread,
    targets,
    times_by_hand,
)
from integration.bench.rounds import Calm, Peer

WORDS = {True: "met", False: "MISSED", None: "not measured"}
TITLES = {
    Peer.BY_HAND: "by hand",
    Peer.RECORDER_OFF: "recorder off",
    Peer.RECORDER_ON: "recorder on",
}
SHOWN_US = 0.5
"""Threads that take less a message are left out."""
CALM_FIGURES = {
    "start_seconds": "start s",
    "rss_mib": "RSS MiB",
    "idle_cpu_ms": "idle CPU ms/s",
    "worker_cpu_ms": "CPU ms a message",
    "p50_ms": "p50 ms",
    "p99_ms": "p99 ms",
}
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
    """The figures, CPU by thread, and the targets; then what disturbed them."""
    console.print(_figures(measured))
    console.print(_threads(measured))
    console.print(calm_table({HERE: [measured.calm]}))
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
    content = {
        "floor": [asdict(one) for one in measured.floors],
        "rounds": {
            peer.name.lower(): [{**asdict(one), "overhead": one.overhead} for one in rounds]
            for peer, rounds in measured.rounds.items()
        },
        "pipeline": [asdict(one) for one in measured.pipeline],
        "calm": asdict(measured.calm),
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
        table.add_row(
            f"{mode}, {title}",
            f"{median(rounds, 'per_second'):,.0f}",
            f"{median(rounds, 'total_cpu_us'):.1f}",
            f"{median(rounds, 'history_bytes'):,.0f}",
            _by_thread([one.cpu_us for one in rounds]),
        )
        if title == THERE:
            ours = found[mode, HERE]
            table.add_row(
                "  here / there",
                *(f"{ratio(ours, rounds, figure):.3f}" for figure in PIPELINE_FIGURES),
            )
    return table


def calm_table(found: Mapping[str, Sequence[Calm]]) -> Table:
    """Workers without pressure: a row a checkout, then the ratios of the pair."""
    table = Table(title="without pressure, recorder on; medians")
    table.add_column("")
    names = [name for name in CALM_FIGURES if getattr(found[HERE][0], name) is not None]
    for name in names:
        table.add_column(CALM_FIGURES[name], justify="right")
    table.add_column("CPU us a message by thread")
    for title, rounds in found.items():
        cells = [f"{median(rounds, name):.2f}" for name in names]
        table.add_row(title, *cells, _by_thread([one.threads_us for one in rounds]) or "-")
    if THERE in found:
        ratios = [f"{ratio(found[HERE], found[THERE], name):.3f}" for name in names]
        table.add_row("here / there", *ratios)
    return table


def write_calm_report(path: Path, found: Mapping[str, Sequence[Calm]]) -> None:
    """Every round's figures of workers without pressure, by checkout."""
    content = {title: [asdict(one) for one in rounds] for title, rounds in found.items()}
    path.write_text(json.dumps(content, indent=2) + "\n")


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


def _threads(measured: Measured) -> Table:
    table = Table(title="CPU by thread in us a message; start and memory")
    for heading in ("", "start s", "RSS MiB", "by thread"):
        table.add_column(heading)
    for peer, title in TITLES.items():
        rounds = measured.rounds[peer]
        table.add_row(
            title,
            f"{median(rounds, 'start_seconds'):.2f}",
            f"{median(rounds, 'rss_mib'):.0f}",
            _by_thread([one.threads_us for one in rounds]),
        )
    return table


def _by_thread(rounds: Sequence[Mapping[str, float]]) -> str:
    found = by_thread(rounds)
    return ", ".join(f"{name} {us:.1f}" for name, us in found.items() if us >= SHOWN_US)


def _targets(measured: Measured) -> Table:
    table = Table(title="targets")
    for heading in ("figure", "target", "measured", ""):
        table.add_column(heading)
    for target in targets(measured):
        table.add_row(target.name, target.wanted, target.measured, WORDS[target.is_met])
    return table
