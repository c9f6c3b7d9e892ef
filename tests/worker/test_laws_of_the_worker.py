"""Laws 5 to 10 of the design, as property tests of their names; law 8 with real processes."""

from __future__ import annotations

import asyncio
import contextlib
import json
import secrets
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar
from unittest import mock

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from domain.breaker import BreakerPolicy
from domain.events import Control, Event, HookSlow
from domain.payload import MemoryPayload
from domain.retry import Backoff
from recorder import recorder as recorder_module
from recorder.config import RecorderConfig
from recorder.recorder import Recorder
from recorder.runs import RunDescription, uuid7
from sinks.base import ConfigError, Delivery, TransientError
from sinks.lane import Lane
from sinks.lane_queue import Entry, LanePolicy, LaneQueue, OutcomeKind
from tests.process.test_executor import gone, sh, with_executor
from tests.support.executors import RoomyExecutor
from tests.support.lanes import Collector, entries_of
from tests.support.pipeline import TOPIC, Letters, ShellHandler, new_cluster, running

A_WORKER = settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
"""Each example runs a whole worker or real processes."""

GOOD, BAD = json.dumps({"script": "echo hi"}).encode(), b"not json"


@A_WORKER
@given(st.lists(st.sampled_from([GOOD, BAD]), min_size=1, max_size=6).filter(lambda v: BAD in v))
def test_if_a_dead_letter_cannot_be_written_the_partition_stops_and_waits(
    values: list[bytes],
) -> None:
    """Law 5: its offset does not pass, other partitions go on, and nothing is lost by the wait."""

    async def scenario() -> None:
        cluster, letters = new_cluster(partitions=2), Letters(is_down=True)
        for value in values:
            cluster.produce(TOPIC, 0, value=value)
        cluster.produce(TOPIC, 1, value=GOOD)
        async with running(cluster, letters=letters) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            await live.fates(values.count(GOOD) + 1)
            first_bad = values.index(BAD)
            assert (live.committed() or 0) <= first_bad
            fates = {(e.partition, e.offset): e.fate for e in live.heard.of("message_completed")}
            assert "dead_lettered" not in fates.values()
            letters.is_down = False
            await live.fates(len(values) + 1)
            assert await live.stop() == 0
            assert (live.committed(0), live.committed(1)) == (len(values), 1)
            assert len(letters.stored) == values.count(BAD)

    asyncio.run(scenario())


class NothingGivenUpIsDeliveredAnew(RuleBasedStateMachine):
    """Law 6 in the lane: after its withdrawal no ``deliver`` call begins with a payload, and each
    one is released exactly once."""

    def __init__(self) -> None:
        super().__init__()
        self.queue = LaneQueue(LanePolicy(max_batch=4, linger_seconds=0))
        self.now = 0.0
        self.all: list[Entry] = []
        self.given_up: set[int] = set()
        self.released: list[int] = []
        self.in_hand: list[Entry] = []
        self.rest: list[Entry] = []

    def begun(self, entries: Sequence[Entry]) -> None:
        assert not self.given_up & {entry.index for entry in entries}

    @rule(count=st.integers(1, 4))
    def submit(self, count: int) -> None:
        first = len(self.all)
        new = entries_of(Collector(0), [delivery(first + n) for n in range(count)])
        for place, entry in enumerate(new):
            entry.index = first + place
        self.all += new
        self.queue.add(new, self.now)

    @rule(data=st.data())
    @precondition(lambda self: self.all)
    def withdraw(self, data: st.DataObject) -> None:
        entry = data.draw(st.sampled_from(self.all))
        if entry.index in self.given_up or entry.index in self.released:
            return
        self.released += [taken.index for taken in self.queue.withdraw([entry])]
        self.given_up.add(entry.index)

    @rule()
    @precondition(lambda self: not self.in_hand and not self.rest)
    def take(self) -> None:
        self.in_hand = self.queue.take(self.now)
        self.begun(self.in_hand)

    @rule()
    @precondition(lambda self: len(self.in_hand) > 1)
    def narrow(self) -> None:
        """As the lane's thread halves a refused batch and goes on with the first half."""
        self.queue.hold(self.in_hand)
        middle = len(self.in_hand) // 2
        half, self.rest = self.in_hand[:middle], self.in_hand[middle:] + self.rest
        self.in_hand = self.queue.begin(half, self.now)
        self.begun(self.in_hand)

    @rule(is_stored=st.booleans())
    @precondition(lambda self: self.in_hand or self.rest)
    def end(self, is_stored: bool) -> None:
        if is_stored:
            self.queue.done(self.in_hand)
            self.released += [entry.index for entry in self.in_hand]
        self.queue.put_back(self.rest)
        if not is_stored:
            self.queue.put_back(self.in_hand)
        self.queue.finished()
        self.released += [entry.index for entry in self.queue.dropped()]
        self.in_hand, self.rest = [], []

    @invariant()
    def released_once(self) -> None:
        assert len(self.released) == len(set(self.released))

    def teardown(self) -> None:
        """Everything ends: stored, or given up; nothing is held for ever."""
        if self.in_hand or self.rest:
            self.end(is_stored=True)
        while batch := self.queue.take(self.now):
            self.begun(batch)
            self.queue.done(batch)
            self.queue.finished()
            self.released += [entry.index for entry in batch]
        assert sorted(self.released) == [entry.index for entry in self.all]


TestNothingGivenUpIsDeliveredAnew = NothingGivenUpIsDeliveredAnew.TestCase


