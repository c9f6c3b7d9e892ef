"""``python -m integration.bench.recorder_pressure``: what the history loses under pressure.

A worker with precomputed tasks, an Apache Kafka and a PostgreSQL of its own. First Postgres is away
for two minutes under 500 messages a second, then a backlog of 100,000 messages is waiting when the
worker starts. Prints events, gaps in ``seq`` and events shed of both, and what the worker held
meanwhile; exit code 1 when anything is lost.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import psycopg

from integration.bench.config import CLUSTER, Topics, settings, write_config
from integration.bench.traffic import BenchFailed, Group, Sender, make_topics
from integration.bench.worker import CHECKOUT, prepare_database, running_worker
from integration.services import kafka_apache, postgres
from integration.services.base import ServiceFailed, ServiceUnavailable
from integration.services.kafka_apache import RunningKafka
from integration.services.ports import free_port
from integration.services.postgres import RunningPostgres
from integration.told import TOLD

CALM_SECONDS = 10.0
LINGER_MS = 5
SETTLE_SECONDS = 300.0
LOOK_SECONDS = 0.5
FIGURES = ("recorder_buffer_events", "recorder_spooled_bytes", "recorder_shed_total")
COUNTS = (
    "SELECT count(*), count(DISTINCT seq), coalesce(max(seq), 0), "  # noqa: S608 - our own names
    "count(*) FILTER (WHERE kind = 'message_completed'), "
    "coalesce(sum((SELECT sum(n::bigint) FROM jsonb_each_text(data->'shed') AS s(k, n))) "
    f"FILTER (WHERE kind = 'recorder_shed'), 0) FROM {TOLD} told"
)


@dataclass(slots=True)
class Held:
    """The most that the worker held, and the highest count of what it shed."""

    most: dict[str, float] = field(default_factory=lambda: dict.fromkeys(FIGURES, 0.0))
    rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What the database holds of a run that has ended."""

    messages: int
    rows: int
    distinct: int
    last_seq: int
    completed: int
    shed: int
    seconds: float
    held: Held

    @property
    def is_whole(self) -> bool:
        """Whether every event of every message is there, once."""
        whole = self.rows == self.distinct == self.last_seq
        return whole and self.completed == self.messages and not self.shed

    def lines(self) -> Iterator[str]:
        """The figures in words."""
        yield f"  messages {self.messages:,}, their fates recorded {self.completed:,}"
        yield f"  events {self.rows:,}, last seq {self.last_seq:,}"
        yield f"  gaps in seq {self.last_seq - self.distinct:,}, told as shed {self.shed:,}"
        yield f"  recorded after {self.seconds:.1f} s"
        held = ", ".join(f"{name} {value:,.0f}" for name, value in self.held.most.items())
        yield f"  at the most: {held}, memory {self.held.rss_bytes / 2**20:,.0f} MiB"


def main() -> int:
    """Measure both and print; returns the exit code."""
    arguments = parser().parse_args()
    home = CHECKOUT / ".run" / "bench"
    home.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(dir=home))
    try:
        with (
            kafka_apache.running(folder / "kafka") as kafka,
            postgres.running(folder / "postgres") as database,
        ):
            place = _Place(folder, kafka, database)
            outcomes = list(_measured(place, arguments))
    except (BenchFailed, ServiceFailed, ServiceUnavailable) as exc:
        sys.stderr.write(f"recorder_pressure: {exc}\n(kept: {folder})\n")
        return 1
    return 0 if all(outcome.is_whole for outcome in outcomes) else 1


def parser() -> argparse.ArgumentParser:
    """The command line; 0 leaves one of the two out."""
    root = argparse.ArgumentParser(prog="python -m integration.bench.recorder_pressure")
    root.add_argument("--outage", type=float, default=120.0, help="seconds without Postgres")
    root.add_argument("--per-second", type=float, default=500.0, help="messages meanwhile")
    root.add_argument("--backlog", type=int, default=100_000, help="messages that wait at a start")
    return root


@dataclass(frozen=True, slots=True)
class _Place:
    folder: Path
    kafka: RunningKafka
    postgres: RunningPostgres


def _measured(place: _Place, arguments: argparse.Namespace) -> Iterator[Outcome]:
    if arguments.outage:
        told = f"Postgres away {arguments.outage:.0f} s, {arguments.per_second:.0f} messages/s"
        yield _said(told, _outage(place, arguments.outage, arguments.per_second))
    if arguments.backlog:
        told = f"a backlog of {arguments.backlog:,} messages"
        yield _said(told, _backlog(place, arguments.backlog))


