"""Counts the groups of failures, in the transaction that stores their events.

The rows of ``FailureCount`` are each one run's; a group's row is shared by all runs, and each
transaction locks those that it counts in the order of their fingerprints, so two never wait for one
another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from recorder.databases import history
from recorder.failures.grouping import SPAN_SECONDS, Grouped
from recorder.models import FailureCount
from recorder.rows import Row
from recorder.runs import RunDescription

MOST_NAMES, MOST_VALUES = 8, 20
"""Labels, and values of each, that are counted by themselves; the rest is ``OTHER``."""
OTHER = ""
MOST_SAMPLES = 5
"""Of a group in a run in five minutes."""
_UPSERT = """
INSERT INTO recorder_failuregroup AS known (
    fingerprint, cluster, kind, title, first_seen, last_seen, count, letters, state, owner, note,
    changed_by)
VALUES (%s, %s, %s, %s, %s, %s, %s, %s, 'open', '', '', '')
ON CONFLICT (fingerprint) DO UPDATE SET
    count = known.count + excluded.count,
    letters = known.letters + excluded.letters,
    first_seen = least(known.first_seen, excluded.first_seen),
    last_seen = greatest(known.last_seen, excluded.last_seen),
    state = CASE WHEN {is_back} OR {is_over} THEN 'open' ELSE known.state END,
    came_back_at = CASE WHEN {is_back} THEN excluded.last_seen ELSE known.came_back_at END
""".format(
    is_back="(known.state = 'resolved' AND excluded.last_seen > known.resolved_at)",
    is_over="(known.state = 'ignored' AND (excluded.last_seen > known.ignored_until "
    "OR known.count + excluded.count >= known.ignored_count))",
)


@dataclass(slots=True)
class Counted:
    """Failures of a group, to be added to what is stored."""

    count: int = 0
    letters: int = 0
    labels: dict[str, dict[str, int]] = field(default_factory=dict)
    samples: list[list[Any]] = field(default_factory=list)

    def add_labels(self, more: Mapping[str, Mapping[str, int]]) -> None:
        """Add counts by name and value; past the bounds they go to ``OTHER``."""
        for name, values in more.items():
            if name not in self.labels and len(self.labels) >= MOST_NAMES:
                continue
            mine = self.labels.setdefault(name, {})
            for value, count in values.items():
                kept = value if value in mine or len(mine) < MOST_VALUES else OTHER
                mine[kept] = mine.get(kept, 0) + count


@dataclass(slots=True)
class _Group:
    """What a batch adds to a group."""

    kind: str
    title: str
    first: datetime
    last: datetime
    spans: dict[datetime, Counted] = field(default_factory=dict)


def project_failures(run: RunDescription, rows: Sequence[Row]) -> None:
    """Count what the rows carry (``recorder.writer.Project``). Raises DatabaseError, and TypeError
    for what another release's spool holds."""
    groups: dict[str, _Group] = {}
    for row in rows:
        if "failure_group" in row:
            _take(groups, row["ts"], Grouped(**row["failure_group"]), [_sample(row)])
        for shed in row.get("failure_groups", ()):
            seen = {name: value for name, value in shed.items() if name != "at"}
            _take(groups, datetime.fromtimestamp(shed["at"], UTC), Grouped(**seen), [])
    if groups:
        _store_groups(run.cluster, groups)
        _store_counts(run.id, groups)


def _take(
    groups: dict[str, _Group], at: datetime, seen: Grouped, samples: Sequence[list[Any]]
) -> None:
    group = groups.setdefault(seen.group, _Group(seen.kind, seen.title, at, at))
    group.first, group.last = min(group.first, at), max(group.last, at)
    counted = group.spans.setdefault(span_of(at), Counted())
    counted.count += seen.failures
    counted.letters += seen.letters
    if seen.failures:
        counted.add_labels({name: {value: 1} for name, value in seen.labels.items()})
    counted.samples = [*counted.samples, *samples][-MOST_SAMPLES:]


def _sample(row: Row) -> list[Any]:
    """Time, kind and place of an event: what a page needs to lead to it."""
    place = (row["topic"], row["partition"], row["offset"], row.get("task_id"), row.get("attempt"))
    return [row["ts"].isoformat(), row["kind"], *place]


def span_of(at: datetime) -> datetime:
    """Return the start of the five minutes of a time."""
    return datetime.fromtimestamp(at.timestamp() // SPAN_SECONDS * SPAN_SECONDS, UTC)


def _store_groups(cluster: str, groups: Mapping[str, _Group]) -> None:
    with history().cursor() as cursor:
        for name in sorted(groups):
            group = groups[name]
            spans = group.spans.values()
            counts = (sum(each.count for each in spans), sum(each.letters for each in spans))
            cursor.execute(
                _UPSERT,
                [name, cluster, group.kind, group.title, group.first, group.last, *counts],
            )


def _store_counts(run: UUID, groups: Mapping[str, _Group]) -> None:
    known = {
        (row.group, row.start): row
        for row in FailureCount.objects.filter(
            run=run,
            group__in=list(groups),
            start__in={start for group in groups.values() for start in group.spans},
        )
    }
    made: list[FailureCount] = []
    for name, group in groups.items():
        for start, more in group.spans.items():
            row = known.get((name, start)) or FailureCount(group=name, run=run, start=start)
            _add(row, more)
            made.append(row)
    _write(made)


def _add(row: FailureCount, more: Counted) -> None:
    counted = Counted(labels=row.labels)
    counted.add_labels(more.labels)
    row.count += more.count
    row.letters += more.letters
    row.labels = counted.labels
    row.samples = sorted([*row.samples, *more.samples], key=lambda each: each[0])[-MOST_SAMPLES:]


def _write(rows: Iterable[FailureCount]) -> None:
    FailureCount.objects.bulk_create(
        rows,
        update_conflicts=True,
        unique_fields=["group", "start", "run"],
        update_fields=["count", "letters", "labels", "samples"],
    )
