"""``python -m integration.bench``: the worker against the floor of this machine, and by hand.

In turns within one run: a C program that only spawns, a worker that one writes in an afternoon
(``by_hand.py``), and ours with its recorder off and on. Starts its own warm Apache Kafka and
PostgreSQL under ``.run/bench``. ``--loop`` measures the pipeline alone (no Kafka, no sink),
``--persistent`` a Python program, spawned and persistent,
``--idle`` and ``--paced`` a worker without pressure; ``--against`` another checkout beside it, in
turns. A figure that misses its target is said and never
fails the command; what could not be measured does (exit code 1).
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TypeVar

import psutil
from rich.console import Console

from integration.bench.config import PROGRAM, SLOTS, Topics, settings, write_config
from integration.bench.cpu import stolen_seconds
from integration.bench.floor import Floor, FloorFailed, compile_floor, run_floor
from integration.bench.persistent import (
    persistent_table,
    spawned_and_persistent,
    write_persistent_report,
)
from integration.bench.pipeline import HERE, THERE, Mode, Side, in_turns, pipeline_round
from integration.bench.report import Measured, Noise
from integration.bench.rounds import Calm, Peer, Place, Throughput, calm, throughput, warm_broker
from integration.bench.show import (
    calm_table,
    pipeline_table,
    show,
    write_calm_report,
    write_pipeline_report,
    write_report,
)
from integration.bench.traffic import BenchFailed
from integration.bench.worker import CHECKOUT, prepare_database
from integration.services import kafka_apache, postgres
from integration.services.base import ServiceFailed, ServiceUnavailable

MESSAGES, LOOP_MESSAGES, PERSISTENT_MESSAGES = 2000, 5000, 20_000
PACED_PER_SECOND = 100.0
IDLE_SECONDS = 10.0
LOOP = "loop"
Item = TypeVar("Item")


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
        elif arguments.persistent:
            _persistent(console, folder, arguments)
        elif arguments.idle or arguments.paced:
            _calm(console, folder, arguments)
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
        "--messages",
        type=_at_least(100),
        help="messages a round; default 2000, with --loop 5000, with "
        "--persistent 20000 (spawned: a hundredth)",
    )
    root.add_argument("--report", type=Path, help="write all figures to this JSON file")
    root.add_argument(
        "--loop", nargs="*", type=Mode, metavar="MODE", help=f"only these of {', '.join(Mode)}"
    )
    root.add_argument(
        "--persistent", action="store_true", help="only a Python program, spawned and persistent"
    )
    root.add_argument("--idle", action="store_true", help="only start, memory and CPU at rest")
    root.add_argument(
        "--paced", type=_at_least(1), default=0, metavar="N", help="only N messages a second"
    )
    root.add_argument(
        "--against", type=Path, help="with --loop, --idle or --paced: another checkout"
    )
    root.add_argument("--recorder", action="store_true", help="with --loop: keep a history")
    return root


def _at_least(least: int) -> Callable[[str], int]:
    def count(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"expected an integer >= {least}, got {text!r}")
        return int(text)

    return count


def _checkouts(arguments: argparse.Namespace) -> dict[str, Path]:
    other = {THERE: arguments.against.resolve()} if arguments.against else {}
    return {HERE: CHECKOUT, **other}


def _loop(console: Console, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure the pipeline alone, here and in the other checkout."""
    with ExitStack() as stack:
        database = None
        if arguments.recorder:
            database = stack.enter_context(postgres.running(folder / "postgres"))
        checkouts = _checkouts(arguments).items()
        sides = [Side.prepared(*each, folder, database) for each in checkouts]
        modes, messages = arguments.loop or list(Mode), arguments.messages or LOOP_MESSAGES
        found = in_turns(sides, modes, messages, arguments.rounds, console.print)
    console.print(pipeline_table(found))
    if arguments.report:
        write_pipeline_report(arguments.report, found)


def _persistent(console: Console, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure one program, spawned for each task and persistent, on Kafka."""
    messages = arguments.messages or PERSISTENT_MESSAGES
    with _places(folder, {HERE: CHECKOUT}) as places:
        found = spawned_and_persistent(places[HERE], messages, arguments.rounds, console.print)
    console.print(persistent_table(found))
    if arguments.report:
        write_persistent_report(arguments.report, found)


def _calm(console: Console, folder: Path, arguments: argparse.Namespace) -> None:
    """Measure workers without pressure, here and in the other checkout."""
    found: dict[str, list[Calm]] = {}
    idle_seconds = IDLE_SECONDS if arguments.idle else 0.0
    with _places(folder, _checkouts(arguments)) as places:
        for number in range(1, arguments.rounds + 1):
            for title in _rotated(list(places), number):
                label = f"{title}-calm-{number}"
                one = calm(
                    places[title], label, idle_seconds=idle_seconds, per_second=arguments.paced
                )
                found.setdefault(title, []).append(one)
                console.print(f"round {number}: {title} started in {one.start_seconds:.2f} s")
    console.print(calm_table(found))
    if arguments.report:
        write_calm_report(arguments.report, found)


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
    with _places(folder, {HERE: CHECKOUT}) as places:
        return _all_rounds(console, places[HERE], floor, rounds, messages)


@contextmanager
def _places(folder: Path, checkouts: Mapping[str, Path]) -> Iterator[dict[str, Place]]:
    """A warm Kafka and a PostgreSQL, with a database that each checkout has migrated itself."""
    with (
        kafka_apache.running(folder / "kafka", is_measured=True) as kafka,
        postgres.running(folder / "postgres") as server,
    ):
        places = {}
        for title, checkout in checkouts.items():
            postgres.ensure_database(server.port, title)
            place = Place(
                folder=folder / title,
                kafka=kafka,
                postgres=server,
                checkout=checkout,
                database=title,
            )
            _prepare(place)
            places[title] = place
        warm_broker(places[HERE])
        yield places


def _prepare(place: Place) -> None:
    place.folder.mkdir()
    config = place.folder / "prepare.yaml"
    content = settings(
        Topics.of("prepare"),
        brokers=place.kafka.brokers,
        database_url=place.database_url,
        folder=place.folder,
    )
    write_config(config, content)
    prepare_database(config, place.checkout)


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

    side, alone = Side.prepared(LOOP, place.checkout, place.folder, None), []
    measure_floor()
    for number in range(1, rounds + 1):
        # Each round begins with another one: none always runs on the coldest machine.
        for peer in _rotated(list(Peer), number):
            found[peer].append(throughput(place, f"{peer}-{number}", messages, peer))
            console.print(f"round {number}: {peer.name.lower()} {_words(found[peer][-1])}")
        alone.append(pipeline_round(side, Mode.PRECOMPUTED, LOOP_MESSAGES))
        measure_floor()
    console.print(f"at rest, then {PACED_PER_SECOND:.0f} messages a second")
    return Measured(
        floors=floors,
        rounds=found,
        pipeline=alone,
        calm=calm(place, "calm", idle_seconds=IDLE_SECONDS, per_second=PACED_PER_SECOND),
        noise=Noise(
            load_before=load_before,
            load_after=psutil.getloadavg()[0],
            stolen_seconds=stolen_seconds() - stolen_before,
        ),
    )


def _rotated(items: Sequence[Item], by: int) -> Sequence[Item]:
    first = by % len(items)
    return [*items[first:], *items[:first]]


def _words(one: Throughput) -> str:
    return (
        f"{one.per_second:,.0f}/s, {one.worker_cpu_ms:.3f} CPU ms a message, K {one.overhead:.2f}"
    )


if __name__ == "__main__":
    raise SystemExit(main())