def _said(what: str, outcome: Outcome) -> Outcome:
    print(f"{what}: {'whole' if outcome.is_whole else 'EVENTS ARE MISSING'}")
    print("\n".join(outcome.lines()), flush=True)
    return outcome


def _outage(place: _Place, seconds: float, per_second: float) -> Outcome:
    topics, messages = Topics.of("outage"), int((seconds + 2 * CALM_SECONDS) * per_second)

    def act(sender: Sender) -> None:
        sending = threading.Thread(target=sender.send_steadily, args=(messages, per_second))
        sending.start()
        time.sleep(CALM_SECONDS)
        place.postgres.stop()
        time.sleep(seconds)
        place.postgres.start()
        sending.join()

    return _run(place, topics, messages, act)


def _backlog(place: _Place, messages: int) -> Outcome:
    topics = Topics.of("backlog")
    make_topics(place.kafka.brokers, topics)
    sender = Sender(place.kafka.brokers, topics.source, LINGER_MS)
    for number in range(messages):
        sender.send(number)
        sender.poll(0)
    sender.flush()
    return _run(place, topics, messages, lambda _: None, is_made=True)


def _run(
    place: _Place,
    topics: Topics,
    messages: int,
    act: Callable[[Sender], None],
    *,
    is_made: bool = False,
) -> Outcome:
    """Run a worker until it has recorded all that it did, end it, and count."""
    brokers, port, held = place.kafka.brokers, free_port(), Held()
    if not is_made:
        make_topics(brokers, topics)
    config = place.folder / f"{topics.group}.yaml"
    content = settings(
        topics, brokers=brokers, database_url=place.postgres.dsn, folder=place.folder
    )
    content["clusters"][CLUSTER]["handler"] = "integration.handlers.bench:PrecomputedHandler"
    content["clusters"][CLUSTER]["metrics"]["port"] = port
    write_config(config, content)
    prepare_database(config)
    _ask(place.postgres.dsn, "TRUNCATE recorder_event")
    log = place.folder / f"{topics.group}.log"
    began = time.monotonic()
    with closing(Group(brokers, topics)) as group:
        with running_worker(config, log, has_recorder=True) as pid, _watched(pid, port, held):
            act(Sender(brokers, topics.source, LINGER_MS))
            _settle(place.postgres.dsn, group, messages)
            seconds = time.monotonic() - began
        rows, distinct, last, completed, shed = _ask(place.postgres.dsn, COUNTS)
    return Outcome(
        messages=messages, rows=rows, distinct=distinct, last_seq=last, completed=completed,
        shed=shed, seconds=seconds, held=held,
    )  # fmt: skip


def _settle(dsn: str, group: Group, messages: int) -> None:
    """Wait until all is committed, and recorded or lost: no more rows come."""
    deadline, before = time.monotonic() + SETTLE_SECONDS, -1
    while True:
        time.sleep(4 * LOOK_SECONDS)
        rows, *_ = _ask(dsn, COUNTS)
        if group.committed() >= messages and rows == before:
            return
        if time.monotonic() > deadline:
            raise BenchFailed(f"committed {group.committed()} of {messages}, {rows} events")
        before = rows


@contextmanager
def _watched(pid: int, port: int, held: Held) -> Iterator[None]:
    """Look at the worker's figures twice a second."""
    stopping = threading.Event()

    def watch() -> None:
        process = psutil.Process(pid)
        while not stopping.wait(LOOK_SECONDS):
            with suppress(OSError, psutil.Error):
                held.rss_bytes = max(held.rss_bytes, process.memory_info().rss)
                url = f"http://127.0.0.1:{port}/metrics"
                with urllib.request.urlopen(url, timeout=5) as answer:
                    _note(answer.read().decode(), held)

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        yield
    finally:
        stopping.set()
        watching.join()


def _note(text: str, held: Held) -> None:
    for line in text.splitlines():
        for name in FIGURES:
            if line.startswith(f"drakkar_{name}{{"):
                held.most[name] = max(held.most[name], float(line.rpartition(" ")[2]))


def _ask(dsn: str, statement: str) -> tuple[int, ...]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(statement.encode())
        row = cursor.fetchone() if cursor.description else None
    return tuple(int(value) for value in row) if row else ()


if __name__ == "__main__":
    raise SystemExit(main())
