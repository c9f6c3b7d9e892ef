"""Retry, breaker, commit and identity: pure rules."""

from __future__ import annotations

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.breaker import BreakerPolicy, Circuit, CircuitBreaker
from domain.commit import CommitMetadata, CommitPolicy
from domain.decision import DeadLetter, Retry
from domain.failure import FailureKind, TaskFailure
from domain.message import Message
from domain.origin import REPLAY_HEADER, MessageOrigin, Origin, task_number
from domain.retry import Backoff, default_decision
from domain.task import Task

names = st.text(string.ascii_lowercase + string.digits + "-_.", min_size=1, max_size=20)
origins = st.builds(
    MessageOrigin,
    cluster=names,
    topic=names,
    partition=st.integers(0, 2**31 - 1),
    offset=st.integers(0, 2**63 - 1),
    timestamp=st.integers(-(2**63), 2**63 - 1),
)


@given(st.integers(1, 10_000), st.floats(0, 1, exclude_max=True))
def test_back_off_stays_within_its_bounds(attempt: int, chance: float) -> None:
    backoff = Backoff(initial_seconds=1, factor=2, max_seconds=60, jitter=0.2)
    base = min(60.0, 2.0 ** min(attempt - 1, 64))
    delay = backoff.delay_seconds(attempt, chance)
    assert base * 0.8 <= delay <= base * 1.2


@given(st.integers(1, 20), st.integers(0, 10))
def test_an_input_never_silently_vanishes(attempt: int, max_retries: int) -> None:
    task = Task(args=("x",))
    failure = TaskFailure(task=task, kind=FailureKind.EXIT, detail="exit code 1", attempt=attempt)
    decision = default_decision(failure, max_retries)
    assert isinstance(decision, Retry if attempt <= max_retries else DeadLetter)


@given(st.lists(st.tuples(st.booleans(), st.floats(0.01, 20)), max_size=60))
def test_a_breaker_lets_one_probe_pass_after_each_cooldown(steps: list[tuple[bool, float]]) -> None:
    policy = BreakerPolicy(failure_threshold=3, cooldown_seconds=10)
    breaker, now, in_a_row, opened_at = CircuitBreaker(policy), 0.0, 0, None
    for succeeds, wait in steps:
        now += wait
        may = opened_at is None or now >= opened_at + policy.cooldown_seconds
        assert breaker.allows(now) is may
        if not may:
            assert breaker.state(now) is Circuit.OPEN
            continue
        if opened_at is not None:
            assert breaker.allows(now) is False, "a second probe at the same time"
        if succeeds:
            breaker.succeeded()
            in_a_row, opened_at = 0, None
        else:
            breaker.failed(now)
            in_a_row += 1
            opened_at = now if in_a_row >= policy.failure_threshold else None
        assert breaker.failures == in_a_row


@given(st.floats(0, 5), st.integers(0, 3000))
def test_a_commit_is_due_by_time_or_count(since: float, passed: int) -> None:
    due = CommitPolicy().is_due(since_seconds=since, passed=passed)
    assert due is (passed > 0 and (since >= 0.5 or passed >= 1000))


@given(st.uuids(), st.integers(0, 9), st.none() | st.integers(0, 2**62), st.booleans())
def test_commit_metadata_comes_back(
    run: object, deaths: int, mark: int | None, paused: bool
) -> None:
    given_ = CommitMetadata(run=str(run), deaths=deaths, mark=mark, is_paused=paused)
    assert CommitMetadata.decode(given_.encode()) == given_


@given(st.none() | st.text(max_size=200))
def test_foreign_commit_metadata_is_none(text: str | None) -> None:
    found = CommitMetadata.decode(text)
    assert found is None or CommitMetadata.decode(found.encode()) == found


@given(origins, st.integers(0, 99))
def test_a_replay_inherits_the_identity(origin: MessageOrigin, index: int) -> None:
    replay: Message[None] = Message(
        topic=origin.topic,
        partition=1,
        offset=2,
        key=None,
        value=b"",
        headers=((REPLAY_HEADER, str(origin).encode()),),
        timestamp=3,
        payload=None,
    )
    assert MessageOrigin.parse(str(origin)) == origin
    assert MessageOrigin.of(replay, "other") == origin
    stamped = Origin(message=origin, n="0.r1", hook="collect", index=index)
    assert stamped.delivery_id() == f"{origin}/0.r1/collect/{index}"
    assert stamped.delivery_id("k") == f"{origin.cluster}/{origin.topic}/key:k"


def test_a_task_number_keeps_its_replacements() -> None:
    assert task_number("3:17:0.r1.r2") == "0.r1.r2"


@pytest.mark.parametrize(
    "text", ['{"run":"a","deaths":Infinity}', "[" * 4000, '{"run":"a","mark":1e999}', "5", "null"]
)
def test_metadata_of_another_program_is_nobodys_word(text: str) -> None:
    assert CommitMetadata.decode(text) in (None, CommitMetadata(run="a"))
