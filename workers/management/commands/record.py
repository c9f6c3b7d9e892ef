"""``manage.py record``: write the last messages of a topic to a file, for tests to replay."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workers.broker.base import BrokerUnavailable
from workers.broker.named_topics import NamedTopic
from workers.broker.topic_reader import MAX_LOOKED_AT, Found, Read, bounds_of, last_messages
from workers.cluster_choice import named_topic, refuse

FAILED = 1
USUAL = 10


class Command(BaseCommand):
    """Reads without a group; ``drakkar.testing.load`` reads the file."""

    help = (
        "Write the last messages of a topic to a file, a JSON object a line. "
        "Exit codes: 0 written, 1 Kafka or the file refused, 2 bad use."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py record search-requests --count 20 messages.jsonl"
        parser.add_argument("topic", help="a topic that the configuration names, or another")
        parser.add_argument("file", type=Path, help="made, or written anew; this user's alone")
        parser.add_argument("--count", type=int, default=USUAL, help=f"default {USUAL}")
        parser.add_argument("--partition", type=int, help="only of this partition")
        parser.add_argument("--cluster", help="at whose brokers; default: whose topic it is")

    def handle(self, *args: Any, **options: Any) -> None:
        if not 1 <= options["count"] <= MAX_LOOKED_AT:
            refuse([f"--count: expected 1 to {MAX_LOOKED_AT:,}, got {options['count']}"])
        topic = named_topic(options["topic"], options["cluster"])
        try:
            found = _found(topic, options["count"], options["partition"])
            messages = sorted(found.messages, key=lambda read: (read.partition, read.offset))
            _write(options["file"], topic.topic, messages)
        except (BrokerUnavailable, OSError) as exc:
            sys.stderr.write(f"record: {exc}\n")
            raise SystemExit(FAILED) from exc
        self.stdout.write(f"{len(messages)} messages of {topic.topic} in {options['file']}")
        if found.is_cut:
            sys.stderr.write("record: what one read may take was not enough for more of them\n")


def _found(topic: NamedTopic, count: int, partition: int | None) -> Found:
    """Raises BrokerUnavailable, or SystemExit (2) for a topic or partition that is not there."""
    bounds = bounds_of([topic]).get(topic.topic, {})
    if not bounds:
        refuse([f"topic: expected one that is there, got {topic.topic!r} at {topic.brokers}"])
    if partition is not None and partition not in bounds:
        refuse([f"--partition: expected 0 to {len(bounds) - 1}, got {partition}"])
    chosen = bounds if partition is None else {partition: bounds[partition]}
    return last_messages(topic, chosen, count, look_at=count * len(chosen), most=MAX_LOOKED_AT)


def _write(path: Path, topic: str, messages: Sequence[Read]) -> None:
    """Messages may hold what is nobody else's to read. Raises OSError."""
    made = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(made, "w", encoding="utf-8") as out:
        out.writelines(json.dumps(line_of(topic, read)) + "\n" for read in messages)


def line_of(topic: str, read: Read) -> dict[str, Any]:
    """Return a message as a line says it; ``timestamp_ms`` is 0 where the topic keeps none."""
    return {
        "topic": topic,
        "partition": read.partition,
        "offset": read.offset,
        "timestamp_ms": read.timestamp_ms or 0,
        **_text("key", read.key),
        **_text("value", read.value),
        "headers": [{"name": name, **_text("value", value)} for name, value in read.headers],
    }


def _text(field: str, value: bytes | None) -> dict[str, str | None]:
    """Return the field as text, or where it is none as base64 in a field that says so."""
    try:
        return {field: None if value is None else value.decode()}
    except UnicodeDecodeError:
        return {f"{field}_base64": base64.b64encode(value or b"").decode()}
