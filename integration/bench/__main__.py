"""``python -m integration.bench``: the worker against the floor of this machine, and by hand.

In turns within one run: a C program that only spawns, a worker that one writes in an afternoon
(``by_hand.py``), and ours with its recorder off and on. Starts its own warm Apache Kafka and
PostgreSQL under ``.run/bench``. ``--loop`` measures the pipeline alone (no Kafka, no sink), and
with ``--against`` another checkout beside it. A figure that misses its target is said and never
fails the command; what could not be measured does (exit code 1).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import psutil
from rich.console import Console

from integration.bench.config import PROGRAM, SLOTS, Topics, settings, write_config
from integration.bench.cpu import stolen_seconds
from integration.bench.floor import Floor, FloorFailed, compile_floor, run_floor
from integration.bench.pipeline import HERE, THERE, Mode, Side, in_turns
from integration.bench.report import Measured, Noise
from integration.bench.rounds import Peer, Place, Throughput, steady, throughput, warm_broker
from integration.bench.show import pipeline_table, show, write_pipeline_report, write_report
from integration.bench.traffic import BenchFailed
from integration.bench.worker import CHECKOUT, prepare_database
from integration.services import kafka_apache, postgres
from integration.services.base import ServiceFailed, ServiceUnavailable

MESSAGES, LOOP_MESSAGES = 2000, 5000
STEADY_PER_SECOND = 100.0
STEADY_SECONDS = 20.0


def main() -> int:
    """Measure and print; returns the exit code."""
    arguments = parser().parse_args()
    console = Console(width=max(110, Console().width), highlight=False)
    home = CHECKOUT / ".run" / "bench"
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=home))
    try:
        if arguments.loop is not None:
            _loop(console, folder, arguments)
        else:
            _whole(console, folder, arguments)
    except (BenchFailed, FloorFailed, ServiceFailed, ServiceUnavailable) as exc:
        sys.stderr.write(f"bench: {exc}\n(kept: {folder})\n")
        return 1
    shutil.rmtree(folder, ignore_errors=True)
    return 0


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(prog="python -m integration.bench", description=__doc__)
    root.add_argument("--rounds", type=_at_least(1), default=5, help="rounds of each kind")
    root.add_argument(
        "--messages", type=_at_least(100), help="messages a round; default 2000, with --loop 5000"
    )
    root.add_argument("--report", type=Path, help="write all figures to this JSON file")
    root.add_argument(
        "--loop", nargs="*", type=Mode, metavar="MODE", help=f"only these of {', '.join(Mode)}"
    )
    root.add_argument("--against", type=Path, help="with --loop: another checkout")
    root.add_argument("--recorder", action="store_true", help="with --loop: keep a history")
    return root


def _at_least(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
        return int(text)

    return count


def _loop(console: Console, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure the pipeline alone, here and in the other checkout."""
    checkouts = {HERE: CHECKOUT}
    if arguments.against:
        checkouts[THERE] = arguments.against.resolve()
    with ExitStack() as stack:
        database = None
        if arguments.recorder:
            database = stack.enter_context(postgres.running(folder / "postgres"))
        sides = [Side.prepared(*each, folder, database) for each in checkouts.items()]
        modes, messages = arguments.loop or list(Mode), arguments.messages or LOOP_MESSAGES
        found = in_turns(sides, modes, messages, arguments.rounds)
    console.print(pipeline_table(found))
    if arguments.report:
        write_pipeline_report(arguments.report, found)


def _whole(console: Console, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure against the floor and the worker by hand, on Kafka."""
    measured = _measure(console, folder, arguments.rounds, arguments.messages or MESSAGES)
    show(console, measured)
    if arguments.report:
        write_report(arguments.report, measured)


def _measure(console: Console, folder: Path, rounds: int, messages: int) -> Measured:
    floor = compile_floor(folder)
    if floor is None:
        console.print("SKIPPED: the C floor; gcc is missing (Debian: gcc libc6-dev)")
    with (
        kafka_apache.running(folder / "kafka", is_measured=True) as kafka,
        postgres.running(folder / "postgres") as database,
    ):
        place = Place(folder=folder, kafka=kafka, postgres=database)
        _prepare(place)
        warm_broker(place)
        return _all_rounds(console, place, floor, rounds, messages)


def _prepare(place: Place) -> None:
    config = place.folder / "prepare.yaml"
    content = settings(
        Topics.of("prepare"),
        brokers=place.kafka.brokers,
        database_url=place.database_url,
        folder=place.folder,
    )
    write_config(config, content)
    prepare_database(config)


def _all_rounds(
    console: Console, place: Place, program: Path | None, rounds: int, messages: int
) -> Measured:
    load_before, stolen_before = psutil.getloadavg()[0], stolen_seconds()
    floors: list[Floor] = []
    found: dict[Peer, list[Throughput]] = {peer: [] for peer in Peer}

    def measure_floor() -> None:
        if program is not None:
            floors.append(run_floor(program, PROGRAM, messages, SLOTS))
            console.print(f"floor {floors[-1].per_second:,.0f}/s")

    measure_floor()
    for number in range(1, rounds + 1):
        # Each round begins with another one: none always runs on the coldest machine.
        for peer in _rotated(list(Peer), number):
            found[peer].append(throughput(place, f"{peer}-{number}", messages, peer))
            console.print(f"round {number}: {peer.name.lower()} {_words(found[peer][-1])}")
        measure_floor()
    count = int(STEADY_PER_SECOND * STEADY_SECONDS)
    console.print(f"latency: {count} messages at {STEADY_PER_SECOND:.0f}/s")
    return Measured(
        floors=floors,
        rounds=found,
        steady=steady(place, "steady", count, STEADY_PER_SECOND),
        noise=Noise(
            load_before=load_before,
            load_after=psutil.getloadavg()[0],
            stolen_seconds=stolen_seconds() - stolen_before,
        ),
    )


def _rotated(peers: list[Peer], by: int) -> list[Peer]:
    first = by % len(peers)
    return peers[first:] + peers[:first]


def _words(one: Throughput) -> str:
    return (
        f"{one.per_second:,.0f}/s, {one.worker_cpu_ms:.3f} CPU ms a message, K {one.overhead:.2f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
