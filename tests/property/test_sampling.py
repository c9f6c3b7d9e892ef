"""Sampling: of a message all events are stored or none, and what is not stored is counted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from domain.events import (
    Arranged,
    Consumed,
    DeliveryFailed,
    Event,
    MessageCompleted,
    MessageEvent,
    Revoked,
    Sampled,
    TaskRetried,
)
from recorder import sampling
from recorder.config import SampleConfig
from recorder.sampling import Sampling, is_chosen

NOW = 1_790_000_000.0
Told = Sequence[Event]
Step = tuple[int, str]


def events_of(offset: int, ending: str, at: float = NOW, *, partition: int = 0) -> list[Event]:
    """A message's life: well, failed, retried, slow, skipped, of a tenant, or without an end."""
    place: dict[str, Any] = {"topic": "t", "partition": partition, "offset": offset}
    labels = {"tenant": "acme"} if ending == "acme" else {"tenant": "other"}
    name = f"{partition}:{offset}:0"
    told: list[Event] = [
        Consumed(at=at, timestamp=0, size_bytes=1, **place),
        Arranged(at=at, labels=labels, duration_ms=1, task_ids=[name], batch_messages=1, **place),
    ]
    if ending == "failed":
        told.append(
            DeliveryFailed(
                at=at, task_id=name, sink="s", attempt=1, sink_kind="k", delivery_id="d",
                is_transient=True, detail="", **place,
            )
        )  # fmt: skip
    if ending == "retried":
        told.append(
            TaskRetried(at=at, task_id=name, attempt=1, delay_ms=1, failure="exit_code", **place)
        )
    if ending != "open":
        fate = "skipped" if ending == "skipped" else "delivered"
        ms = 700.0 if ending == "slow" else 3.0
        told.append(MessageCompleted(at=at, duration_ms=ms, fate=fate, reason="", **place))
    return told


endings = st.sampled_from(["well"] * 6 + ["failed", "retried", "slow", "skipped", "acme", "open"])


@st.composite
def interleaved(draw: st.DrawFn) -> list[Event]:
    """Lives of messages told in any order in which each life's own order stays."""
    lives = [events_of(n, draw(endings)) for n in range(draw(st.integers(0, 12)))]
    told: list[Event] = []
    while lives := [life for life in lives if life]:
        told.append(draw(st.sampled_from(lives)).pop(0))
        if draw(st.integers(0, 20)) == 0:
            told.append(
                Revoked(at=NOW, topic="t", partition=0, offset=None, duration_ms=0, epoch=1,
                        reason="", dropped_messages=0, clean=True)
            )  # fmt: skip
    return told


def passed(sampler: Sampling, told: Told, *, end: bool = True) -> list[Event]:
    kept = [event for each in told for event in sampler.pass_on(each)]
    kept += sampler.due(NOW)
    return [*kept, *sampler.rest()] if end else kept


def offset_of(event: Event) -> int | None:
    return event.offset if isinstance(event, MessageEvent) else None


@given(told=interleaved(), one_in=st.integers(2, 5))
def test_all_events_of_a_message_are_kept_or_none_and_the_others_are_counted(
    told: list[Event], one_in: int
) -> None:
    sampler = Sampling(SampleConfig(one_in=one_in))
    kept = passed(sampler, told)
    left_out = [event for event in told if not any(event is each for each in kept)]
    for offset in {offset_of(event) for event in left_out}:
        assert not [event for event in kept if offset_of(event) == offset]
        # In the order told, and nothing twice.
    for offset in {offset_of(event) for event in kept}:
        of_it = [event for event in told if offset_of(event) == offset]
        assert [event for event in kept if offset_of(event) == offset] == of_it
    counted: Counter[str] = Counter()
    fates: Counter[str] = Counter()
    messages = 0
    for account in sampler.account(NOW, is_last=True):
        assert isinstance(account, Sampled)
        counted.update(account.events)
        fates.update(account.fates)
        messages += account.messages
    assert counted == Counter(event.kind for event in left_out)
    assert messages == len({offset_of(event) for event in left_out}) == fates.total()
    assert sampler.held_events == 0
    assert sampler.account(NOW, is_last=True) == ()


