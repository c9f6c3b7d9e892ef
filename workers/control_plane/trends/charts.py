"""Charts: which figures each shows, and their values over a window."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from domain.unknown import known_total
from recorder.rollups.reading import LABEL, OF_SOURCE, Dimension, Measure, Scope, Series, series
from workers.control_plane.trends.view import SPLITS, View
from workers.control_plane.trends.window import Window

MOST_LINES = 8
"""Lines of a chart that is split; the others are summed up into one more where they can be."""
OTHER, NONE = "other", "none"
SECONDS_OF_UNIT = {"per second": 1, "bytes per second": 1, "cores": 1, "per minute": 60}
"""Units of figures that are counts divided by time."""
OF_TASKS = frozenset(
    {
        Measure.TASKS,
        Measure.FAILURES,
        Measure.DURATION_MS,
        Measure.QUEUE_MS,
        Measure.CPU_SECONDS,
        Measure.PEAK_RSS_BYTES,
        Measure.OUTPUT_BYTES,
    }
)
OF_SINKS = frozenset(
    {Measure.DELIVERIES, Measure.DELIVERY_FAILURES, Measure.DELIVERY_MS, Measure.LETTERS}
)
KNOWN_BY: Mapping[str, frozenset[Measure]] = {
    Dimension.SINK: OF_SINKS,
    Dimension.FAILURE: frozenset({Measure.FAILURES, Measure.LETTERS}),
    Dimension.OUTCOME: frozenset({Measure.TASKS}),
}
"""Measures that can be told apart by what is not of their worker."""
STATUSES = {"completed": "completed", "failed": "failed", "cancelled": "paused"}
"""Colours of what is told apart by outcome."""
Values = list[float | None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """Line of a chart that is not split. ``stat``: field of ``recorder.rollups.reading.Line``;
    ``status``: its colour where it has one."""

    name: str
    measure: Measure
    stat: str = "values"
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Chart:
    """What is drawn under a title.

    ``unit`` may divide counts by the time that they took (SECONDS_OF_UNIT). ``by``: what splits it
    always. ``main``: the line that a reader's split takes apart. ``is_sum``: the figures of parts
    add up to that of the whole. ``kinds``: events of the history behind it.
    """

    key: str
    title: str
    unit: str
    lines: tuple[Line, ...]
    by: Dimension | None = None
    main: int = 0
    is_sum: bool = True
    kinds: tuple[str, ...] = ()

    def title_by(self, by: str | None) -> str:
        """Return the title where it is split by that."""
        if by is None:
            return self.title
        part = f", {self.lines[self.main].name}" if len(self.lines) > 1 else ""
        return f"{self.title}{part} by {SPLITS.get(by) or by.replace(':', ' ')}"

    @property
    def full_title(self) -> str:
        """Return the title where no reader asked for a split."""
        return self.title_by(self.by)

    def split(self, asked: str) -> str | None:
        """Return what splits it where a reader asked for this (empty: nothing); None: nothing."""
        measure = self.lines[self.main].measure
        known = measure in KNOWN_BY.get(asked, OF_TASKS if asked.startswith(LABEL) else ())
        return asked if asked and (asked in OF_SOURCE or known) else self.by


def _spread(measure: Measure) -> tuple[Line, ...]:
    return tuple(Line(name=stat, measure=measure, stat=stat) for stat in ("p50", "p95", "p99"))


TASKS = ("task_completed", "task_failed", "task_cancelled")
CHARTS = {
    chart.key: chart
    for chart in (
        Chart(
            key="rate",
            title="Messages and tasks",
            unit="per second",
            lines=(
                Line(name="messages", measure=Measure.MESSAGES),
                Line(name="tasks", measure=Measure.TASKS),
            ),
            main=1,
            kinds=("message_completed",),
        ),
        Chart(
            key="failures",
            title="Failures",
            unit="per minute",
            lines=(Line(name="failures", measure=Measure.FAILURES),),
            by=Dimension.FAILURE,
            kinds=("task_failed",),
        ),
        Chart(
            key="duration",
            title="Duration of tasks",
            unit="ms",
            lines=_spread(Measure.DURATION_MS),
            main=1,
            is_sum=False,
            kinds=TASKS,
        ),
        Chart(
            key="queue",
            title="Wait for a slot",
            unit="ms",
            lines=_spread(Measure.QUEUE_MS),
            main=1,
            is_sum=False,
            kinds=("task_started",),
        ),
        Chart(
            key="lag",
            title="Lag",
            unit="messages",
            lines=(Line(name="lag", measure=Measure.LAG),),
        ),
        Chart(
            key="latency",
            title="Latency of messages, hand-over to fate",
            unit="ms",
            lines=_spread(Measure.LATENCY_MS),
            main=1,
            is_sum=False,
            kinds=("message_completed",),
        ),
        Chart(
            key="slots",
            title="Slots, and tasks that wait for one",
            unit="tasks",
            lines=(
                Line(name="busy", measure=Measure.SLOTS_BUSY, status="running"),
                Line(name="slots", measure=Measure.SLOTS, status="waiting"),
                Line(name="tasks that wait", measure=Measure.WAITING),
            ),
            kinds=("task_started",),
        ),
        Chart(
            key="cpu",
            title="CPU of tasks",
            unit="cores",
            lines=(Line(name="CPU", measure=Measure.CPU_SECONDS),),
            kinds=TASKS,
        ),
        Chart(
            key="memory",
            title="Memory of tasks, the largest peak",
            unit="bytes",
            lines=(Line(name="peak", measure=Measure.PEAK_RSS_BYTES),),
            is_sum=False,
            kinds=TASKS,
        ),
        Chart(
            key="deliveries",
            title="Deliveries",
            unit="per second",
            lines=(Line(name="deliveries", measure=Measure.DELIVERIES),),
            by=Dimension.SINK,
            kinds=("delivered",),
        ),
        Chart(
            key="delivery",
            title="Duration of deliveries, p95",
            unit="ms",
            lines=(Line(name="p95", measure=Measure.DELIVERY_MS, stat="p95"),),
            by=Dimension.SINK,
            is_sum=False,
            kinds=("delivered",),
        ),
        Chart(
            key="refused",
            title="Failed attempts to deliver",
            unit="per minute",
            lines=(Line(name="failed", measure=Measure.DELIVERY_FAILURES),),
            by=Dimension.SINK,
            kinds=("delivery_failed",),
        ),
        Chart(
            key="letters",
            title="Dead letters",
            unit="per minute",
            lines=(Line(name="letters", measure=Measure.LETTERS, status="dead_lettered"),),
            kinds=("dead_lettered",),
        ),
        Chart(
            key="output",
            title="Output of tasks",
            unit="bytes per second",
            lines=(Line(name="output", measure=Measure.OUTPUT_BYTES),),
            kinds=TASKS,
        ),
    )
}
"""Every chart by its key, in the order of the page."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DrawnLine:
    """Line with a value each step, None where it is unknown; ``before``: of the time before."""

    name: str
    status: str
    values: Values
    before: Values | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Drawn:
    """Chart with its lines; ``left_out`` of which there were too many."""

    key: str
    title: str
    unit: str
    kinds: tuple[str, ...]
    series: list[DrawnLine]
    left_out: int


