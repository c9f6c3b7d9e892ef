"""Groups of failures that are news, and one message for all that one cause brings about."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import UUID

import pytest
from django.utils import timezone

from domain.episode import EpisodeRules
from domain.fingerprint import FINGERPRINT
from recorder import writer
from recorder.failures.counting import project_failures, span_of
from recorder.failures.grouping import Grouping
from recorder.failures.news import Why, news
from recorder.models import FailureCount, FailureGroup, FailureState, RunState
from recorder.projections import in_turn
from recorder.rollups.projection import project_rollups
from recorder.rollups.sums import Tally
from recorder.rows import Row, to_row
from tests.contract.test_failure_groups import failed
from tests.contract.test_recorder_postgres import description
from tests.contract.test_rollups_postgres import CONFIG, ended
from workers.control_plane.findings import Known, findings
from workers.control_plane.notify.episodes import observe
from workers.control_plane.notify.receivers import Notifying, Receiver
from workers.control_plane.pages.trend import Slope, Trend
from workers.control_plane.queries import beats
from workers.control_plane.rates import failing
from workers.models import FindingEpisode, Notice

pytestmark = pytest.mark.django_db
NOW = datetime(2026, 3, 14, 3, 0, 30, tzinfo=UTC)
RUN = UUID(int=7)
EVERY_SECONDS = 10


def ago(**span: float) -> datetime:
    return NOW - timedelta(**span)


def group(counts: dict[datetime, int], name: str = "a" * 20, **values: Any) -> FailureGroup:
    """A group with failures at these times."""
    assert FINGERPRINT.fullmatch(name)
    given = {
        "cluster": "main", "kind": "exit", "title": "exit 3: no such index",
        "first_seen": min(counts), "last_seen": max(counts), "count": sum(counts.values()),
    }  # fmt: skip
    for at, count in counts.items():
        row, _ = FailureCount.objects.get_or_create(group=name, run=RUN, start=span_of(at))
        row.count += count
        row.save()
    return FailureGroup.objects.create(fingerprint=name, **given | values)


def told() -> list[tuple[Why, int]]:
    return [(each.why, each.count) for each in news(NOW)]


def test_a_group_is_new_from_its_fifth_failure_on() -> None:
    made = group({ago(seconds=20): 3, ago(seconds=10): 1})
    assert news(NOW) == []
    FailureCount.objects.update(count=5)
    (found,) = news(NOW)
    assert (found.why, found.count, found.began_at) == (Why.NEW, 5, made.first_seen)
    assert found.per_minute == 5
    assert found.share is None


@pytest.mark.parametrize(
    ("counts", "is_over_at_seconds"),
    [
        ({0: 300, 120: 300}, 180),
        ({0: 2, 240: 2, 480: 2}, 480 * 3 / 5),
        ({0: 2, 600: 2, 1200: 2}, 720),
        ({0: 1, 400: 1, 800: 1, 1200: 1, 1600: 2}, 900),
    ],
    ids=["two minutes", "each 96 s", "each 240 s", "each 320 s"],
)
def test_it_ends_when_it_is_quiet_for_long(
    counts: dict[int, int], is_over_at_seconds: float
) -> None:
    first = ago(seconds=max(counts))
    group({first + timedelta(seconds=after): count for after, count in counts.items()})
    (found,) = news(NOW)
    assert not found.is_quiet(NOW + timedelta(seconds=is_over_at_seconds))
    assert found.is_quiet(NOW + timedelta(seconds=is_over_at_seconds + 1))


def test_one_that_is_known_is_news_when_it_comes_back_or_fails_ten_times_as_often() -> None:
    known: dict[str, Any] = {"first_seen": ago(days=9)}
    often = group({ago(hours=3): 480, ago(seconds=20): 99}, "b" * 20, **known)
    assert news(NOW) == []
    FailureCount.objects.filter(group=often.pk, start__gte=ago(hours=1)).update(count=100)
    assert told() == [(Why.MORE, 100)]
    group({ago(seconds=20): 7}, came_back_at=ago(minutes=1), **known)
    assert told() == [(Why.BACK, 7), (Why.MORE, 100)]


def test_what_is_resolved_or_ignored_is_no_news_and_acknowledged_is_taken() -> None:
    group({ago(seconds=20): 7})
    for state in FailureState:
        FailureGroup.objects.update(state=state)
        found = news(NOW)
        assert bool(found) == (state in (FailureState.OPEN, FailureState.ACKNOWLEDGED))
        assert any(each.is_taken for each in found) == (state == FailureState.ACKNOWLEDGED)
    assert news(NOW, "another") == []


class Programme:
    """A cluster whose program works or fails, ten times each ten seconds, and its controller."""

    def __init__(self) -> None:
        self.run = description()
        writer.ensure_run(self.run)
        RunState.objects.create(
            run_id=self.run.id, state="ready", beat_at=timezone.now() + timedelta(hours=1)
        )
        self.grouping, self.tally, self.seq, self.at = Grouping("main"), Tally(()), 0, 0.0

    def work(self, seconds: int, *, is_broken: bool, lag_grows: bool = False) -> None:
        for _ in range(seconds // EVERY_SECONDS):
            at = NOW.timestamp() + self.at
            given: dict[str, Any] = {"at": at, "started_at": at}
            rows: list[Row] = []
            for number in range(self.seq + 1, self.seq + 11):
                event: Any = ended(number)
                if is_broken:
                    event = failed(number, stderr=b"cannot open index")
                event = replace(event, task_id=f"3:{number}:0", **given)
                row = to_row(event, number, CONFIG)
                self.grouping.mark(event, row)
                rows.append({**row, "tally": self.tally.observe_all([event])})
            stored = in_turn(project_rollups, project_failures)
            self.seq = writer.flush(self.run, rows, self.seq, stored)
            self.look(lag_grows=is_broken or lag_grows)
            self.at += EVERY_SECONDS

    def look(self, *, lag_grows: bool) -> None:
        """What the controller's job does, at a time of the test."""
        now = NOW + timedelta(seconds=self.at)
        grows = Slope(value=900, per_second=2, lowest=0, seconds=60, is_steady=True)
        known = Known(
            trend=Trend(lag={"main": grows} if lag_grows else {}),
            failing=failing(now),
            news=news(now),
            now=now,
        )
        observe(findings(beats(), 0.0, True, known), NOTIFYING, now)


