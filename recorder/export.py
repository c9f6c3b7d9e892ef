"""A downloadable dump of runs in constant memory.

Each run is read up to the ``recorded_seq`` it had at the start, in short keyset steps over
``(run, seq)``: no transaction stays open, nothing is read twice, and what is recorded meanwhile is
left for the next export. Several runs are one file: ``(run, seq)`` names an event for ever.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from secrets import token_hex
from typing import Any
from uuid import UUID

from domain.masking import mask_args
from recorder.formats import BYTES_COLUMNS, COLUMNS, Row, Writer, suffix_of, writer_of
from recorder.message_row import MESSAGE, expand
from recorder.models import Event, Run
from recorder.reading import Wanted, runs_between

FIRST_STEP_ROWS = 200
MAX_STEP_ROWS = 2000
STEP_BYTES = 4 * 1024 * 1024
EVENT_BYTES = 256
"""Of an event without output, at the least: a row may stand for many."""
SEQ, KIND, ARGS = COLUMNS.index("seq"), COLUMNS.index("kind"), COLUMNS.index("args")
_VALUES = attrgetter(*COLUMNS)
OUTPUTS = tuple(COLUMNS.index(name) for name in sorted(BYTES_COLUMNS))

Progress = Callable[[int, int], None]
"""Called after each step with the events passed and the events of all runs, filters aside."""


class ExportTooLarge(Exception):
    """The file grew past its bound; what was written is removed."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(
            f"the file is larger than {max_bytes:,} bytes: narrow it by --since, --kind or runs"
        )


class NothingToExport(Exception):
    """No run fits the selection."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection(Wanted):
    """Which events of which runs."""

    cluster: str = ""
    worker: str = ""
    runs: Sequence[UUID] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Summary:
    """What was written."""

    runs: int
    events: int
    size_bytes: int
    by_kind: dict[str, int] = field(default_factory=dict)


def runs_of(selection: Selection) -> list[Run]:
    """Return the runs that may have told something in the time, oldest first, each with its
    ``recorded_seq`` of this moment: the bound."""
    runs = runs_between(selection.since, selection.until)
    runs = runs.defer("environment").order_by("started_at", "id")
    if selection.cluster:
        runs = runs.filter(cluster=selection.cluster)
    if selection.worker:
        runs = runs.filter(worker=selection.worker)
    if selection.runs:
        runs = runs.filter(id__in=selection.runs)
    return list(runs)


def steps(run: Run, selection: Selection) -> Iterator[tuple[int, list[Row]]]:
    """A run's rows in steps of bounded bytes, each with the ``seq`` reached."""
    within = Event.objects.filter(run=run.id, seq__lte=run.recorded_seq)
    rows = selection.holding(within).values_list("id", *COLUMNS)
    reached, size = 0, FIRST_STEP_ROWS
    while reached < run.recorded_seq:
        found = list(rows.filter(seq__gt=reached).order_by("seq")[:size])
        reached = found[-1][1 + SEQ] if len(found) == size else run.recorded_seq
        if found:
            steps = [_masked(event) for row in found for event in _events(row, selection)]
            weight = sum(len(row[each] or b"") for row in steps for each in OUTPUTS)
            size = _next_size(size, weight + EVENT_BYTES * len(steps))
            yield reached, steps
    if run.recorded_seq:
        yield run.recorded_seq, []


def _events(row: tuple[Any, ...], selection: Selection) -> Iterator[tuple[Any, ...]]:
    """The events of a row that fit, as ``COLUMNS``."""
    _, *values = row
    if values[KIND] != MESSAGE:
        yield tuple(values)
    else:
        events = expand(Event.from_db(None, ["id", *COLUMNS], row))
        yield from map(_VALUES, filter(selection.fits, events))


def _next_size(size: int, weight: int) -> int:
    if weight > STEP_BYTES:
        return max(1, size // 2)
    return min(MAX_STEP_ROWS, size * 2) if weight < STEP_BYTES // 4 else size


def _masked(row: tuple[Any, ...]) -> Row:
    if not row[ARGS]:
        return row
    return (*row[:ARGS], mask_args([str(each) for each in row[ARGS]]), *row[ARGS + 1 :])


def export(
    selection: Selection,
    path: Path,
    format_name: str,
    *,
    progress: Progress = lambda done, total: None,
    max_bytes: int | None = None,
) -> Summary:
    """Write the selection to ``path``, whole or not at all: it is written beside it first. A name
    that ends in ``.gz`` is packed.

    Raises BadFormat, NothingToExport, ExportTooLarge, OSError, DatabaseError; what ``progress``
    raises ends the export too.
    """
    suffix = suffix_of(format_name, path.name)
    runs = runs_of(selection)
    if not runs:
        raise NothingToExport("no run fits: see --cluster, --worker, --run and --until")
    # A name of its own: who lost the job while it was stopped writes into nobody else's file.
    part = path.with_name(f"{path.name}.{token_hex(4)}.part")
    writer = writer_of(format_name, part, suffix)
    try:
        counts = _write(writer, runs, selection, part, progress, max_bytes)
        writer.close()
        _check_size(part, max_bytes)
    except BaseException:
        writer.abandon()
        part.unlink(missing_ok=True)
        raise
    part.replace(path)
    return Summary(
        runs=len(runs),
        events=sum(counts.values()),
        size_bytes=path.stat().st_size,
        by_kind=dict(sorted(counts.items())),
    )


def _write(
    writer: Writer,
    runs: Sequence[Run],
    selection: Selection,
    part: Path,
    progress: Progress,
    max_bytes: int | None,
) -> Counter[str]:
    counts: Counter[str] = Counter()
    total, passed = sum(run.recorded_seq for run in runs), 0
    for run in runs:
        writer.add_run(run)
        for reached, rows in steps(run, selection):
            writer.add(rows)
            counts.update(row[KIND] for row in rows)
            _check_size(part, max_bytes)
            progress(passed + reached, total)
        passed += run.recorded_seq
    return counts


def _check_size(part: Path, max_bytes: int | None) -> None:
    if max_bytes is not None and part.stat().st_size > max_bytes:
        raise ExportTooLarge(max_bytes)
