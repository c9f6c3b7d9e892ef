"""Counts beside the history: of the newest rows of a window that fit, over time and by value.

They are of a part, and say of which: no count of the history reads more than ``COUNTED_ROWS``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import orjson
from django.db.models.fields.json import KT

from domain.events import status_of
from recorder.message_row import CODES, MESSAGE
from recorder.queries import Window, names_of_runs

COUNTED_ROWS = 2_000
BARS = 60
MOST_VALUES = 8
"""Values that a facet lists; the rest is not counted one by one."""
SHORTEST_BAR = timedelta(milliseconds=1)
BAD = ("failed", "dead_lettered")
_KIND_OF = {code: kind for kind, code in CODES.items()}
Values = Sequence[tuple[str, int]]
"""A facet's commonest values with their counts."""


@dataclass(frozen=True, slots=True)
class Bar:
    """Events of a stretch of time, ``bad`` of them failures and letters."""

    since: datetime
    until: datetime
    count: int
    bad: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    """Counts of the rows that were looked at, ``rows`` of them, from ``since`` on; ``is_part``:
    there are older ones."""

    rows: int = 0
    since: datetime | None = None
    is_part: bool = False
    bars: Sequence[Bar] = ()
    kinds: Values = ()
    workers: Values = ()
    failures: Values = ()
    labels: Values = ()

    @property
    def most(self) -> int:
        """Events of the highest bar; at least 1."""
        return max((bar.count for bar in self.bars), default=1) or 1


@dataclass(slots=True)
class _Sums:
    kinds: Counter[str] = field(default_factory=Counter)
    runs: Counter[UUID] = field(default_factory=Counter)
    failures: Counter[str] = field(default_factory=Counter)
    labels: Counter[tuple[str, str]] = field(default_factory=Counter)
    times: list[tuple[datetime, int, int]] = field(default_factory=list)


def counts_of(within: Window) -> Counts:
    """Count the newest rows of a window that fit; a row that stands for several events counts each
    of a kind that is asked. Text is not looked at."""
    columns = ("ts", "run", "kind", "labels", "codes", "steps", "failure")
    rows = within.rows().annotate(
        codes=KT("data__kinds"), steps=KT("data__steps"), failure=KT("data__failure")
    )
    found = list(rows.order_by("-ts", "-id").values_list(*columns)[: COUNTED_ROWS + 1])
    is_part = len(found) > COUNTED_ROWS or within.edge is not None
    sums = _Sums()
    for row in found[:COUNTED_ROWS]:
        _add(sums, within, row)
    if not sums.times:
        return Counts(is_part=is_part)
    names = names_of_runs(set(sums.runs))
    workers: Counter[str] = Counter()
    for run, count in sums.runs.items():
        workers[names.get(run, ("", "unknown"))[1]] += count
    since = min(ts for ts, _, _ in sums.times)
    labels = [(f"{name}={value}", n) for (name, value), n in sums.labels.most_common(MOST_VALUES)]
    return Counts(
        rows=min(len(found), COUNTED_ROWS),
        since=since,
        is_part=is_part,
        bars=_bars(sums.times, within),
        kinds=sums.kinds.most_common(MOST_VALUES),
        workers=workers.most_common(MOST_VALUES),
        failures=sums.failures.most_common(MOST_VALUES),
        labels=labels,
    )


def _add(sums: _Sums, within: Window, row: tuple[Any, ...]) -> None:
    ts, run, kind, labels, codes, steps, failure = row
    asked = within.filters
    kinds = [_KIND_OF.get(code, "") for code in codes or ""] if kind == MESSAGE else [kind]
    kinds = [each for each in kinds if asked.wants_kind(each)]
    if not kinds:
        return
    bad = sum(status_of(each) in BAD for each in kinds)
    sums.times.append((ts, len(kinds), bad))
    sums.kinds.update(kinds)
    sums.runs[run] += len(kinds)
    if kind == "task_failed" and failure:
        sums.failures[failure] += 1
    borne = _folded_labels(steps) if kind == MESSAGE else labels
    if isinstance(borne, dict):
        sums.labels.update((str(name), str(value)) for name, value in borne.items())


def _folded_labels(steps: str | None) -> Mapping[str, Any] | None:
    """The labels of a folded row: the first object among what its steps share."""
    try:
        shared = orjson.loads(steps or "[[]]")[0]
    except (orjson.JSONDecodeError, IndexError):
        return None
    return next((each for each in shared if isinstance(each, dict)), None)


def _bars(times: Iterable[tuple[datetime, int, int]], within: Window) -> list[Bar]:
    """Bars of equal length, oldest first, over the time of the events counted."""
    found = sorted(times)
    first, last = found[0][0], found[-1][0]
    step = max((last - first) / BARS, SHORTEST_BAR)
    counts, bad = [0] * BARS, [0] * BARS
    for ts, count, failed in found:
        place = min(int((ts - first) / step), BARS - 1)
        counts[place] += count
        bad[place] += failed
    return [Bar(first + n * step, first + (n + 1) * step, counts[n], bad[n]) for n in range(BARS)]
