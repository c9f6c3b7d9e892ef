"""Replays against a real PostgreSQL and the client library's mock of Kafka."""

from __future__ import annotations

import io
import json
import threading
from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import OFFSET_BEGINNING, Consumer, TopicPartition
from django.core.management import CommandError, call_command
from django.db import connection
from django.utils import timezone

from domain.letter import LIMIT_BYTES, LetterContent
from domain.message import Header, Message
from domain.origin import ONLY_TASKS_HEADER, REPLAY_HEADER, MessageOrigin
from integration.services.kafka_mock import RunningMock
from recorder.models import Event, Run
from sinks.base import ConfigError, PermanentError, TransientError
from sinks.letter import split_headers
from sinks.letter_rows import store_letters
from sinks.models import DeadLetter, LetterState, Replay
from sinks.record_writer import KafkaRecordTopic
from sinks.replay import (
    Original,
    Outcome,
    ReplayTransport,
    Selection,
    Sent,
    pacer,
    replay,
    walk,
)
from sinks.replay_kafka import KafkaReplayTransport, Place
from tests.contract.test_letters_postgres import record, row
from workers.management.commands import replay_dead_letters

pytestmark = pytest.mark.django_db(transaction=True)
OWN: list[Header] = [("drakkar-cluster", b"main"), ("drakkar-stage", b"task")]
WAIT_SECONDS = 20.0


class Tape:
    """A transport that remembers; ``refusal`` is raised instead of the next record."""

    topic = "t"

    def __init__(self) -> None:
        self.sent: list[tuple[Original, int]] = []
        self.refusal: Exception | None = None
        self.held: Original | None = None

    def open(self) -> None:
        """Always there."""

    def read(self, letter: DeadLetter) -> Original | None:
        return self.held

    def send(self, original: Original, partition: int) -> Sent:
        if self.refusal is not None:
            refusal, self.refusal = self.refusal, None
            raise refusal
        self.sent.append((original, partition))
        return Sent(topic="t", partition=partition, offset=len(self.sent))


@pytest.fixture
def tape() -> Tape:
    return Tape()


def store(*messages: Message[None], **changes: Any) -> list[DeadLetter]:
    rows = [row(message, at, **changes) for at, message in enumerate(messages, 1)]
    before = set(DeadLetter.objects.values_list("pk", flat=True))
    store_letters("main", "w", rows)
    return list(DeadLetter.objects.exclude(pk__in=before).order_by("pk"))


def run(transport: ReplayTransport, **selection: Any) -> Outcome:
    letters = walk(Selection(cluster="main", **selection), 1000)
    return replay(
        letters,
        transport,
        actor="mara",
        pace=lambda: None,
        told=lambda *_: None,
        arrived=lambda *_: None,
    )


def states() -> list[str]:
    return list(DeadLetter.objects.order_by("pk").values_list("state", flat=True))


def test_a_letter_is_sent_byte_for_byte_with_its_origin_and_never_again(tape: Tape) -> None:
    (letter,) = store(record())
    assert run(tape).replayed == 1
    ((original, partition),) = tape.sent
    assert (original.key, original.value, partition) == (record().key, record().value, 3)
    origin = (REPLAY_HEADER, b"main/t/3/7/1700")
    assert list(original.headers) == [*record().headers, origin]
    (made,) = Replay.objects.all()
    assert (made.letter_id, made.actor, made.error) == (letter.pk, "mara", "")
    assert (made.target_topic, made.target_partition, made.target_offset) == ("t", 3, 1)
    assert made.confirmed_at is not None
    assert states() == ["replayed"]
    assert run(tape) == Outcome()
    assert len(tape.sent) == 1


def test_a_replay_of_a_replay_keeps_the_first_origin(tape: Tape) -> None:
    only = (ONLY_TASKS_HEADER, b"0")
    store(record(50, headers=((REPLAY_HEADER, b"main/t/3/7/1700"), only, ("h", b"1"))))
    run(tape)
    ((original, _),) = tape.sent
    assert list(original.headers) == [("h", b"1"), (REPLAY_HEADER, b"main/t/3/7/1700")]
    replayed: Message[None] = record(51, headers=tuple(original.headers))
    assert MessageOrigin.of(replayed, "other").offset == 7


