"""Time that charts show, and what a reader may ask of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from domain.paging import BadFilter
from workers.control_plane.trends.view import view_of
from workers.control_plane.trends.window import MOST_POINTS, RANGES, window_of

NOW = datetime(2026, 3, 14, 3, 10, 42, tzinfo=UTC)
MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)


@pytest.mark.parametrize("name", RANGES)
def test_a_range_ends_with_the_last_whole_minute_in_steps_that_are_not_too_many(name: str) -> None:
    window = window_of({"range": name}, NOW)
    assert window.range == name
    assert window.until == datetime(2026, 3, 14, 3, 10, tzinfo=UTC)
    assert window.until - window.since >= RANGES[name] - MINUTE
    assert len(window.starts) <= MOST_POINTS
    assert all(start % window.step_seconds == 0 for start in window.starts)
    assert window.starts[0] == window.since.timestamp()
    assert window.starts[-1] < window.until.timestamp()


def test_without_any_time_the_last_hour_is_shown() -> None:
    assert window_of({}, NOW) == window_of({"range": "1h"}, NOW)


def test_a_minute_that_may_still_be_on_its_way_is_left_out() -> None:
    at = datetime(2026, 3, 14, 3, 10, 4, tzinfo=UTC)
    assert window_of({"range": "15m"}, at).until == datetime(2026, 3, 14, 3, 9, tzinfo=UTC)


def test_a_time_of_ones_own_stands_still() -> None:
    window = window_of({"since": "2026-03-14T01:00", "until": "2026-03-14T02:00:30"}, NOW)
    assert (window.range, window.step_seconds) == ("", 60)
    assert (window.starts[0], len(window.starts)) == (window.since.timestamp(), 61)


@pytest.mark.parametrize(
    ("since", "until", "step"),
    [("20h", "1h", 300), ("2d", "1d", 300), ("3d", "1d", 3600), ("20d", "473h", 3600)],
)
def test_only_hours_are_kept_of_what_is_long_or_long_ago(since: str, until: str, step: int) -> None:
    assert window_of({"since": since, "until": until}, NOW).step_seconds == step


def test_of_the_step_that_runs_counts_what_has_passed_of_it() -> None:
    window = window_of({"range": "7d"}, NOW)
    assert window.step == "hour"
    assert window.covered_seconds(window.starts[-1]) == 600
    assert window.covered_seconds(window.starts[0]) == 3600


def test_the_time_before_has_the_same_steps() -> None:
    window = window_of({"range": "6h"}, NOW)
    before = window.before()
    assert before.until == window.since
    assert len(before.starts) == len(window.starts)
    assert before.starts[0] == window.starts[0] - len(window.starts) * window.step_seconds


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"range": "2h"}, "range: expected one of 15m"),
        ({"since": "yesterday"}, "since: expected a time like"),
        ({"until": "1h"}, "until: expected a since beside it"),
        ({"since": "1h", "until": "1h"}, "since: expected at least two minutes before until"),
        ({"since": "1h", "until": "2h"}, "since: expected at least two minutes before until"),
        ({"since": "9000d"}, "since: expected at most 400 days before until"),
        ({"label": "tenant"}, "label: expected name=value"),
        ({"split": "colour"}, "split: expected one of cluster"),
        ({"compare": "after"}, "compare: expected before"),
        ({"worker": "w" * 256}, "worker: expected at most 255 characters, got 256"),
    ],
)
def test_what_cannot_be_shown_is_named(asked: dict[str, str], said: str) -> None:
    with pytest.raises(BadFilter, match=f"^{said}"):
        view_of(asked, NOW)


def test_a_view_has_what_was_asked_for() -> None:
    asked = {"cluster": "main", "label": " tenant = acme", "split": "label:corpus", "range": "6h"}
    view = view_of({**asked, "compare": "before"}, NOW)
    assert (view.scope.cluster, view.scope.label) == ("main", ("tenant", "acme"))
    assert (view.split, view.is_compared, view.window.range) == ("label:corpus", True, "6h")