@given(told=interleaved(), one_in=st.integers(2, 5))
def test_what_is_kept_is_the_same_in_any_order_and_in_a_rerun(
    told: list[Event], one_in: int
) -> None:
    """But for what an end of an epoch or an end of the run found undecided."""
    quiet = [event for event in told if isinstance(event, MessageEvent)]
    by_message = sorted(quiet, key=lambda event: event.offset)
    found = [
        Counter(map(id, passed(Sampling(SampleConfig(one_in=one_in)), order)))
        for order in (quiet, by_message)
    ]
    assert found[0] == found[1]


def kept_of(ending: str, keep: tuple[str, ...], *, end: bool = False) -> bool:
    """Whether a message that is not chosen by its identity is kept."""
    offset = next(n for n in range(99) if not is_chosen(f"0:{n}", 7))
    sampler = Sampling(SampleConfig(one_in=7, keep=keep))
    return bool(passed(sampler, events_of(offset, ending), end=end))


def test_each_rule_keeps_its_messages() -> None:
    always = ("failed", "lettered")
    assert kept_of("failed", always)
    assert kept_of("skipped", always)
    assert not kept_of("well", always)
    for rule, ending in (("retried", "retried"), ("slow", "slow"), ("label=tenant:acme", "acme")):
        assert kept_of(ending, (*always, rule)), rule
        assert not kept_of(ending, always), rule
    assert not kept_of("well", (*always, "label=tenant:acme"))


def test_a_replay_is_judged_as_the_message_that_it_replays() -> None:
    """By the place after which its tasks are named, not its own."""
    chosen = next(n for n in range(99) if is_chosen(f"0:{n}", 7))
    other = next(n for n in range(99) if not is_chosen(f"3:{n}", 7))
    consumed, arranged, completed = events_of(other, "well", partition=3)
    assert isinstance(arranged, Arranged)
    replay = Arranged(
        at=NOW, topic="t", partition=3, offset=other, labels={}, duration_ms=1,
        task_ids=[f"0:{chosen}:0"], batch_messages=1,
    )  # fmt: skip
    config = SampleConfig(one_in=7)
    assert passed(Sampling(config), [consumed, arranged, completed]) == []
    assert len(passed(Sampling(config), [consumed, replay, completed])) == 3


def test_what_has_no_fate_for_long_is_kept_with_what_comes_after() -> None:
    offset = next(n for n in range(99) if not is_chosen(f"0:{n}", 7))
    consumed, arranged, completed = events_of(offset, "well")
    sampler = Sampling(SampleConfig(one_in=7, slow_ms=100))
    assert not [*sampler.pass_on(consumed), *sampler.pass_on(arranged), *sampler.due(NOW + 0.09)]
    assert [*sampler.due(NOW + 0.1)] == [consumed, arranged]
    assert sampler.pass_on(completed) == (completed,)
    without = Sampling(SampleConfig(one_in=7, keep=("failed", "lettered"), slow_ms=100))
    without.pass_on(consumed)
    assert not [*without.due(NOW + 29)]
    assert [*without.due(NOW + sampling.MAX_HELD_SECONDS)] == [consumed]


def test_where_no_more_can_be_held_the_oldest_messages_are_kept() -> None:
    offsets = [n for n in range(sampling.MAX_HELD_EVENTS + 200) if not is_chosen(f"0:{n}", 7)]
    sampler = Sampling(SampleConfig(one_in=7))
    kept: list[Event] = []
    for offset in offsets:
        kept += sampler.pass_on(events_of(offset, "open")[0])
        assert sampler.held_events <= sampling.MAX_HELD_EVENTS
    over = max(0, len(offsets) - sampling.MAX_HELD_EVENTS)
    assert [offset_of(event) for event in kept] == offsets[:over]


def test_one_message_of_so_many_is_chosen() -> None:
    for one_in in (2, 10, 100):
        found = sum(is_chosen(f"{n % 50}:{n}", one_in) for n in range(100_000))
        assert 0.9 < found * one_in / 100_000 < 1.1
