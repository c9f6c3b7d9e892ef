"""What grows: judged by the last minutes that the runs kept, and unknown where those have holes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import uuid4

import pytest

from recorder.models import Run, RunState, RunTrack
from workers.control_plane.pages.trend import Point, slope, trend

NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
END = NOW.timestamp()


def points(*values: float | None) -> list[Point]:
    return [(END - 10.0 * (len(values) - 1 - n), value) for n, value in enumerate(values)]


def a_track(
    *lags: int | None, cluster: str = "main", silent_seconds: float = 0, owned: int = 1
) -> RunTrack:
    """Its lags each ten seconds; as many bytes are spooled, times ten thousand."""
    run = Run(id=uuid4(), cluster=cluster)
    run.beat = RunState(run=run, state="ready")
    samples = [
        [at - silent_seconds, [0] * 5, lag, None, owned, None if lag is None else 1e4 * lag]
        for at, lag in points(*lags)
    ]
    return RunTrack(run=run, samples=samples)


@pytest.mark.parametrize(
    ("values", "steady"),
    [
        ([1000 + 50 * n for n in range(12)], True),
        ([1000 + 5 * n for n in range(12)], False),  # less than a tenth
        ([5 * n for n in range(12)], False),  # less than a hundred messages
        ([1000, 2000] * 6, False),  # to and fro
        ([3000 - 50 * n for n in range(12)], False),
        ([1000] * 9 + [2000] * 3, False),  # a single step may be a batch that came
        ([9000 - 100 * n for n in range(31)] + [6000 + 50 * n for n in range(31)], True),
    ],
)
def test_what_counts_as_growth(values: list[float], steady: bool) -> None:
    found = slope(points(*values), 100, END)
    assert found is not None
    assert found.is_steady is steady
    assert found.value == values[-1]


def test_since_when_it_grows() -> None:
    found = slope(points(*[500] * 20, *[500 + 100 * n for n in range(25)]), 100, END)
    assert found is not None
    assert (found.is_steady, found.seconds) == (True, 240.0)
    assert found.per_second == pytest.approx(10.0, rel=0.1)


@pytest.mark.parametrize(
    "values",
    [
        [],
        [None],
        [100 * n for n in range(6)],  # less than a minute
        [*range(0, 9000, 100), None],  # unknown now
        [*range(0, 9000, 100), None, *range(0, 600, 100)],  # unknown a moment ago
    ],
)
def test_a_slope_is_known_through_a_minute(values: list[float | None]) -> None:
    assert slope(points(*values), 100, END) is None


def test_what_lies_before_a_hole_says_nothing() -> None:
    rising = [100.0 * n for n in range(12)]
    for holed in (points(9000, None, *rising), [(END - 300.0, 9000.0), *points(*rising)]):
        found = slope(holed, 100, END)
        assert found is not None
        assert found.is_steady is True


def test_the_lag_of_a_cluster_is_known_where_that_of_each_run_is() -> None:
    falling, rising = [3000 - 20 * n for n in range(60)], [1000 + 50 * n for n in range(60)]
    both = trend([a_track(*falling), a_track(*rising)], NOW)
    assert set(both.lag) == {"main"}
    assert both.lag["main"].is_steady
    assert both.lag["main"].per_second == pytest.approx(3.0)
    apart = trend([a_track(*falling, cluster="other"), a_track(*rising)], NOW).lag
    assert (apart["other"].is_steady, apart["main"].is_steady) == (False, True)
    holed = [*rising[:57], None, None, None]
    assert trend([a_track(*rising), a_track(*holed)], NOW).lag == {}
    assert "main" in trend([a_track(*rising), a_track(*holed, owned=0)], NOW).lag


def test_the_spool_of_each_run() -> None:
    grown, silent = a_track(*range(60)), a_track(*range(60), silent_seconds=60)
    found = trend([grown, silent], NOW).spool
    assert set(found) == {grown.run_id}
    assert (found[grown.run_id].value, found[grown.run_id].is_steady) == (590_000.0, True)
    assert trend([grown], NOW + timedelta(seconds=60)).spool == {}
