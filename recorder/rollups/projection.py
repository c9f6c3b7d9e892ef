"""Adds what rows carry to the rollups, in the transaction that stores the rows.

Minutes, hours and days are added to alike, each batch once: so an hour is whole as soon as its
events are stored, however late these come, and nothing has to be folded later
(docs/decisions/0036-rollups-with-the-events.md).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson
from django.db import connections, router

from recorder.models import Rollup, RollupSource, Run
from recorder.rollups.sums import DAY, HOUR, MINUTE, Cell, Sums
from recorder.rows import Row, clean, to_json
from recorder.runs import RunDescription

NO_RUN = UUID(int=0)
"""Run of an hour and of a day, which are of all runs of their source."""
SHORT, LONG = 32, 255
"""Characters of the parts of a key, as the columns have them."""


def project_rollups(run: RunDescription, rows: Sequence[Row]) -> None:
    """Add what the rows carry (``recorder.writer.Project``). Raises DatabaseError."""
    of_others = [row for row in rows if "sums" in row and _of_run(row)]
    own = [row for row in rows if row not in of_others] if of_others else rows
    sums = Sums()
    sums.add_rows(own)
    _store(sums, run.id, run)
    for row in of_others:
        ended = UUID(_of_run(row))
        sums = Sums()
        sums.add_rows([row])
        _store(sums, ended, Run.objects.filter(id=ended).first() or run)


def _of_run(row: Row) -> str:
    """Return the ended run whose events are accounted for; empty: the run's own."""
    if row["kind"] != "recorder_shed":
        return ""
    return str(orjson.loads(row["data"]).get("of_run") or "")


def _store(sums: Sums, run_id: UUID, run: RunDescription | Run) -> None:
    if not sums:
        return
    hours = sums.rounded(HOUR)
    source = source_of(run)
    cells = [
        cell
        for step, owner, each in (
            (MINUTE, run_id, sums),
            (HOUR, NO_RUN, hours),
            (DAY, NO_RUN, hours.rounded(DAY)),
        )
        for cell in _plain(step, owner, source, each)
    ]
    with connections[router.db_for_write(Rollup)].cursor() as cursor:
        cursor.execute(UPSERT, [to_json(cells)])


def source_of(run: RunDescription | Run) -> int:
    """Return the id of the source that a run's events come from. Raises DatabaseError."""
    names = ("cluster", "worker", "host", "handler_version", "program_version")
    where = {name: clean(getattr(run, name)) for name in names}
    found = RollupSource.objects.filter(**where).values_list("id", flat=True)
    known = found.first()
    if known is None:
        RollupSource.objects.bulk_create([RollupSource(**where)], ignore_conflicts=True)
        known = found.get()
    return int(known)


def _plain(step: int, run_id: UUID, source: int, sums: Sums) -> list[dict[str, Any]]:
    """Return the cells as the statement takes them, in the order in which rows are locked."""
    bounded: dict[tuple[Any, ...], Cell] = {}
    for (start, subject, outcome, failure, sink, label, value), cell in sums.cells.items():
        key = (
            start, subject, clean(outcome)[:SHORT], clean(failure)[:SHORT], clean(sink)[:LONG],
            clean(label)[:LONG], clean(value)[:LONG],
        )  # fmt: skip
        if key in bounded:  # two that are told apart only by what a column does not hold
            bounded[key].add(cell)
        else:
            bounded[key] = cell
    names = ("start", "subject", "outcome", "failure", "sink", "label", "value")
    return [
        {
            "step": step,
            "run": str(run_id),
            "source": source,
            **dict(zip(names, key, strict=True)),
            "count": cell.count,
            "duration_us": cell.duration_us,
            "wait_us": cell.wait_us,
            "cpu_us": cell.cpu_us,
            "peak_rss_bytes": cell.peak_rss_bytes,
            "output_bytes": cell.output_bytes,
            "durations": _counts(cell.durations),
            "waits": _counts(cell.waits),
        }
        for key, cell in sorted(bounded.items(), key=lambda item: item[0])
    ]


def _counts(buckets: dict[int, int]) -> list[int]:
    counts = [0] * (max(buckets, default=-1) + 1)
    for bucket, count in buckets.items():
        counts[bucket] = count
    return counts


_FIELDS = [field for field in Rollup._meta.concrete_fields if not field.primary_key]
_NAMES = ", ".join(f'"{field.column}"' for field in _FIELDS)
_TYPES = {"UUIDField": "uuid", "CharField": "text", "IntegerField": "int", "ArrayField": "int[]"}
_TYPED = ", ".join(
    f'"{field.column}" {_TYPES.get(type(field).__name__, "bigint")}' for field in _FIELDS
)
_ONCE = ", ".join(f'"{name}"' for name in Rollup._meta.constraints[0].fields)  # type: ignore[attr-defined]
_SUMMED = ("count", "duration_us", "wait_us", "output_bytes")
_COUNTED = ("durations", "waits")
_ADDED = [
    *(f'"{name}" = kept."{name}" + excluded."{name}"' for name in _SUMMED),
    *(
        f"{name} = (SELECT coalesce(array_agg(coalesce(a, 0) + coalesce(b, 0) ORDER BY n), '{{}}')"  # noqa: S608
        f" FROM unnest(kept.{name}, excluded.{name}) WITH ORDINALITY AS each(a, b, n))"
        for name in _COUNTED
    ),
    "cpu_us = coalesce(kept.cpu_us + excluded.cpu_us, kept.cpu_us, excluded.cpu_us)",
    "peak_rss_bytes = greatest(kept.peak_rss_bytes, excluded.peak_rss_bytes)",
]
UPSERT = (
    f"INSERT INTO recorder_rollup AS kept ({_NAMES}) SELECT {_NAMES} "  # noqa: S608 - own names
    f"FROM json_to_recordset(%s::json) AS told({_TYPED}) ON CONFLICT ({_ONCE}) "
    f"DO UPDATE SET {', '.join(_ADDED)}"
)