NOTIFYING = Notifying(
    receivers=[Receiver(name="ops", url="json://x")],
    rules=EpisodeRules(settle_seconds=30.0, gone_seconds=60.0),
)


def notices() -> list[tuple[str, str]]:
    return list(Notice.objects.order_by("id").values_list("change", "title"))


def test_a_program_that_is_broken_for_two_minutes_is_told_once_and_its_end_once() -> None:
    programme = Programme()
    programme.work(60, is_broken=False)
    assert notices() == []
    programme.work(120, is_broken=True)
    kinds = FindingEpisode.objects.filter(ended_at=None).values_list("kind", flat=True)
    assert sorted(kinds) == ["failure_group", "lag_grows", "tasks_fail"]
    programme.work(300, is_broken=False)
    title = "Cluster main: new failure: exit 3: cannot open index"
    assert notices() == [("started", title), ("ended", title)]
    assert not FindingEpisode.objects.filter(ended_at=None).exists()


def test_a_lag_that_grows_beside_few_failures_is_told_by_itself() -> None:
    programme = Programme()
    programme.work(60, is_broken=False)
    programme.work(10, is_broken=True)
    programme.work(90, is_broken=False, lag_grows=True)
    assert sorted(FindingEpisode.objects.values_list("kind", flat=True)) == [
        "failure_group",
        "lag_grows",
    ]
    assert len(notices()) == 2