def test_letters_of_one_message_are_answered_by_one_record(tape: Tape) -> None:
    store(record(), letter_offset=1)
    store(record(), letter_offset=2, task_id="3:7:1")
    store(record(8), letter_offset=3)
    outcome = run(tape)
    assert (outcome.replayed, outcome.letters, outcome.taken) == (2, 3, 1)
    assert [original.headers[-1][1] for original, _ in tape.sent] == [
        b"main/t/3/7/1700",
        b"main/t/3/8/1700",
    ]
    assert states() == ["replayed"] * 3


def test_letters_that_share_the_header_of_another_stage_are_answered_each(tape: Tape) -> None:
    """The last release took the origin in a copied header for the message's own."""
    store(record(), letter_offset=1)
    store(record(8), letter_offset=2)
    DeadLetter.objects.update(origin="main/another-topic/0/5/1700")
    outcome = run(tape)
    assert (outcome.replayed, outcome.letters, len(tape.sent)) == (2, 2, 2)


def test_filters_choose(tape: Tape) -> None:
    one, two = store(record(1), record(2))
    (parse,) = store(record(3), stage="parse", failure="parse")
    (sink,) = store(record(4), sink="out", stage="deliver")

    def chosen(**selection: Any) -> list[DeadLetter]:
        return list(walk(Selection(cluster="main", **selection), 10))

    assert chosen(ids=[two.pk]) == [two]
    assert chosen(stage="parse") == chosen(failure="parse") == [parse]
    assert chosen(sink="out") == [sink]
    assert chosen(until=one.at) == chosen(since=timezone.now() + timedelta(days=1)) == []
    assert list(walk(Selection(cluster="other"), 10)) == []
    assert list(walk(Selection(cluster="main"), 2)) == [one, two]


@pytest.mark.parametrize("refusal", [PermanentError("too large"), ConfigError("no topic")])
def test_what_was_surely_not_written_is_open_again(tape: Tape, refusal: Exception) -> None:
    store(record(1), record(2))
    tape.refusal = refusal
    outcome = run(tape)
    assert (outcome.replayed, outcome.failed) == (1, ["t_dlq:3:101"])
    assert states() == ["open", "replayed"]
    assert Replay.objects.order_by("pk")[0].error == str(refusal)


def test_what_may_have_arrived_is_left_for_a_person(tape: Tape) -> None:
    first, _ = store(record(1), record(2))
    tape.refusal = TransientError("no report")
    outcome = run(tape)
    assert (outcome.replayed, outcome.unconfirmed) == (0, ["t_dlq:3:101"])
    assert states() == ["replayed", "open"]
    assert run(tape, ids=[first.pk]) == run(tape, is_unconfirmed=True) == Outcome()
    Replay.objects.update(asked_at=timezone.now() - timedelta(seconds=61))
    assert run(tape, is_unconfirmed=True).replayed == 1
    assert run(tape, is_unconfirmed=True) == Outcome()
    lost, again = Replay.objects.order_by("pk")
    assert lost.error == "never confirmed; sent again by mara"
    assert again.confirmed_at is not None


def test_a_sender_that_dies_leaves_a_state_that_can_be_seen(tape: Tape) -> None:
    store(record())
    tape.refusal = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        run(tape)
    assert states() == ["replayed"]
    made = Replay.objects.get()
    assert (made.confirmed_at, made.error) == (None, "")


def test_two_at_once_send_each_message_once(tape: Tape) -> None:
    for number in range(20):
        store(record(number), letter_offset=number * 2)
        store(record(number), letter_offset=number * 2 + 1)
    barrier, found = threading.Barrier(2), []

    def work() -> None:
        barrier.wait()
        found.append(run(tape))
        connection.close()

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(WAIT_SECONDS)
    assert sum(outcome.replayed for outcome in found) == len(tape.sent) == 20
    assert sum(outcome.letters for outcome in found) == Replay.objects.count() == 40


def large() -> Message[None]:
    return record(value=b"v" * (LIMIT_BYTES + 1), headers=(("drakkar-cluster", b"of another"),))


def test_a_large_letter_comes_from_its_topic(tape: Tape) -> None:
    message = large()
    store(message)
    headers, _ = split_headers([*message.headers, *OWN])
    tape.held = Original(key=message.key, value=message.value, headers=headers)
    assert run(tape).replayed == 1
    assert tape.sent[0][0].value == message.value
    assert list(tape.sent[0][0].headers)[:1] == list(message.headers)


@pytest.mark.parametrize("held", [None, Original(key=None, value=b"another", headers=())])
def test_a_large_letter_that_is_gone_expires(tape: Tape, held: Original | None) -> None:
    store(large())
    tape.held = held
    assert run(tape).expired == 1
    assert states() == [LetterState.EXPIRED]
    assert tape.sent == []


