"""Laws of findings: a cause for any figures, and an episode that is told as often as it must be."""

from __future__ import annotations

from dataclasses import fields, replace
from itertools import pairwise
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from domain.block_cause import BlockFigures, block_of
from domain.episode import Change, Episode, EpisodeRules, Quiet, Sight, step
from domain.finding import Severity
from domain.lag_cause import LagCause, LagFigures, diagnose

COUNTS = st.none() | st.integers(0, 10**9)
RATES = st.none() | st.floats(0, 1e9)
PLACES = st.lists(st.text(max_size=5), max_size=5)
FIGURES = st.builds(
    LagFigures,
    lag=COUNTS, paused=PLACES, parked=PLACES, parked_lag=COUNTS, suspects=PLACES,
    suspect_lag=COUNTS, sinks_away=PLACES,
    sink_queue=st.none() | st.tuples(st.text(max_size=5), st.integers(0, 10**9)),
    workers=COUNTS, workers_before=COUNTS, slots=COUNTS, busy=COUNTS, waiting=COUNTS,
    waiting_for_key=COUNTS, waiting_for_group=COUNTS, p50_ms=RATES, p50_ms_before=RATES,
    input_per_second=RATES, input_per_second_before=RATES, partitions=COUNTS,
    hottest=st.none() | st.tuples(st.text(max_size=5), st.integers(0, 10**9)), deferred=COUNTS,
)  # fmt: skip
RULES = EpisodeRules(settle_seconds=30.0, gone_seconds=60.0)
SIGHTS = st.none() | st.builds(
    Sight, severity=st.sampled_from(Severity), magnitude=st.none() | st.floats(0, 1e9)
)
LOOKS = st.lists(st.tuples(st.floats(0.1, 100.0), SIGHTS), max_size=60)


@given(FIGURES)
def test_any_figures_have_a_cause_in_order(figures: LagFigures) -> None:
    causes = [each.cause for each in diagnose(figures)]
    order = list(LagCause)
    assert causes
    assert causes == sorted(causes, key=order.index)
    assert (LagCause.UNCLEAR in causes) == (causes == [LagCause.UNCLEAR])


@given(FIGURES, st.sampled_from([each.name for each in fields(LagFigures)]))
def test_an_unknown_figure_brings_no_cause(figures: LagFigures, name: str) -> None:
    if getattr(figures, name) is None or isinstance(getattr(figures, name), list):
        return
    known = {each.cause for each in diagnose(figures)}
    unknown: dict[str, Any] = {name: None}
    less = {each.cause for each in diagnose(replace(figures, **unknown))}
    # Parked places are a cause by themselves: what waits there only takes the cause away.
    by_place = {LagCause.PARKED, LagCause.CRASH_GUARD}
    assert less - known <= {LagCause.UNCLEAR} | by_place


@given(
    st.builds(
        BlockFigures,
        blocked_seconds=RATES, running_seconds=RATES, attempt=COUNTS,
        progress=st.none() | st.floats(0, 1), note=st.none() | st.text(max_size=5),
        is_waiting=st.booleans(),
        waits_for=st.none() | st.text(max_size=5), slots=COUNTS, busy=COUNTS, waiting=COUNTS,
        sinks_away=PLACES,
    )
)  # fmt: skip
def test_any_blocker_has_a_cause_in_a_sentence(figures: BlockFigures) -> None:
    assert block_of(figures).sentence.endswith(".")


def told(
    looks: list[tuple[float, Sight | None]],
) -> list[tuple[float, Change | None, Sight | None]]:
    """Each look's time, change and sight, of one finding."""
    now, found = 0.0, []
    episode: Episode | None = None
    for seconds, sight in looks:
        now += seconds
        episode, change = step(episode, sight, now, RULES, Quiet.NOTHING)
        found.append((now, change, sight))
    return found


@given(LOOKS)
def test_an_episode_starts_once_and_ends_at_most_once(
    looks: list[tuple[float, Sight | None]],
) -> None:
    ends = [change for _, change, _ in told(looks) if change in (Change.STARTED, Change.ENDED)]
    assert ends[:1] in ([], [Change.STARTED])
    assert all(before != after for before, after in pairwise(ends))


@given(LOOKS)
def test_growth_is_told_between_start_and_end(looks: list[tuple[float, Sight | None]]) -> None:
    is_told = False
    for _, change, _ in told(looks):
        assert change is not Change.GREW or is_told
        is_told = {Change.STARTED: True, Change.ENDED: False}.get(change, is_told)  # type: ignore[arg-type]


@given(LOOKS)
def test_a_severity_that_rises_is_never_silent(looks: list[tuple[float, Sight | None]]) -> None:
    worst: Severity | None = None
    for _, change, sight in told(looks):
        if change is Change.STARTED and sight is not None:
            worst = sight.severity
        elif change is Change.ENDED:
            worst = None
        elif worst is not None and sight is not None and sight.severity.rank > worst.rank:
            assert change is Change.GREW
            worst = sight.severity


@given(LOOKS)
def test_what_settles_is_told_as_soon_as_it_has(looks: list[tuple[float, Sight | None]]) -> None:
    since: float | None = None
    is_told = False
    for now, change, sight in told(looks):
        if not is_told:
            since = None if sight is None else now if since is None else since
            is_due = since is not None and now - since >= RULES.settle_seconds
            assert (change is Change.STARTED) == is_due
        is_told = {Change.STARTED: True, Change.ENDED: False}.get(change, is_told)  # type: ignore[arg-type]
        since = None if change is Change.ENDED else since


@given(LOOKS, st.sampled_from([Quiet.ALL, Quiet.GROWTH]))
def test_what_is_silenced_or_taken_on_is_not_begun_to_be_told(
    looks: list[tuple[float, Sight | None]], quiet: Quiet
) -> None:
    now, episode = 0.0, None
    for seconds, sight in looks:
        now += seconds
        episode, change = step(episode, sight, now, RULES, quiet)
        assert change is None


@given(LOOKS)
def test_what_stands_longer_than_its_silence_is_told(
    looks: list[tuple[float, Sight | None]],
) -> None:
    now, episode = 0.0, None
    for seconds, sight in looks:
        now += seconds
        episode, _ = step(episode, sight, now, RULES, Quiet.ALL)
    sight = Sight(severity=Severity.WARN)
    episode, _ = step(episode, sight, now, RULES, Quiet.NOTHING)
    _, change = step(episode, sight, now + 31.0, RULES, Quiet.NOTHING)
    assert change in (Change.STARTED, None)
    assert (change is None) == (episode is not None and episode.told is not None)
