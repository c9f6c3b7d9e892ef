"""Ten minutes of figures: what a run keeps, and how the dashboard adds runs up."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from itertools import pairwise
from typing import Any

from domain.beat import Beat, CounterBeat, LatencyBeat, PartitionBeat, RecorderBeat
from recorder.models import Run, RunState, RunTrack
from workers.control_plane.pages.sparks import POINTS, Spark, bound_ms, sparks
from workers.runtime.metric_history import KEPT_SAMPLES, Track

NOTHING_OWNED = -1
NOW = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)


def sample(ago: float, count: int | None, lag: int | None = 0, *spread: int) -> list[Any]:
    owned = 0 if lag == NOTHING_OWNED else 3
    return [
        NOW.timestamp() - ago,
        [count] * 5,
        None if not owned else lag,
        list(spread) or None,
        owned,
    ]


def a_track(*samples: list[Any], state: str = "ready", bounds: Any = ()) -> RunTrack:
    run = Run()
    run.beat = RunState(run=run, state=state)
    return RunTrack(run=run, samples=list(samples), bounds=list(bounds))


def steady(pace: int, since: float = 640, until: float = 0, **values: Any) -> RunTrack:
    """Counts ``pace`` messages each ten seconds."""
    times = range(int(since), int(until) - 1, -10)
    return a_track(*(sample(ago, n * pace, 7) for n, ago in enumerate(times)), **values)


def consumed(*tracks: RunTrack) -> Any:
    return sparks(tracks, NOW)["consumed"].values


def test_rates_of_all_runs_are_summed_over_ten_minutes() -> None:
    found = sparks([steady(20), steady(5)], NOW)
    assert found["consumed"].values == [2.5] * POINTS
    assert found["consumed"].recent == 2.5
    assert found["lag"].values == [14] * POINTS


def test_before_the_first_run_is_a_gap_and_its_end_is_no_zero() -> None:
    assert consumed() == [None] * POINTS
    values = consumed(steady(10, since=300))
    assert values[-29:] == [1.0] * 29
    assert values[:-29] == [None] * 31
    values = consumed(steady(10, until=300, state="stopped"))
    assert values[:31] == [1.0] * 31
    assert set(values[31:]) == {None}
    # What ended counts no more where others go on.
    assert consumed(steady(10, until=300, state="stopped"), steady(10))[-1] == 1.0


def test_where_one_run_is_unknown_the_sum_is() -> None:
    holed = a_track(sample(610, 0), sample(600, 10), sample(310, 20), sample(300, 30))
    values = consumed(holed, steady(10))
    assert values[0] == 2.0
    assert values[10] is None  # between two samples that lie too far apart
    assert values[-1] is None  # it lives and says nothing any more
    assert consumed(a_track(sample(30, 1), sample(20, None), sample(10, 3)))[-1] is None
    assert consumed(a_track(sample(20, 5), sample(10, 3)))[-1] == 0.0


def test_a_run_without_partitions_has_no_part_in_the_lag() -> None:
    idle = a_track(sample(620, 0, NOTHING_OWNED), sample(600, 1, NOTHING_OWNED), state="stopped")
    assert sparks([idle, steady(1)], NOW)["lag"].values[0] == 7
    assert sparks([idle], NOW)["lag"].values[0] is None


def test_latency_is_the_bound_of_nearly_all_messages_of_all_runs() -> None:
    bounds = (0.1, 1.0)
    tracks = [
        a_track(sample(20, 0, 0, 0, 0, 0), sample(10, 0, 0, 90, 0, 0), bounds=bounds),
        a_track(sample(20, 0, 0, 5, 0, 0), sample(10, 0, 0, 5, 10, 0), bounds=bounds),
    ]
    found = sparks(tracks, NOW)["latency"]
    assert (found.values[-1], found.values[-2], found.recent) == (1000.0, None, 1000.0)
    assert sparks([tracks[0]], NOW)["latency"].recent == 100.0
    assert sparks([tracks[0], steady(1)], NOW)["latency"].recent is None
    assert [bound_ms(bounds, counts) for counts in ([0, 0, 3], [0, 0, 0])] == [1000.0, None]


def test_the_line_breaks_where_nothing_is_known() -> None:
    spark = Spark(values=[1.0, 1.0, None, 5.0, None], recent=None)
    low = f"{22 - (1 - 0.8) / (5 - 0.8) * 19:.1f}"
    assert spark.line == f"M0.0 {low}L25.0 {low}M75.0 3.0L75.5 3.0"
    assert spark.area.count("Z") == 2
    assert Spark(values=[None] * 3, recent=None).line == ""


def test_a_run_keeps_one_sample_each_ten_seconds_and_ten_minutes_of_them() -> None:
    now = 1000.0
    clock: Callable[[], float] = lambda: now  # noqa: E731
    track = Track(clock)
    for _ in range(2000):
        beat = Beat(
            state="ready",
            counters=CounterBeat(consumed=int(now)),
            partitions=tuple(PartitionBeat(topic="t", partition=n, lag=3 + n) for n in (0, 1)),
            latency=LatencyBeat(buckets=(1.0,), counts=(1, 0)),
            recorder=RecorderBeat(spooled_bytes=5, shed=6),
        )
        track.note(beat)
        now += 2.0
    kept = track.samples
    assert len(kept) == KEPT_SAMPLES
    assert {b[0] - a[0] for a, b in pairwise(kept)} == {10.0}
    assert kept[-1] == [4990.0, [4990, None, None, None, None], 7, [1, 0], 2, 5, 6]
