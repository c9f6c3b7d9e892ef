"""``/task/<cluster>/<id>``: one task, why it waits, its executions, output and events."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from typing import Any

from django.conf import settings
from django.db.models.functions import Now
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render

from domain.text_bounds import shortened
from recorder.failures.reading import groups_of
from recorder.models import RunState
from recorder.pages.trace import url_of
from recorder.spans import note_of
from recorder.task_detail import OPEN, TaskDetail, task_detail, text_of
from recorder.trace import Place
from sinks.models import DeadLetter
from workers.control_plane.task_waits import held_back_by

PAGE_OUTPUT_BYTES = 512 * 1024
MOST_COMMAND = 16 * 1024
MOST_LETTERS = 5
STILL_LIVE = "recorded when the attempt ends; until then it is shown live above"
NO_OUTPUT = "not stored: the task ended well faster than recorder.output_min_duration_ms"


def task(request: HttpRequest, cluster: str, task_id: str) -> HttpResponse:
    """Return the task of a cluster; 404 with the reason where no event names it and no worker
    says that it waits."""
    found = task_detail(cluster, task_id, request.GET.get("topic", ""))
    is_open = found is None or found.status in OPEN
    held_back = held_back_by(cluster, task_id) if is_open else None
    context: dict[str, Any] = {
        "cluster_name": cluster, "task_id": task_id, "task": found, "held_back": held_back
    }  # fmt: skip
    if found is None:
        return render(request, "task.html", context, status=200 if held_back else 404)
    is_probed = _is_source(cluster, found.topic)
    context |= {
        "executions": list(_executions(found)),
        "sources": [_source(found, offset, is_probed) for offset in found.source_offsets],
        "events": [
            {"event": row, "worker": found.names.get(row.run, "unknown"), "note": note_of(row)}
            for row in found.events
        ],
        "letters": _letters(found),
        "groups": groups_of(found.events),
        "is_open": is_open,
        "age": _age(found) if is_open else None,
    }
    return render(request, "task.html", context)


def _age(found: TaskDetail) -> float | None:
    """Seconds since the last beat of the run that told the last event; None: it never beat."""
    beats = RunState.objects.filter(run=found.events[-1].run).annotate(now=Now())
    beat = beats.values("now", "beat_at").first()
    return None if beat is None else max(0.0, (beat["now"] - beat["beat_at"]).total_seconds())


def _letters(found: TaskDetail) -> list[DeadLetter]:
    """Return the letters that the task, or its message as a whole, became; the newest first."""
    place = found.place
    letters = DeadLetter.objects.filter(
        cluster=found.cluster,
        topic=place.topic,
        partition=place.partition,
        offset=place.offset,
        task_id__in=("", found.task_id),
    )
    return list(
        letters.only("letter_topic", "letter_partition", "letter_offset", "state").order_by("-at")[
            :MOST_LETTERS
        ]
    )


def _is_source(cluster: str, topic: str) -> bool:
    """Whether the cluster is configured to read that topic: a probe looks for messages there."""
    config = settings.DRAKKAR.clusters.get(cluster) if settings.DRAKKAR else None
    return config is not None and config.kafka.topic == topic


def _source(found: TaskDetail, offset: int, is_probed: bool) -> dict[str, str]:
    """A message of the task: its place, its trace, and its place for a probe, if one finds it."""
    place = Place(topic=found.topic, partition=found.partition, offset=offset)
    named = f"{found.partition}:{offset}"
    return {"place": named, "trace": url_of(place), "probe": named if is_probed else ""}


def _executions(found: TaskDetail) -> Iterator[dict[str, Any]]:
    """Yield them, the newest first; output past a page's bound is left out, and says so."""
    left = PAGE_OUTPUT_BYTES
    for execution in reversed(found.executions):
        command = _command(found, execution.args)
        size = len(execution.stdout or b"") + len(execution.stderr or b"")
        yield {
            "is": execution,
            "command": shortened(command, MOST_COMMAND if left > 0 else MOST_COMMAND // 64),
            "outputs": [
                _output("stdout", execution.stdout, execution.stdout_size, execution.state),
                _output("stderr", execution.stderr, execution.stderr_size, execution.state),
            ]
            if size <= left
            else [_left_out(size)],
        }
        left -= size + len(command)


def _command(found: TaskDetail, args: Sequence[str]) -> str:
    """Return the command as a shell would take it; what is masked stands as ``***``."""
    settings = ["env", *(f"{name}={value}" for name, value in found.env.items())]
    words = [*(settings if found.env else []), *([found.program] if found.program else []), *args]
    entered = f"cd {shlex.quote(found.cwd)} && " if found.cwd else ""
    return entered + shlex.join(words)


def _left_out(size: int) -> dict[str, Any]:
    why = "too much for this page beside the newer attempts': the API has it"
    return {"name": "stdout, stderr", "text": "", "why": why, "size": size, "stored": None}


def _output(name: str, output: bytes | None, size: int | None, state: str) -> dict[str, Any]:
    why = ""
    if output is None:
        why = {"running": STILL_LIVE, "completed": NO_OUTPUT}.get(state, "none was recorded")
    elif not output:
        why = "empty"
    cut = output is not None and size is not None and size > len(output)
    stored = len(output) if output is not None else 0
    return {
        "name": name,
        "text": text_of(output) or "",
        "why": why,
        "size": size,
        "stored": stored if cut else None,
    }
