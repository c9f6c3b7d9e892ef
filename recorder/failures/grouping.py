"""Finds the group of each failed attempt and each dead letter, where its row is made."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from domain.events import DeadLettered, Event, TaskFailed
from domain.failure import Stage
from domain.fingerprint import Fingerprint, of_letter, of_many, of_task
from recorder.rows import Row, clean

SPAN_SECONDS = 300
"""Time that failures are counted by."""
MOST_GROUPS = 500
"""Groups that one run makes in a day; what fails in yet another way goes into one of its kind."""
MOST_TASKS = 20_000
"""Failed tasks that are remembered until their letter."""
DAY_SECONDS = 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class Grouped:
    """Group of a failure as its row carries it. ``failures`` is 0 for a letter whose failed
    attempts were counted by themselves."""

    group: str
    kind: str
    title: str
    failures: int
    letters: int
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class _Failed:
    """A task's last failure."""

    found: Fingerprint
    labels: Mapping[str, str]


class Shed:
    """Failures that could not be kept, counted by group and five minutes; labels and samples are
    lost with them. For one thread."""

    def __init__(self) -> None:
        self._found: dict[tuple[str, float], dict[str, Any]] = {}

    def add(self, row: Row) -> None:
        """Count the row's failure, if it is one, and those that it carries of others."""
        for shed in row.get("failure_groups", ()):
            self._count(shed, shed["at"])
        if "failure_group" in row:
            self._count(row["failure_group"], row["ts"].timestamp())

    def _count(self, seen: Mapping[str, Any], at: float) -> None:
        known = self._found.setdefault(
            (seen["group"], at // SPAN_SECONDS),
            {**seen, "labels": {}, "failures": 0, "letters": 0, "at": at},
        )
        known["failures"] += seen["failures"]
        known["letters"] += seen["letters"]
        known["at"] = max(known["at"], at)

    def carried(self) -> list[dict[str, Any]]:
        """Return all of it as a row carries it: the fields of ``Grouped``, and ``at`` in UTC epoch
        seconds."""
        return list(self._found.values())


class Grouping:
    """Groups of one run. For one thread.

    A letter of a task belongs to the group of the task's last failure.
    """

    def __init__(self, cluster: str) -> None:
        self._cluster = cluster
        self._tasks: dict[str, _Failed] = {}
        self._known: set[str] = set()
        self._day = 0

    def mark(self, event: Event, row: Row) -> None:
        """Have the row of a failure or a letter carry its group, and its data name it."""
        match event:
            case TaskFailed():
                grouped = self._of_task(event)
            case DeadLettered():
                grouped = self._of_letter(event)
            case _:
                return
        row["failure_group"] = asdict(grouped)
        rest = row["data"][1:]
        row["data"] = f'{{"group":"{grouped.group}"{"" if rest == "}" else ","}{rest}'

    def _of_task(self, event: TaskFailed) -> Grouped:
        kind = str(event.failure)
        found = self._bounded(
            event,
            kind,
            of_task(
                self._cluster,
                kind,
                exit_code=event.exit_code,
                detail=event.detail,
                stderr=event.stderr,
            ),
        )
        self._tasks.pop(event.task_id, None)
        self._tasks[event.task_id] = _Failed(found, event.labels)
        if len(self._tasks) > MOST_TASKS:
            del self._tasks[next(iter(self._tasks))]
        return _grouped(found, kind, event.labels, failures=1)

    def _of_letter(self, event: DeadLettered) -> Grouped:
        kind, stage = str(event.failure), str(event.stage)
        failed = self._tasks.get(event.task_id or "")
        if stage == Stage.TASK and failed is not None:
            return _grouped(failed.found, kind, failed.labels, letters=1)
        found = of_letter(
            self._cluster,
            stage,
            kind,
            reason=event.reason,
            traceback=event.traceback,
            sink=event.sink or "",
        )
        found = self._bounded(event, kind, found)
        labels = failed.labels if failed is not None else {}
        return _grouped(found, kind, labels, failures=int(stage != Stage.TASK), letters=1)

    def _bounded(self, event: Event, kind: str, found: Fingerprint) -> Fingerprint:
        day = int(event.at // DAY_SECONDS)
        if day != self._day:
            self._day, self._known = day, set()
        if found.id not in self._known and len(self._known) >= MOST_GROUPS:
            return of_many(self._cluster, kind)
        self._known.add(found.id)
        return found


def _grouped(
    found: Fingerprint,
    kind: str,
    labels: Mapping[str, str],
    *,
    failures: int = 0,
    letters: int = 0,
) -> Grouped:
    return Grouped(
        group=found.id,
        kind=kind,
        title=clean(found.title),
        failures=failures,
        letters=letters,
        labels=clean(dict(labels)),
    )
