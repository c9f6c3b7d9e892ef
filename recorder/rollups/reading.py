"""Series and totals out of the rollups: for charts, tables and facets.

    series(scope, measure, since, until, step_seconds, by)  -> Series: a line a value of ``by``
    totals(scope, since, until, by)                         -> list[Total]: a row a value of ``by``

Up to a day is read from minutes, beyond it from hours, far beyond from days. A count is 0 where
nothing happened; a quantile, mean or gauge is None there. Times are aware; a step begins at a
multiple of its seconds in UTC, so the first one may begin before ``since``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any
from uuid import UUID

from django.db import connections, router

from domain.log_buckets import BUCKETS, quantile_ms
from recorder.models import Gauge, Rollup, RollupSource
from recorder.rollups.sums import DAY, HOUR, MINUTE, Subject

MOST_POINTS = 300
"""Points of a line that ``step_for`` aims at, at most."""
STEPS = (60, 120, 300, 600, 900, 1800, HOUR, 2 * HOUR, 4 * HOUR, 8 * HOUR, DAY, 2 * DAY, 7 * DAY)
MINUTES_REACH = DAY
"""Longest range in seconds that is read from minutes."""
HOURS_REACH = 14 * DAY
"""Longest range in seconds that is read from hours, unless the step asks for them."""
MOST_LINES = 50
"""Values of a dimension that are returned; those that counted most."""
LABEL = "label:"
"""Beginning of a dimension that is a label: ``label:tenant``."""


class Measure(StrEnum):
    """What is charted. Those in ms are quantiles; those of gauges have least and most."""

    INPUT = "input"
    MESSAGES = "messages"
    TASKS = "tasks"
    FAILURES = "failures"
    RETRIES = "retries"
    DELIVERIES = "deliveries"
    DELIVERY_FAILURES = "delivery_failures"
    LETTERS = "letters"
    DURATION_MS = "duration_ms"
    QUEUE_MS = "queue_ms"
    LATENCY_MS = "latency_ms"
    DELIVERY_MS = "delivery_ms"
    CPU_SECONDS = "cpu_seconds"
    PEAK_RSS_BYTES = "peak_rss_bytes"
    OUTPUT_BYTES = "output_bytes"
    LAG = "lag"
    SLOTS = "slots"
    SLOTS_BUSY = "slots_busy"
    WAITING = "waiting"
    PARTITIONS = "partitions"


class Dimension(StrEnum):
    """What lines and rows are parted by, besides ``label:<name>``."""

    CLUSTER = "cluster"
    WORKER = "worker"
    HOST = "host"
    HANDLER_VERSION = "handler_version"
    PROGRAM_VERSION = "program_version"
    SINK = "sink"
    FAILURE = "failure"
    OUTCOME = "outcome"


OF_SOURCE = frozenset(
    {
        Dimension.CLUSTER,
        Dimension.WORKER,
        Dimension.HOST,
        Dimension.HANDLER_VERSION,
        Dimension.PROGRAM_VERSION,
    }
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """What is looked at; empty is all. ``label`` is a name and value: tasks only, and only names
    that ``recorder.rollup_labels`` lists. ``run`` is known of minutes only."""

    cluster: str = ""
    worker: str = ""
    host: str = ""
    sink: str = ""
    label: tuple[str, str] | None = None
    run: UUID | None = None
    handler_version: str = ""
    program_version: str = ""
    failure: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Values of one value of the dimension, one a step.

    ``values`` are counts, sums, or means of what is measured. Quantiles are there for measures in
    ms (``domain.log_buckets`` says how exact), ``least`` and ``most`` for gauges; else empty.
    """

    value: str
    total: float
    values: tuple[float | None, ...]
    p50: tuple[float | None, ...] = ()
    p95: tuple[float | None, ...] = ()
    p99: tuple[float | None, ...] = ()
    least: tuple[float | None, ...] = ()
    most: tuple[float | None, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """Lines of a measure, those that counted most first; ``starts`` are UTC epoch seconds.

    ``values_left_out``: values of the dimension beyond the most that are returned.
    """

    measure: Measure
    step_seconds: int
    starts: tuple[int, ...]
    lines: tuple[Line, ...]
    values_left_out: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Total:
    """Sums of one value of a dimension; ``count`` are attempts of tasks, or payloads where it is
    parted by sink. None is unknown, or nothing was timed."""

    value: str
    count: int
    failures: int
    mean_ms: float | None
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None
    queue_p95_ms: float | None
    cpu_seconds: float | None
    peak_rss_bytes: int | None
    output_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Plan:
    """Rows that a measure is made of, and what of them is read."""

    subject: Subject
    outcome: str = ""
    sums: tuple[str, ...] = ("sum(count)",)
    histogram: str = ""
    value: Callable[[Sequence[Any]], float | None] = lambda row: float(row[0])
    empty: float | None = 0.0
    is_most: bool = False


_GAUGES = frozenset(
    {Measure.LAG, Measure.SLOTS, Measure.SLOTS_BUSY, Measure.WAITING, Measure.PARTITIONS}
)
_PLANS = {
    Measure.INPUT: _Plan(subject=Subject.INPUT),
    Measure.MESSAGES: _Plan(subject=Subject.MESSAGE),
    Measure.TASKS: _Plan(subject=Subject.TASK),
    Measure.FAILURES: _Plan(subject=Subject.TASK, outcome="failed"),
    Measure.RETRIES: _Plan(subject=Subject.RETRY),
    Measure.DELIVERIES: _Plan(subject=Subject.DELIVERY, outcome="delivered"),
    Measure.DELIVERY_FAILURES: _Plan(subject=Subject.DELIVERY, outcome="failed"),
    Measure.LETTERS: _Plan(subject=Subject.LETTER),
    Measure.DURATION_MS: _Plan(
        subject=Subject.TASK, sums=("sum(duration_us)",), histogram="durations", empty=None
    ),
    Measure.QUEUE_MS: _Plan(
        subject=Subject.TASK, sums=("sum(wait_us)",), histogram="waits", empty=None
    ),
    Measure.LATENCY_MS: _Plan(
        subject=Subject.MESSAGE, sums=("sum(duration_us)",), histogram="durations", empty=None
    ),
    Measure.DELIVERY_MS: _Plan(
        subject=Subject.DELIVERY, outcome="delivered", sums=("sum(duration_us)",),
        histogram="durations", empty=None,
    ),
    Measure.CPU_SECONDS: _Plan(
        subject=Subject.TASK, sums=("sum(cpu_us)",), empty=None,
        value=lambda row: None if row[0] is None else float(row[0]) / 1e6,
    ),
    Measure.PEAK_RSS_BYTES: _Plan(
        subject=Subject.TASK, sums=("max(peak_rss_bytes)",), empty=None, is_most=True,
        value=lambda row: None if row[0] is None else float(row[0]),
    ),
    Measure.OUTPUT_BYTES: _Plan(subject=Subject.TASK, sums=("sum(output_bytes)",)),
}  # fmt: skip


def step_for(since: datetime, until: datetime) -> int:
    """Return the step in seconds that gives a chart of this range at most ``MOST_POINTS``."""
    seconds = until.timestamp() - since.timestamp()
    least = MINUTE if seconds <= MINUTES_REACH else HOUR
    return next((s for s in STEPS if s >= least and seconds / s <= MOST_POINTS), STEPS[-1])


def series(
    scope: Scope,
    measure: Measure,
    since: datetime,
    until: datetime,
    step_seconds: int = 0,
    by: str | None = None,
) -> Series:
    """Return the lines of a measure from ``since`` until before ``until``.

    ``step_seconds`` is at least what the range can be read by (0: ``step_for`` chooses). ``by`` is
    a Dimension, or ``label:<name>`` (tasks only); without it there is one line, of the value "".
    Raises DatabaseError, and ValueError for a dimension that is none.
    """
    step = step_seconds or step_for(since, until)
    step = _rounded(max(step, _least_step(since, until)))
    first = int(since.timestamp()) // step * step
    starts = tuple(range(first, max(first, _ceil(until)), step))[: 10 * MOST_POINTS]
    asked = _Asked(scope, starts[0] if starts else first, _ceil(until), step, by)
    if measure in _GAUGES:
        lines = _gauge_lines(asked, measure, starts)
    else:
        lines = _lines(asked, _PLANS[measure], starts)
    lines.sort(key=lambda line: (-line.total, line.value))
    return Series(
        measure=measure,
        step_seconds=step,
        starts=starts,
        lines=tuple(lines[:MOST_LINES]),
        values_left_out=max(0, len(lines) - MOST_LINES),
    )


def _ceil(moment: datetime) -> int:
    return int(-(-moment.timestamp() // 1))


def _least_step(since: datetime, until: datetime) -> int:
    return MINUTE if until.timestamp() - since.timestamp() <= MINUTES_REACH else HOUR


def _rounded(step: int) -> int:
    unit = level_of(step)
    return -(-step // unit) * unit


def level_of(step: int) -> int:
    """Return the span of the rows that steps of so many seconds are made of."""
    if step >= DAY and step % DAY == 0:
        return DAY
    return HOUR if step >= HOUR else MINUTE


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question to either table."""

    scope: Scope
    begin: int
    end: int
    step: int
    by: str | None
    level: int = field(default=0)

    @property
    def span(self) -> int:
        """Span of the rows that are read."""
        if self.scope.run is not None:
            return MINUTE
        return self.level or level_of(self.step)

    def sources(self) -> dict[int, str]:
        """Return the sources within the scope, each with its value of the dimension."""
        names = ("cluster", "worker", "host", "handler_version", "program_version")
        given = {name: getattr(self.scope, name) for name in names if getattr(self.scope, name)}
        part = self.by if self.by in OF_SOURCE else None
        rows = RollupSource.objects.filter(**given).values_list("id", part or "id")
        return {int(key): str(value) if part else "" for key, value in rows}

    def label(self) -> str:
        """Return the name of the label that this is parted by; empty: by none."""
        return (self.by or "").removeprefix(LABEL) if (self.by or "").startswith(LABEL) else ""

    def column(self) -> str:
        """Return what rows are parted by. Raises ValueError."""
        if self.by is None:
            return "''"
        if self.label():
            return "value"
        if self.by in OF_SOURCE:
            return "source"
        if self.by in (Dimension.SINK, Dimension.FAILURE, Dimension.OUTCOME):
            return str(self.by)
        raise ValueError(f"by: expected one of {', '.join(Dimension)} or {LABEL}<name>, got "
                         f"{self.by[:80]}")  # fmt: skip


def _where(asked: _Asked, plan: _Plan, sources: Iterable[int]) -> tuple[str, list[Any]] | None:
    """Return the condition and its parameters; None: rollups do not know what is asked for."""
    scope, subject = asked.scope, plan.subject
    conditions = ["step = %s", "start >= %s", "start < %s", "source = ANY(%s)"]
    values: list[Any] = [asked.span, asked.begin // asked.span * asked.span, asked.end]
    values.append(list(sources))
    name = asked.label() or (scope.label[0] if scope.label else "")
    if name:
        if subject is not Subject.TASK or (scope.label and scope.label[0] != name):
            return None
        subject = Subject.LABEL
        conditions.append("label = %s")
        values.append(name)
        if scope.label:
            conditions.append("value = %s")
            values.append(scope.label[1])
    if scope.sink:
        if subject not in (Subject.DELIVERY, Subject.LETTER):
            return None
        conditions.append("sink = %s")
        values.append(scope.sink)
    for column, value in (("outcome", plan.outcome), ("failure", scope.failure)):
        if value:
            conditions.append(f"{column} = %s")
            values.append(value)
    if scope.run is not None:
        conditions.append("run = %s")
        values.append(scope.run)
    conditions.append("subject = %s")
    values.append(subject.value)
    return " AND ".join(conditions), values


def _asked_rows(
    asked: _Asked, plan: _Plan, columns: Sequence[str], parts: str
) -> list[tuple[Any, ...]]:
    """Return (parts..., columns...) of the rows asked for, grouped by the parts."""
    sources = asked.sources()
    where = _where(asked, plan, sources) if sources else None
    if where is None:
        return []
    condition, values = where
    count = parts.count(",") + 1
    grouped = ", ".join(str(number + 1) for number in range(count))
    with connections[router.db_for_read(Rollup)].cursor() as cursor:
        cursor.execute(
            f"SELECT {parts}, {', '.join(columns)} FROM recorder_rollup "  # noqa: S608 - own names
            f"WHERE {condition} GROUP BY {grouped}",
            values,
        )
        found: list[tuple[Any, ...]] = cursor.fetchall()
    if asked.by not in OF_SOURCE:
        return found
    return [(sources[row[0]], *row[1:]) for row in found]


def _buckets(column: str) -> list[str]:
    return [f"sum({column}[{number + 1}])::bigint" for number in range(BUCKETS)]


def _lines(asked: _Asked, plan: _Plan, starts: Sequence[int]) -> list[Line]:
    columns = [*plan.sums, *(_buckets(plan.histogram) if plan.histogram else ())]
    step = f"start / {asked.step} * {asked.step}"
    by_value: dict[str, dict[int, list[Any]]] = {}
    for value, start, *figures in _asked_rows(asked, plan, columns, f"{asked.column()}, {step}"):
        steps = by_value.setdefault(str(value), {})
        known = steps.get(int(start))
        steps[int(start)] = figures if known is None else _joined(known, figures, plan)
    if asked.by is None and not by_value and plan.empty is not None and asked.sources():
        by_value[""] = {}
    return [_line(value, steps, plan, starts) for value, steps in by_value.items()]


def _joined(known: list[Any], more: list[Any], plan: _Plan) -> list[Any]:
    """Add what two sources of the same value have."""
    join: Callable[[Any, Any], Any] = max if plan.is_most else lambda a, b: a + b
    return [
        b if a is None else a if b is None else join(a, b) for a, b in zip(known, more, strict=True)
    ]


def _line(value: str, steps: dict[int, list[Any]], plan: _Plan, starts: Sequence[int]) -> Line:
    rows = [steps.get(start) for start in starts]
    if not plan.histogram:
        values = tuple(plan.empty if row is None else plan.value(row) for row in rows)
        told = [each for each in values if each is not None]
        total = max(told, default=0.0) if plan.is_most else sum(told)
        return Line(value=value, total=total, values=values)
    counts = [None if row is None else [int(n or 0) for n in row[1:]] for row in rows]
    return Line(
        value=value,
        total=float(sum(sum(each) for each in counts if each)),
        values=tuple(
            mean_ms(row[0], each) if row and each else None
            for row, each in zip(rows, counts, strict=True)
        ),
        **{
            name: tuple(None if each is None else quantile_ms(each, share) for each in counts)
            for name, share in (("p50", 0.5), ("p95", 0.95), ("p99", 0.99))
        },
    )


def mean_ms(total_us: Any, counts: Sequence[int]) -> float | None:
    """Return the mean in ms of what was timed; None: nothing was."""
    timed = sum(counts)
    return float(total_us) / 1000.0 / timed if timed else None


def _gauge_lines(asked: _Asked, measure: Measure, starts: Sequence[int]) -> list[Line]:
    """Return the lines of a gauge: what the sources of a value show adds up."""
    sources = asked.sources()
    if not sources or asked.scope.sink or asked.scope.label or asked.scope.failure:
        return []
    if asked.by is not None and asked.by not in OF_SOURCE:
        asked.column()
        return []
    by_value: dict[str, dict[int, tuple[float, float, float]]] = {}
    for source, start, mean, least, most in _gauge_rows(asked, measure, sources):
        steps = by_value.setdefault(sources[source], {})
        known = steps.get(start, (0.0, 0.0, 0.0))
        steps[start] = (known[0] + mean, known[1] + least, known[2] + most)
    lines = []
    for value, steps in by_value.items():
        found = [steps.get(start) for start in starts]
        columns = [tuple(None if row is None else row[n] for row in found) for n in range(3)]
        told = [each for each in columns[0] if each is not None]
        lines.append(
            Line(
                value=value,
                total=sum(told) / len(told) if told else 0.0,
                values=columns[0],
                least=columns[1],
                most=columns[2],
            )
        )
    return lines


def _gauge_rows(
    asked: _Asked, measure: Measure, sources: Iterable[int]
) -> list[tuple[int, int, float, float, float]]:
    """Return (source, step's start, mean, least, most) of each source and step: runs of a worker
    that was started anew within the step follow each other."""
    condition, values = "", []
    if asked.scope.run is not None:
        condition, values = " AND run = %s", [asked.scope.run]
    with connections[router.db_for_read(Gauge)].cursor() as cursor:
        cursor.execute(
            f"SELECT source, start / {asked.step} * {asked.step},"  # noqa: S608 - own names
            " sum(total) / sum(count), min(least), max(most) FROM recorder_gauge"
            " WHERE step = %s AND name = %s AND start >= %s AND start < %s"
            f" AND source = ANY(%s){condition} GROUP BY 1, 2",
            [asked.span, measure.value, asked.begin // asked.span * asked.span, asked.end,
             list(sources), *values],
        )  # fmt: skip
        found: list[tuple[int, int, float, float, float]] = cursor.fetchall()
    return found


def totals(
    scope: Scope, since: datetime, until: datetime, by: str, *, most: int = MOST_LINES
) -> list[Total]:
    """Return a row for each value of a dimension, those with the most failures first.

    Of tasks' attempts; of payloads where ``by`` is the sink, or the scope has one. The ends are
    taken to whole minutes up to a day, whole hours beyond, whole days beyond two weeks. Raises
    DatabaseError, and ValueError for a dimension that is none.
    """
    seconds = until.timestamp() - since.timestamp()
    level = DAY if seconds > HOURS_REACH else HOUR if seconds > MINUTES_REACH else MINUTE
    asked = _Asked(scope, int(since.timestamp()), _ceil(until), level, by, level)
    is_sink = by == Dimension.SINK or bool(scope.sink)
    plan = _Plan(subject=Subject.DELIVERY if is_sink else Subject.TASK)
    columns = [
        "sum(count)", "coalesce(sum(count) FILTER (WHERE outcome = 'failed'), 0)",
        "sum(duration_us)", "sum(cpu_us)", "sum(output_bytes)",
        *_buckets("durations"), *_buckets("waits"), "max(peak_rss_bytes)",
    ]  # fmt: skip
    by_value: dict[str, list[Any]] = {}
    for value, *figures in _asked_rows(asked, plan, columns, asked.column()):
        known = by_value.get(str(value))
        if known is None:
            by_value[str(value)] = figures
            continue
        peaks = [peak for peak in (known.pop(), figures.pop()) if peak is not None]
        by_value[str(value)] = [*_joined(known, figures, plan), max(peaks, default=None)]
    found = [_total(value, figures) for value, figures in by_value.items()]
    found.sort(key=lambda each: (-each.failures, -each.count, each.value))
    return found[:most]


def _total(value: str, figures: Sequence[Any]) -> Total:
    count, failures, duration_us, cpu_us, output_bytes, *buckets, peak = figures
    durations = [int(each or 0) for each in buckets[:BUCKETS]]
    waits = [int(each or 0) for each in buckets[BUCKETS:]]
    return Total(
        value=value,
        count=int(count),
        failures=int(failures),
        mean_ms=mean_ms(duration_us, durations),
        p50_ms=quantile_ms(durations, 0.5),
        p95_ms=quantile_ms(durations, 0.95),
        p99_ms=quantile_ms(durations, 0.99),
        queue_p95_ms=quantile_ms(waits, 0.95),
        cpu_seconds=None if cpu_us is None else float(cpu_us) / 1e6,
        peak_rss_bytes=None if peak is None else int(peak),
        output_bytes=int(output_bytes),
    )


def moment_of_step(start: int) -> datetime:
    """Return the time at which a step begins."""
    return datetime.fromtimestamp(start, UTC)
