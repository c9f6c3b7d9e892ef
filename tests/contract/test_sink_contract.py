"""One suite for every kind of sink, on its real server and with that server's faults."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from typing import Any

import pytest
from confluent_kafka import KafkaError

from domain.breaker import BreakerPolicy
from domain.retry import Backoff
from sinks.base import Delivery, PermanentError, Sink, SinkError, TransientError
from sinks.lane import Lane
from sinks.lane_core import encode
from sinks.lane_queue import LanePolicy, OutcomeKind
from tests.contract.sinks.kafka import PRODUCE
from tests.contract.sinks.subject import (
    ENCODING_ERRORS,
    IMPATIENT_SECONDS,
    TIMEOUT_SECONDS,
    Case,
    Raising,
    Row,
    ServedSubject,
    Subject,
    cases,
    delivery,
    good_batch,
    new_ids,
)
from tests.support.lanes import Collector, deliver, entries_of
from tests.support.proxy import CutAfter, CutBeforeReply, Proxy, Stall
from tests.support.services import require

SLACK_SECONDS = 3.0
RECOVERY_SECONDS = 30.0
QUICK = Backoff(initial_seconds=0.05, factor=1, max_seconds=0.05, jitter=0)

Start = Callable[[Case], Any]

ALL = pytest.mark.parametrize("case", cases(), ids=lambda case: case.name)
REFUSING = pytest.mark.parametrize(
    "case", [case for case in cases() if case.refuses], ids=lambda case: case.name
)
SERVED = pytest.mark.parametrize(
    "case", [case for case in cases() if case.has_server], ids=lambda case: case.name
)
ROWS = pytest.mark.parametrize(
    ("case", "row"),
    [
        pytest.param(case, row, id=f"{case.name}-{row.name}")
        for case in cases()
        for row in case.rows
    ],
)


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Start]:
    """Starts the server of a case at its first use; all end with the module."""
    with ExitStack() as stack:
        subjects: dict[str, Any] = {}

        def started(case: Case) -> Any:
            if case.service is not None:
                require(case.service)
            if case.name not in subjects:
                folder = tmp_path_factory.mktemp(case.name)
                subjects[case.name] = stack.enter_context(case.start(folder))
            return subjects[case.name]

        yield started


@contextmanager
def opened(sink: Sink) -> Iterator[Sink]:
    try:
        sink.open()
        yield sink
    finally:
        sink.close()


@contextmanager
def opened_impatient(subject: ServedSubject, proxy: Proxy | None = None) -> Iterator[Sink]:
    """Opened with ``IMPATIENT_SECONDS``; again, as a lane would, where a server was too slow."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while True:
        sink = subject.build(proxy, timeout_seconds=IMPATIENT_SECONDS)
        try:
            sink.open()
            break
        except TransientError:
            sink.close()
            assert time.monotonic() < deadline
    with closing(sink):
        yield sink


def ids_of(batch: Sequence[Delivery]) -> set[str]:
    return {one.delivery_id for one in batch}


def deliver_until_stored(sink: Sink, batch: Sequence[Delivery]) -> None:
    """As a lane would: again after each transient error, with a deadline."""
    deadline = time.monotonic() + RECOVERY_SECONDS
    while time.monotonic() < deadline:
        with suppress(TransientError):
            deliver(sink, batch)
            return
    deliver(sink, batch)


def assert_stored(subject: Subject, case: Case, batch: Sequence[Delivery]) -> None:
    """Each once; more often only where the kind cannot know."""
    stored = subject.stored()
    counts = {one: stored[one] for one in ids_of(batch)}
    assert all(counts.values()), counts
    if not case.repeats:
        assert set(counts.values()) == {1}, counts


def fails_transiently(
    sink: Sink, batch: Sequence[Delivery], timeout_seconds: float = TIMEOUT_SECONDS
) -> None:
    """Within the sink's own timeout, not later."""
    began = time.monotonic()
    with pytest.raises(TransientError):
        deliver(sink, batch)
    assert time.monotonic() - began < timeout_seconds + SLACK_SECONDS