def delivery(number: int) -> Delivery:
    payload = MemoryPayload(sink="s", value=number)
    return Delivery(payload=payload, delivery_id=str(number), topic="t", partition=0, offset=number)


def told(is_control: bool) -> Event:
    if is_control:
        return Control(at=1.0, action="stop", target="", outcome="done", request="r", detail="")
    return HookSlow(at=1.0, topic="t", partition=0, hook="collect", duration_ms=1.0)


@given(kinds=st.lists(st.booleans(), max_size=60), room=st.integers(0, 30))
def test_a_full_or_dead_recorder_never_slows_the_pipeline_and_counts_what_it_lost(
    kinds: list[bool], room: int
) -> None:
    """Law 7: nobody takes anything out here, as with a thread held up for ever."""
    run = RunDescription(
        id=uuid7(1.0), cluster="main", worker="w", host="h", pid=1, version="0",
        isolation="groups", slots=1, config_hash="", config={}, environment={}, started_at=1.0,
    )  # fmt: skip
    recorder = Recorder(run, RecorderConfig(spool_dir=Path("never-made")))
    with mock.patch.object(recorder_module, "MAX_TOLD_EVENTS", room):
        for is_control in kinds:
            recorder.tell(told(is_control))
    figures = recorder.figures()
    assert figures.buffer_events + figures.shed == len(kinds)
    assert figures.buffer_events <= room + kinds.count(True)
    assert figures.shed <= kinds.count(False)


SCRIPTS = st.sampled_from(
    [
        "sleep {tag} & sleep {tag} & echo done",
        "trap '' TERM; sleep {tag} & sleep {tag}",
        "setsid setsid sleep {tag} >/dev/null 2>&1 & sleep 0.1",
        "(setsid sleep {tag} &) ; sleep {tag}",
        "sleep {tag}",
    ]
)


@pytest.mark.parametrize("tier", ["pid_namespace", "groups"])
@A_WORKER
@given(script=SCRIPTS, is_cancelled=st.booleans())
def test_when_a_task_ends_nothing_of_it_is_left(tier: Any, script: str, is_cancelled: bool) -> None:
    """Law 8: by itself, at its deadline or cancelled; escaped daemons within 1 s."""
    tag = f"7{secrets.randbelow(10**6):06d}.5"

    async def body(executor: RoomyExecutor, _: Any) -> None:
        launch = sh(script.format(tag=tag), timeout_seconds=0.5, kill_grace_seconds=0.1)
        running = asyncio.create_task(executor.run(launch))
        if is_cancelled:
            await asyncio.wait((running,), timeout=0.1)
            running.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await running
        await gone(tag, 1.0)

    with_executor(tier, body)


class Ill:
    """A sink that fails as the script says, then is well."""

    kind: ClassVar[str] = "memory"

    def __init__(self, errors: list[Exception]) -> None:
        self.errors = errors
        self.stored: list[Any] = []

    def open(self) -> None:
        """Nothing to connect to."""

    def encode(self, delivery: Delivery) -> Delivery:
        return delivery

    def send(self, batch: Sequence[Delivery]) -> None:
        if self.errors:
            raise self.errors.pop(0)
        self.stored += [one.offset for one in batch]

    def close(self) -> None:
        """Nothing to release."""


ILLNESSES = st.sampled_from(
    [TransientError("away"), ConfigError("no table"), ConnectionResetError("reset")]
)


@settings(max_examples=40, deadline=None)
@given(errors=st.lists(ILLNESSES, max_size=8), count=st.integers(1, 5))
def test_infrastructure_errors_wait_and_retry_and_never_dead_letter(
    errors: list[Exception], count: int
) -> None:
    """Law 9, by default: whatever the sink's illness, every payload is stored once it is well."""

    async def scenario() -> None:
        sink, owner = Ill(list(errors)), Collector(count)
        quick = Backoff(initial_seconds=0.001, factor=1, max_seconds=0.001, jitter=0)
        breaker = BreakerPolicy(failure_threshold=3, cooldown_seconds=0.005)
        policy = LanePolicy(backoff=quick, linger_seconds=0, breaker=breaker)
        lane = Lane("s", "memory", lambda: sink, policy)
        lane.listen(owner)
        lane.start()
        await lane.submit(entries_of(owner, [delivery(n) for n in range(count)]))
        assert await owner.wait() == [OutcomeKind.DELIVERED] * count
        assert await lane.close(5)
        assert sorted(sink.stored) == list(range(count))

    asyncio.run(scenario())


@A_WORKER
@given(scripts=st.lists(st.sampled_from(["echo a", "echo b", "true"]), min_size=1, max_size=5))
def test_the_same_input_processed_twice_leaves_the_same_state(scripts: list[str]) -> None:
    """Law 10, as far as the worker goes: the same delivery ids with the same payloads. That a sink
    stores an id once is each sink's contract (tests/contract/test_sink_contract.py)."""

    async def state() -> dict[str, Any]:
        cluster = new_cluster()
        for script in scripts:
            cluster.produce(TOPIC, 0, value=json.dumps({"script": script}).encode())
        async with running(cluster, handler=ShellHandler({})) as live:
            await live.fates(len(scripts))
            assert await live.stop() == 0
            return {one.delivery_id: one.payload.value for one in live.stored}

    async def scenario() -> None:
        first = await state()
        assert len(first) == len(scripts)
        assert await state() == first

    asyncio.run(scenario())
