"""``manage.py send``: write messages to a topic of the configuration, each until Kafka has it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from domain.printable import printable
from sinks.backends.kafka import TopicWriter, translate
from sinks.base import SinkError
from workers.cluster_choice import named_topic, refuse

FAILED = 1
SECONDS = 10.0
BATCH = 500
MAX_BYTES = 16 * 1024 * 1024


class Command(BaseCommand):
    """Prints the place of each message, by which ``trace`` finds it."""

    help = (
        "Write a message, or one for each line of standard input, to a topic. "
        "Exit codes: 0 Kafka has them, 1 it does not, 2 bad use."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py send search-requests '{\"a\": 1}' --key a"
        parser.add_argument("topic", help="a topic that the configuration names, or another")
        parser.add_argument("value", help="JSON; '-' reads one message a line from standard input")
        parser.add_argument("--key", help="of each message; default: none")
        parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
        parser.add_argument("--partition", type=int, help="default: by the key, else any")
        parser.add_argument("--cluster", help="at whose brokers; default: whose topic it is")
        parser.add_argument("--text", action="store_true", help="send as it is, without being JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        common = _common(options)
        topic = named_topic(options["topic"], options["cluster"])
        writer = TopicWriter(
            topic=topic.topic,
            brokers=topic.brokers,
            client=dict(topic.client),
            timeout_seconds=SECONDS,
        )
        lines = sys.stdin.buffer if options["value"] == "-" else [options["value"].encode()]
        values = _values(lines, is_text=options["text"])
        try:
            writer.partition_count()
            while batch := [{"value": value, **common} for value in islice(values, BATCH)]:
                for report in writer.write(batch):
                    if report.error is not None:
                        raise translate(report.error, topic.topic)
                    self.stdout.write(f"stored as {topic.topic}:{report.partition}:{report.offset}")
        except SinkError as exc:
            sys.stderr.write(f"send: {exc} (brokers {topic.brokers})\n")
            raise SystemExit(FAILED) from exc


def _common(options: dict[str, Any]) -> dict[str, Any]:
    """Return key, headers and partition of each record. Raises SystemExit (2)."""
    problems, headers = [], []
    for text in options["header"]:
        name, equals, value = text.partition("=")
        if not name or not equals:
            problems.append(f"--header: expected NAME=VALUE, got {printable(text[:100])!r}")
        headers.append((name, value.encode()))
    if options["partition"] is not None and not 0 <= options["partition"] < 2**31:
        problems.append(f"--partition: expected 0 or more, got {options['partition']}")
    refuse(problems)
    found: dict[str, Any] = {"headers": headers}
    if options["key"] is not None:
        found["key"] = options["key"].encode()
    if options["partition"] is not None:
        found["partition"] = options["partition"]
    return found


def _values(lines: Iterable[bytes], *, is_text: bool) -> Iterator[bytes]:
    """Yield the value of each line that is not empty. Raises SystemExit (2) at one that cannot be
    sent; those before it are stored."""
    for number, line in enumerate(lines, 1):
        value = line.strip(b"\r\n")
        if not value.strip():
            continue
        if len(value) > MAX_BYTES:
            refuse([f"message {number}: expected at most {MAX_BYTES:,} bytes, got {len(value):,}"])
        if not is_text:
            try:
                json.loads(value)
            except ValueError as exc:
                what = f"message {number}: expected JSON, got {exc}"
                refuse([f"{what}; --text sends it as it is"])
        yield value