def test_the_rate_is_kept_without_bursts() -> None:
    now, slept = [0.0], []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        now[0] += seconds

    wait = pacer(4, lambda: now[0], sleep)
    for _ in range(3):
        wait()
    now[0] = 100.0
    wait()
    wait()
    assert slept == [0.25, 0.25, 0.25]


# -- through Kafka


@pytest.fixture
def topics(kafka_mock: RunningMock) -> tuple[str, str]:
    name = f"src-{uuid4().hex[:8]}"
    for topic in (name, f"{name}_dlq"):
        kafka_mock.create_topic(topic, 2)
    return name, f"{name}_dlq"


def read_all(brokers: str, topic: str, partition: int, count: int) -> Sequence[Any]:
    consumer = Consumer({"bootstrap.servers": brokers, "group.id": uuid4().hex})
    try:
        consumer.assign([TopicPartition(topic, partition, OFFSET_BEGINNING)])
        return [consumer.poll(WAIT_SECONDS) for _ in range(count)]
    finally:
        consumer.close()


def test_small_and_large_letters_go_through_kafka(
    kafka_mock: RunningMock, topics: tuple[str, str]
) -> None:
    source, letters = topics
    place = Place(brokers=kafka_mock.brokers, client={})
    writer = KafkaRecordTopic(topic=letters, brokers=kafka_mock.brokers, client={})
    messages = [record(1), large()]
    for message in messages:
        own = [*message.headers, *OWN]
        receipt = writer.write_record(message.key, message.value, own, 1)
        where = {"letter_topic": letters, "letter_partition": 1, "letter_offset": receipt.offset}
        store(message, **where)
    transport = KafkaReplayTransport(topic=source, source=place, letters=place)
    DeadLetter.objects.update(partition=1)
    assert run(transport).replayed == 2
    found = read_all(kafka_mock.brokers, source, 1, 2)
    for message, stored in zip(messages, found, strict=True):
        assert (stored.key(), stored.value()) == (message.key, message.value)
        assert stored.headers()[:-1] == list(message.headers)
        assert stored.headers()[-1][0] == REPLAY_HEADER
    assert LetterContent.of(large(), "main").is_whole is False


def call(*arguments: str) -> str:
    out = io.StringIO()
    call_command("replay_dead_letters", *arguments, stdout=out)
    return out.getvalue()


def test_a_dry_run_sends_nothing() -> None:
    (letter,) = store(record())
    shown = call("--cluster", "main", "--dry-run")
    assert shown.splitlines()[0].startswith(f"{letter.pk}  t 3:7  task/exit  would be replayed")
    told = json.loads(call("--cluster", "main", "--dry-run", "--json"))
    assert told == {"dry_run": True, "letters": [letter.pk]}
    assert states() == ["open"]
    assert Replay.objects.count() == 0


def test_the_command_tells_what_arrived_as_a_run_of_its_own(
    monkeypatch: pytest.MonkeyPatch, tape: Tape
) -> None:
    monkeypatch.setattr(replay_dead_letters, "_transport", lambda _: tape)
    call("--cluster", "main")
    assert not Run.objects.exists()
    first, second = store(record(), record(8))
    assert json.loads(call("--cluster", "main", "--rate", "1000", "--json"))["replayed"] == 2
    run = Run.objects.get()
    assert (run.cluster, run.worker, run.recorded_seq) == ("_control", "replay_dead_letters", 2)
    told = list(Event.objects.filter(run=run.id).order_by("seq"))
    assert [(e.kind, e.topic, e.partition, e.offset) for e in told] == [
        ("replayed", "t", 3, letter.offset) for letter in (first, second)
    ]
    assert [e.data["target"] for e in told if e.data] == ["t 3:1", "t 3:2"]
    assert Replay.objects.values_list("actor", flat=True)[0] == told[0].data["actor"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--cluster", "other"), "--cluster: expected one of main"),
        (("--cluster", "main", "--rate", "0"), "--rate: expected more than 0"),
        (("--cluster", "main", "--limit", "0"), "--limit: expected 1 or more"),
    ],
)
def test_bad_use_is_named(arguments: tuple[str, ...], said: str) -> None:
    with pytest.raises(CommandError, match=said) as caught:
        call(*arguments)
    assert caught.value.returncode == 2