def through_a_lane(sink: Sink, batch: Sequence[Delivery]) -> list[OutcomeKind]:
    async def scenario() -> list[OutcomeKind]:
        breaker = BreakerPolicy(failure_threshold=1000)
        policy = LanePolicy(backoff=QUICK, breaker=breaker, linger_seconds=0.05)
        lane = Lane("s", "k", lambda: sink, policy)
        lane.start()
        owner = Collector(len(batch))
        await lane.submit(entries_of(owner, batch))
        try:
            return await owner.wait(RECOVERY_SECONDS)
        finally:
            assert await lane.close(RECOVERY_SECONDS)

    return asyncio.run(scenario())


@ALL
def test_a_batch_is_stored_whole(case: Case, start: Start) -> None:
    subject: Subject = start(case)
    batch = good_batch(subject, 50)
    with opened(subject.build()) as sink:
        deliver(sink, batch)
    stored = subject.stored()
    assert {one: stored[one] for one in ids_of(batch)} == dict.fromkeys(ids_of(batch), 1)


@ALL
def test_the_same_batch_delivered_twice(case: Case, start: Start) -> None:
    subject: Subject = start(case)
    batch = good_batch(subject, 5)
    with opened(subject.build()) as sink:
        deliver(sink, batch)
        deliver(sink, batch)
    assert_stored(subject, case, batch)


@REFUSING
def test_a_bad_payload_alone_is_a_data_error(case: Case, start: Start) -> None:
    subject: Subject = start(case)
    (bad_id,) = new_ids(1)
    with opened(subject.build()) as sink:
        with pytest.raises(PermanentError):
            deliver(sink, [delivery(subject.bad(bad_id), bad_id)])
        deliver(sink, good := good_batch(subject, 1))
    assert_stored(subject, case, good)
    assert subject.stored()[bad_id] == 0


@REFUSING
@pytest.mark.parametrize("position", [0, 7, 19])
def test_the_bad_one_of_a_batch_is_refused_and_the_good_are_stored_once(
    case: Case, start: Start, position: int
) -> None:
    subject: Subject = start(case)
    batch = good_batch(subject, 19)
    (bad_id,) = new_ids(1)
    batch.insert(position, delivery(subject.bad(bad_id), bad_id))
    kinds = through_a_lane(subject.build(), batch)
    wanted = [OutcomeKind.DELIVERED] * 20
    wanted[position] = OutcomeKind.REFUSED
    assert kinds == wanted
    stored = subject.stored()
    good_ids = ids_of(batch) - {bad_id}
    assert {one: stored[one] for one in good_ids} == dict.fromkeys(good_ids, 1)
    assert stored[bad_id] == 0


@REFUSING
@pytest.mark.parametrize("error", ENCODING_ERRORS, ids=lambda error: type(error).__name__)
def test_what_encoding_raises_is_the_fault_of_that_payload(
    case: Case, start: Start, error: Exception
) -> None:
    """Before anything is sent: it alone is refused, with its words, the others are stored."""
    subject: Subject = start(case)
    batch = good_batch(subject, 4)
    (bad_id,) = new_ids(1)
    bad = delivery(subject.unencodable(bad_id, Raising(error)), bad_id)
    with closing(subject.build()) as sink:
        with pytest.raises(PermanentError):
            encode(sink, bad)
        batch.insert(2, bad)
        kinds = through_a_lane(sink, batch)
    wanted = [OutcomeKind.DELIVERED] * 5
    wanted[2] = OutcomeKind.REFUSED
    assert kinds == wanted
    stored = subject.stored()
    good_ids = ids_of(batch) - {bad_id}
    assert {one: stored[one] for one in good_ids} == dict.fromkeys(good_ids, 1)
    assert stored[bad_id] == 0


