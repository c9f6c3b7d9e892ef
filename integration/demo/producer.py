"""Fills the source topic in phases: drip, warm-up, silence, bursts, steady load, a flood."""

from __future__ import annotations

import argparse
import json
import os
import random
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from confluent_kafka import KafkaError, KafkaException, Message, Producer
from rich.console import Console
from rich.progress import Progress

from integration.corpus import SEARCHES

TOTAL = 10_000
DELIVERY_SECONDS = 120
"""Outlasts a broker that is away for 20 s, takes its time to start, and is found again."""
FLOOD = 5_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Phase:
    """``messages`` at ``per_second`` (None: full speed), or a silence of ``silence_seconds``."""

    name: str
    messages: int = 0
    per_second: float | None = None
    silence_seconds: float = 0.0


def phases(total: int, speed: float = 1.0) -> list[Phase]:
    """The plan for so many messages, every duration divided by ``speed``; counts scale exactly."""
    cool_down = TOTAL - 10 - 500 - 200 - 2000 - 300 - FLOOD
    plan = [
        Phase(name="slow drip", messages=10, per_second=0.2),
        Phase(name="warm-up", messages=500, per_second=15),
        Phase(name="pause", silence_seconds=15),
        Phase(name="burst", messages=200),
        Phase(name="steady", messages=2000, per_second=20),
        Phase(name="pause", silence_seconds=10),
        Phase(name="second burst", messages=300),
        Phase(name="cool-down", messages=cool_down, per_second=10),
        Phase(name="flood", messages=FLOOD),
    ]
    scaled, given, planned = [], 0, 0
    for phase in plan:
        planned += phase.messages
        upto = round(planned * total / TOTAL)
        rate = None if phase.per_second is None else phase.per_second * speed
        scaled.append(
            Phase(
                name=phase.name,
                messages=upto - given,
                per_second=rate,
                silence_seconds=phase.silence_seconds / speed,
            )
        )
        given = upto
    return scaled


def requests(total: int, seed: int, slow_percent: float) -> Iterator[dict[str, object]]:
    """The messages: the same for the same seed."""
    chance = random.Random(seed)
    for number in range(total):
        search = SEARCHES[number % len(SEARCHES)]
        is_slow = chance.random() * 100.0 < slow_percent
        yield {
            "request_id": f"r{seed}-{number:06d}",
            "pattern": search.pattern,
            "file_path": search.file_path,
            "repeat": chance.randint(150, 250) if is_slow else chance.randint(1, 15),
        }


class Reports:
    """Counts what the broker said of each message."""

    def __init__(self) -> None:
        self.stored = 0
        self.refused = 0

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        """The delivery report of one message."""
        if error is None:
            self.stored += 1
        else:
            self.refused += 1
            sys.stderr.write(f"refused: {error.str()}\n")


def produce(
    producer: Producer,
    topic: str,
    plan: list[Phase],
    messages: Iterator[dict[str, object]],
    reports: Reports,
    advance: Callable[[int], None],
    partitions: int,
) -> None:
    """Send everything by the plan; returns when each message has its report or timed out."""
    number = 0
    for phase in plan:
        began = time.monotonic()
        for sent in range(phase.messages):
            if phase.per_second is not None:
                _wait_until(producer, began + sent / phase.per_second)
            message = next(messages)
            _send(producer, topic, message, number % partitions, reports)
            number += 1
            advance(1)
        _wait_until(producer, time.monotonic() + phase.silence_seconds)
    producer.flush(DELIVERY_SECONDS)


def _send(
    producer: Producer, topic: str, message: dict[str, object], partition: int, reports: Reports
) -> None:
    value = json.dumps(message, separators=(",", ":")).encode()
    key = str(message["request_id"]).encode()
    while True:
        try:
            producer.produce(topic, value, key, partition, on_delivery=reports)
        except BufferError:
            producer.poll(0.1)
            continue
        producer.poll(0)
        return


def _wait_until(producer: Producer, moment: float) -> None:
    while (left := moment - time.monotonic()) > 0:
        producer.poll(min(left, 0.5))


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="integration.demo.producer", description=__doc__)
    parser.add_argument("--brokers", required=True)
    parser.add_argument("--topic", default="search-requests")
    parser.add_argument("--partitions", type=int, default=50)
    default_total = int(os.environ.get("TOTAL_MESSAGES", TOTAL))
    parser.add_argument("--total", type=int, default=default_total)
    parser.add_argument("--speed", type=float, default=1.0)
    parser.add_argument("--per-second", type=float, help="a steady load, unscaled, for the phases")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--slow-percent", type=float, default=3.0)
    return parser.parse_args()


def main() -> int:
    """0 when every message was stored, 1 when one was refused."""
    options = arguments()
    reports = Reports()
    producer = Producer(
        {
            "bootstrap.servers": options.brokers,
            "enable.idempotence": True,
            "linger.ms": 2,
            "delivery.timeout.ms": DELIVERY_SECONDS * 1000,
            "reconnect.backoff.max.ms": 1000,
        }
    )
    messages = requests(options.total, options.seed, options.slow_percent)
    plan = phases(options.total, options.speed)
    if options.per_second is not None:
        plan = [Phase(name="steady", messages=options.total, per_second=options.per_second)]
    try:
        with Progress(console=Console(stderr=True), disable=not sys.stderr.isatty()) as progress:
            row = progress.add_task("producing", total=options.total)
            produce(
                producer,
                options.topic,
                plan,
                messages,
                reports,
                lambda count: progress.advance(row, count),
                options.partitions,
            )
    except KafkaException as exc:
        sys.stderr.write(f"producer: {exc}\n")
        return 1
    print(f"stored {reports.stored}, refused {reports.refused}")
    return 0 if reports.stored == options.total else 1


if __name__ == "__main__":
    sys.exit(main())