@dataclass(frozen=True, slots=True)
class _Time:
    """Window, and of each step whether any worker told of itself: where none did, that nothing is
    counted means nothing."""

    window: Window
    is_seen: Sequence[bool]


@dataclass(frozen=True, slots=True)
class _Known:
    """Values by the name of their line, largest first where they are of a split."""

    values: dict[str, Values]
    left_out: int = 0


def drawn(charts: Iterable[Chart], view: View) -> list[Drawn]:
    """Return the charts with the figures of a view. Raises DatabaseError."""
    windows = [view.window, *([view.window.before()] if view.is_compared else [])]
    times = [_Time(window, _seen(view, window)) for window in windows]
    return [_drawn(chart, view, *times) for chart in charts]


def _seen(view: View, window: Window) -> list[bool]:
    """Return of each step whether any worker told of itself; all, where none ever did."""
    scope = replace(view.scope, sink="", label=None)
    found = _read(Measure.SLOTS, scope, window, None).lines
    if not found:
        return [True] * len(window.starts)
    return [value is not None for value in found[0].values]


def _drawn(chart: Chart, view: View, time: _Time, time_before: _Time | None = None) -> Drawn:
    by = chart.split(view.split)
    now = _known(chart, view, time, by)
    before = None if time_before is None else _known(chart, view, time_before, by).values
    names = list(now.values)
    shown, rest = (names, []) if len(names) <= MOST_LINES + 1 else _cut(names)
    lines = [_line(chart, name, [name], now.values, before) for name in shown]
    if rest and chart.is_sum:
        lines.append(_line(chart, OTHER, rest, now.values, before))
    return Drawn(
        key=chart.key,
        title=chart.title_by(by),
        unit=chart.unit,
        kinds=chart.kinds,
        series=lines,
        left_out=now.left_out + (0 if chart.is_sum else len(rest)),
    )


def _cut(names: list[str]) -> tuple[list[str], list[str]]:
    return names[:MOST_LINES], names[MOST_LINES:]


def _line(
    chart: Chart,
    name: str,
    of: Sequence[str],
    now: Mapping[str, Values],
    before: Mapping[str, Values] | None,
) -> DrawnLine:
    """Return a line that is the sum of some."""
    status = next((each.status for each in chart.lines if each.name == name), "")
    values = _added([now[each] for each in of])
    unknown: Values = [None] * len(values)
    then = None if before is None else _added([before.get(each, unknown) for each in of])
    return DrawnLine(name=name, status=status or STATUSES.get(name, ""), values=values, before=then)


def _added(columns: Sequence[Values]) -> Values:
    """Return the sum at each step of what is known, None where nothing is."""
    return [known_total(step) for step in zip(*columns, strict=True)]


def _known(chart: Chart, view: View, time: _Time, by: str | None) -> _Known:
    """Return the values of each line over a time."""
    window = time.window
    if by is None:
        measures = {line.measure for line in chart.lines}
        read = {each: _read(each, view.scope, window, None) for each in measures}
        unknown: Values = [None] * len(window.starts)
        stats = [(line.name, _stats(chart, line, time, read[line.measure])) for line in chart.lines]
        return _Known({name: found.get("", unknown) for name, found in stats})
    main = chart.lines[chart.main]
    found = _read(main.measure, view.scope, window, by)
    values = _stats(chart, main, time, found)
    return _Known({name or NONE: each for name, each in values.items()}, found.values_left_out)


def _read(measure: Measure, scope: Scope, window: Window, by: str | None) -> Series:
    return series(scope, measure, window.since, window.until, window.step_seconds, by)


def _stats(chart: Chart, line: Line, time: _Time, found: Series) -> dict[str, Values]:
    return {each.value: _rated(chart, time, getattr(each, line.stat)) for each in found.lines}


def _rated(chart: Chart, time: _Time, values: Sequence[float | None]) -> Values:
    """Return counts divided by the time that they took, where the unit says so."""
    per, window = SECONDS_OF_UNIT.get(chart.unit), time.window
    if per is None:
        return list(values)
    steps = zip(window.starts, values, time.is_seen, strict=True)
    return [
        None if value is None or not (value or seen) else value * per / window.covered_seconds(at)
        for at, value, seen in steps
    ]