@SERVED
def test_an_answer_that_never_came_leaves_one(case: Case, start: Start) -> None:
    subject: ServedSubject = start(case)
    with subject.proxy() as proxy, opened(subject.build(proxy)) as sink:
        deliver_until_stored(sink, good_batch(subject, 1))
        batch = good_batch(subject, 5)
        proxy.set(CutBeforeReply(subject.reply_mark))
        deliver_until_stored(sink, batch)
        assert proxy.cuts == 1
    assert_stored(subject, case, batch)


@SERVED
def test_a_request_cut_in_the_middle_is_stored_in_the_end(case: Case, start: Start) -> None:
    subject: ServedSubject = start(case)
    with subject.proxy() as proxy, opened(subject.build(proxy)) as sink:
        deliver_until_stored(sink, good_batch(subject, 1))
        batch = good_batch(subject, 5)
        proxy.set(CutAfter(30))
        deliver_until_stored(sink, batch)
        assert proxy.cuts == 1
    assert_stored(subject, case, batch)


@SERVED
def test_a_stalled_way_is_transient_in_time(case: Case, start: Start) -> None:
    subject: ServedSubject = start(case)
    with subject.proxy() as proxy, opened_impatient(subject, proxy) as sink:
        batch = good_batch(subject, 5)
        proxy.set(Stall())
        fails_transiently(sink, batch, IMPATIENT_SECONDS)


@SERVED
def test_a_frozen_server_is_transient_in_time(case: Case, start: Start) -> None:
    subject: ServedSubject = start(case)
    batch = good_batch(subject, 5)
    with opened_impatient(subject) as sink:
        deliver_until_stored(sink, good_batch(subject, 1))
        subject.freeze()
        try:
            fails_transiently(sink, batch, IMPATIENT_SECONDS)
        finally:
            subject.thaw()
        deliver_until_stored(sink, batch)
    assert_stored(subject, case, batch)


@SERVED
def test_a_frozen_server_is_transient_at_open(case: Case, start: Start) -> None:
    subject: ServedSubject = start(case)
    sink = subject.build(timeout_seconds=IMPATIENT_SECONDS)
    subject.freeze()
    began = time.monotonic()
    try:
        with pytest.raises(TransientError):
            sink.open()
    finally:
        subject.thaw()
    assert time.monotonic() - began < IMPATIENT_SECONDS + SLACK_SECONDS
    sink.close()


@pytest.mark.slow
@SERVED
def test_a_stopped_server_is_transient_and_works_again(case: Case, start: Start) -> None:
    subject: ServedSubject = start(case)
    batch = good_batch(subject, 5)
    with opened(subject.build()) as sink:
        subject.stop()
        try:
            fails_transiently(sink, batch)
            with closing(subject.build()) as late:
                fails_transiently(late, good_batch(subject, 1))
        finally:
            subject.start()
        deliver_until_stored(sink, batch)
    assert_stored(subject, case, batch)


@pytest.mark.slow
@ROWS
def test_a_row_of_the_error_table(case: Case, row: Row, start: Start) -> None:
    with pytest.raises(SinkError) as caught:
        row.provoke(start(case))
    assert type(caught.value) is row.expected, caught.value
    assert str(caught.value)


@pytest.mark.parametrize(
    "case", [c for c in cases() if c.name == "kafka-mock"], ids=lambda c: c.name
)
def test_kafka_goes_on_with_a_new_client_after_a_fatal_error(case: Case, start: Start) -> None:
    subject = start(case)
    with opened(subject.build()) as sink:
        deliver(sink, good_batch(subject, 1))
        subject.push_errors(PRODUCE, KafkaError.OUT_OF_ORDER_SEQUENCE_NUMBER)
        batch = good_batch(subject, 3)
        fails_transiently(sink, batch)
        deliver(sink, batch)
    assert_stored(subject, case, batch)
