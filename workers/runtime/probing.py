"""Probes that operators ask of a live worker: bounded in time and in what is told of them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from math import isfinite
from typing import Any

from domain.events import TaskCompleted, TaskFailed
from domain.masking import mask_args
from domain.message import Message
from sinks.letter import encode_payload
from workers.config import ClusterConfig
from workers.control import Answer, ProbeArguments
from workers.executor.base import ExecutorUnavailable
from workers.runtime.build import load_handler
from workers.runtime.probe import ProbeReport, ProbeStopped, ProbeTimedOut, probe

PROBE_SECONDS = 60.0
TEXT_CHARACTERS = 8192
LIST_ITEMS = 50
LEVELS = 40
LONGEST_BITS = 1024
RESULT_BYTES = 1024 * 1024


class Probing:
    """Runs a message with a handler of its own, beside the worker's; see
    ``workers.runtime.probe``."""

    def __init__(self, config: ClusterConfig, cluster: str, environ: Mapping[str, str]) -> None:
        executor = config.executor.model_copy(update={"spawners": 1})
        self._config = config.model_copy(update={"executor": executor})
        self._cluster = cluster
        self._environ = environ

    async def __call__(self, asked: ProbeArguments) -> Answer:
        """Return what the message would do; not done when it gets no fate within a minute."""
        record: Message[None] = Message(
            topic=self._config.kafka.topic,
            partition=asked.partition,
            offset=asked.offset,
            key=asked.key,
            value=asked.value,
            headers=list(asked.headers),
            timestamp=asked.timestamp,
            payload=None,
        )
        try:
            report = await probe(
                self._config,
                self._cluster,
                load_handler(self._config),
                record,
                environ=self._environ,
                timeout_seconds=PROBE_SECONDS,
            )
        except (ProbeTimedOut, ProbeStopped, ExecutorUnavailable) as exc:
            return Answer(is_done=False, detail=str(exc))
        return Answer(is_done=True, detail=f"fate: {report.fate}", result=_told(report))


def _told(report: ProbeReport) -> dict[str, Any]:
    found: dict[str, Any] = bounded(document(report))
    size = len(json.dumps(found))
    if size <= RESULT_BYTES:
        return found
    left_out = f"{size} bytes of tasks and payloads are too many to show: use probe_message"
    return {"fate": found["fate"], "reason": found["reason"], "left_out": left_out}


def _text(output: bytes | None) -> str | None:
    return None if output is None else output.decode("utf-8", "replace")


def document(report: ProbeReport) -> dict[str, Any]:
    """Return the report as JSON; secrets in command lines are masked."""
    return {
        "fate": report.fate,
        "reason": report.reason,
        "tasks": [
            {
                "task_id": event.task_id,
                "attempt": event.attempt,
                "args": mask_args(event.args),
                "exit_code": event.exit_code,
                "duration_ms": round(event.duration_ms, 3),
                "stdout": _text(event.stdout),
                "stderr": _text(event.stderr),
                "failure": event.failure if isinstance(event, TaskFailed) else None,
            }
            for event in report.events
            if isinstance(event, (TaskCompleted, TaskFailed))
        ],
        "payloads": [
            json.loads(encode_payload(delivery.payload)) | {"delivery_id": delivery.delivery_id}
            for delivery in report.deliveries
        ],
        "letters": [
            {name: (value or b"").decode("utf-8", "replace") for name, value in letter.items()}
            for letter in report.letters
        ],
        "events": [event.kind for event in report.events],
    }


def bounded(value: Any, levels: int = LEVELS) -> Any:
    """Return it with texts of at most 8,192 characters, lists of at most 50 items and 40 levels;
    what was cut off says so. Without NUL, lone surrogates, NaN, Infinity and numbers beyond 1,024
    bits, which Postgres does not take."""
    if isinstance(value, str):
        return _sound(value)
    if isinstance(value, (Mapping, list, tuple)) and not levels:
        return "... and deeper levels"
    if isinstance(value, Mapping):
        names = list(value)[:LIST_ITEMS]
        found = {_sound(str(name)): bounded(value[name], levels - 1) for name in names}
        return found if len(value) <= LIST_ITEMS else found | {"...": f"{len(value)} in all"}
    if isinstance(value, (list, tuple)):
        more = len(value) - LIST_ITEMS
        shown = [bounded(item, levels - 1) for item in value[:LIST_ITEMS]]
        return shown if more <= 0 else [*shown, f"... and {more} more"]
    if isinstance(value, float) and not isfinite(value):
        return str(value)
    if isinstance(value, int) and value.bit_length() > LONGEST_BITS:
        return f"a number of {value.bit_length():,} bits"
    return value


def _sound(value: str) -> str:
    text = value.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    more = len(text) - TEXT_CHARACTERS
    return text if more <= 0 else f"{text[:TEXT_CHARACTERS]}... and {more} characters more"
