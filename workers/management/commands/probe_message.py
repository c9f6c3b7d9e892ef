"""``manage.py probe_message``: what would a message do? Without sinks and commits."""

from __future__ import annotations

import asyncio
import json
import math
import os
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser

from domain.fate import Fate
from domain.message import Header, Message, Record
from domain.printable import printable, printable_block
from workers.cluster_choice import BAD_USE, chosen_cluster, made_handler, refuse
from workers.executor.base import ExecutorUnavailable
from workers.runtime.listeners.log import configure
from workers.runtime.probe import ProbeStopped, ProbeTimedOut, probe
from workers.runtime.probing import document

MAX_VALUE_BYTES = 64 * 1024 * 1024


class Command(BaseCommand):
    """Runs one message through the handler and its program; nothing is delivered or committed."""

    help = (
        "Show what one message would do, without sinks and commits. "
        "Exit codes: 0 it ends well, 1 it is dead-lettered or does not end, 2 bad use."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py probe_message --cluster main --file message.json"
        given = parser.add_mutually_exclusive_group(required=True)
        given.add_argument("--value", help="the message's value as text")
        given.add_argument("--file", help="a file with the value's bytes; - is standard input")
        parser.add_argument("--cluster", required=True, help="a name under `clusters`")
        parser.add_argument("--key", help="the message's key as text")
        parser.add_argument("--header", action="append", default=[], metavar="NAME=VALUE")
        parser.add_argument("--partition", type=int, default=0)
        parser.add_argument("--offset", type=int, default=0)
        parser.add_argument("--timeout", type=float, default=300.0, help="seconds (default 300)")
        parser.add_argument("--json", action="store_true", help="print one JSON document")

    def handle(self, *args: Any, **options: Any) -> None:
        name = options["cluster"]
        config = chosen_cluster(name)
        record = _record(config.kafka.topic, options)
        configure("CRITICAL", "console", cluster=name, worker="probe")
        try:
            report = asyncio.run(
                probe(
                    config,
                    name,
                    made_handler(config),
                    record,
                    environ=settings.DRAKKAR_ENVIRONMENT,
                    timeout_seconds=options["timeout"],
                )
            )
        except (ProbeTimedOut, ProbeStopped, ExecutorUnavailable) as exc:
            sys.stderr.write(f"probe_message: {printable(str(exc))}\n")
            raise SystemExit(1) from exc
        found = document(report)
        self.stdout.write(json.dumps(found, indent=2) if options["json"] else as_text(found))
        raise SystemExit(1 if report.fate == Fate.DEAD_LETTERED.value else 0)


def _record(topic: str, options: dict[str, Any]) -> Record:
    """Return the record as asked for, or exit 2."""
    for name, most in (("partition", 2**31 - 1), ("offset", 2**63 - 1)):
        if not 0 <= options[name] <= most:
            refuse([f"--{name}: expected 0 to {most}, got {options[name]}"])
    if not 0 < options["timeout"] < math.inf:
        refuse([f"--timeout: expected seconds above 0, got {options['timeout']}"])
    return Message(
        topic=topic,
        partition=options["partition"],
        offset=options["offset"],
        key=None if options["key"] is None else os.fsencode(options["key"]),
        value=_value(options),
        headers=[_header(text) for text in options["header"]],
        timestamp=int(time.time() * 1000),
        payload=None,
    )


def _value(options: dict[str, Any]) -> bytes:
    if options["value"] is not None:
        return os.fsencode(options["value"])  # The bytes as typed, whatever they are.
    try:
        if options["file"] == "-":
            found = sys.stdin.buffer.read(MAX_VALUE_BYTES + 1)
        else:
            with Path(options["file"]).open("rb") as file:
                found = file.read(MAX_VALUE_BYTES + 1)
    except (OSError, ValueError) as exc:
        refuse([f"--file: cannot be read: {exc}"])
        raise SystemExit(BAD_USE) from exc
    if len(found) > MAX_VALUE_BYTES:
        refuse([f"--file: expected at most {MAX_VALUE_BYTES} bytes, got more"])
    return found


def _header(text: str) -> Header:
    name, equals, value = text.partition("=")
    if not name or not equals or not name.isprintable():
        refuse([f"--header: expected NAME=VALUE with a printable name, got {text!r}"])
    return name, os.fsencode(value)


def as_text(found: dict[str, Any]) -> str:
    """Return it for people: a line each, without control characters that a terminal would obey."""
    lines = [f"fate: {found['fate']}" + (f" ({found['reason']})" if found["reason"] else "")]
    for task in found["tasks"]:
        lines.append(
            f"task {task['task_id']} attempt {task['attempt']}: exit code {task['exit_code']}, "
            f"{task['duration_ms']:.1f} ms: {' '.join(task['args'])}"
        )
        lines += [f"  {name}: {task[name]!r}" for name in ("stdout", "stderr") if task[name]]
    for payload in found["payloads"]:
        lines.append(f"to sink {payload['sink']} ({payload['kind']}): {payload['fields']}")
    for letter in found["letters"]:
        lines.append(f"dead letter: {letter['drakkar-stage']}: {letter['drakkar-reason']}")
    traces = [letter.get("drakkar-traceback", "") for letter in found["letters"]]
    blocks = [textwrap.indent(printable_block(trace), "  ") for trace in traces if trace]
    return "\n".join([*map(printable, lines), *blocks])
