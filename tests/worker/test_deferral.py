"""Delayed retries over a retry topic, by a whole worker on a memory cluster."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from domain.deferral import Deferral
from domain.events import MessageCompleted, MessageDeferred, TaskStarted
from domain.fate import Fate
from domain.message import Message, Record
from domain.origin import MessageOrigin
from domain.retry import Backoff
from tests.support.pipeline import (
    RETRY_TOPIC,
    TOPIC,
    Letters,
    Retries,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from tests.worker.test_command_executor import obey
from workers.broker.base import TopicPartition
from workers.broker.memory import MemoryCluster
from workers.config import ClusterConfig
from workers.consumer.ownership import PauseReason
from workers.control import Action
from workers.handler import DeadLetter, MemoryPayload, Replace, Retry, Skip, Task, TaskResult

DELAY_SECONDS = 0.3
GROUP = "group"
RETRY_PLACE = TopicPartition(RETRY_TOPIC, 0)


class Patient(ShellHandler):
    """A message is a list of scripts; a failed one runs again after a while, three times in all."""

    def parse(self, message: Any) -> Any:
        return message.value.decode().split("\n")

    async def arrange(self, messages: Any, pending: Any) -> Sequence[Task]:
        return [
            Task(args=("-c", script), source_offsets=(message.offset,))
            for message in messages
            for script in message.payload
        ]

    async def collect(self, result: TaskResult) -> Any:
        return [MemoryPayload(sink="store", value=result.stdout_text)]

    async def on_error(self, failure: Any) -> Any:
        if failure.attempt >= 3:
            return DeadLetter(reason=f"attempt {failure.attempt}")
        return Retry(delay_seconds=DELAY_SECONDS)


def config(**parts: Any) -> ClusterConfig:
    made = cluster_config(retry_in_place_seconds=0.1).model_dump()
    return ClusterConfig.model_validate({**made, "retry": {"topic": RETRY_TOPIC}, **parts})


def kafka(partitions: int = 1) -> MemoryCluster:
    cluster = new_cluster(partitions)
    cluster.create_topic(RETRY_TOPIC, 1)
    return cluster


def play(
    cluster: MemoryCluster,
    scene: Callable[[Running], Any],
    retries: Retries | None = None,
    letters: Letters | None = None,
    handler: type[ShellHandler] = Patient,
    of: ClusterConfig | None = None,
) -> None:
    async def main() -> None:
        async with running(
            cluster, of or config(), handler({}), letters=letters, retries=retries
        ) as live:
            await scene(live)

    asyncio.run(main())


def fates(live: Running) -> list[tuple[str, int, str]]:
    found: list[MessageCompleted] = live.heard.of("message_completed")
    return [(event.topic, event.offset, event.fate) for event in found]


def values_of(live: Running) -> list[Any]:
    return [delivery.payload.value for delivery in live.stored]


def starts(live: Running) -> list[tuple[str, str, int]]:
    found: list[TaskStarted] = live.heard.of("task_started")
    return [(event.topic, event.task_id, event.attempt) for event in found]


def test_a_failed_task_runs_again_from_the_retry_topic_and_no_other() -> None:
    cluster = kafka()
    script = b"echo good\n[ $DRAKKAR_ATTEMPT = 2 ] && echo late"
    cluster.produce(TOPIC, 0, script, key=b"k", headers=[("h", b"1"), ("drakkar-due", b"x")])

    async def scene(live: Running) -> None:
        await live.fates(2)
        assert fates(live) == [(TOPIC, 0, Fate.DEFERRED), (RETRY_TOPIC, 0, Fate.DELIVERED)]
        assert sorted(starts(live)) == [
            (TOPIC, "0:0:0", 1), (TOPIC, "0:0:1", 1), (RETRY_TOPIC, "0:0:1", 2),
        ]  # fmt: skip
        (event,) = live.heard.of("deferred")
        assert isinstance(event, MessageDeferred)
        assert (event.retry_topic, event.retry_partition, event.retry_offset) == (RETRY_TOPIC, 0, 0)
        assert event.task_ids == ["0:0:1"]
        deferred, ended = live.heard.of("message_completed")
        assert ended.at - deferred.at >= DELAY_SECONDS - 0.1
        ids = [delivery.delivery_id for delivery in live.heard.of("delivered")]
        time_ms = 1_700_000_000_000
        assert sorted(ids) == [f"main/{TOPIC}/0/0/{time_ms}/{n}/collect/0" for n in (0, 1)]
        assert await live.stop() == 0
        assert live.committed() == 1
        assert cluster.committed(GROUP, RETRY_TOPIC, 0).offset == 1
        record = next(iter(cluster.logs[cluster.partitions_of(RETRY_TOPIC)[0]].records))
        assert (record.key, record.value, record.headers[0]) == (b"k", script, ("h", b"1"))
        assert [name for name, _ in record.headers].count("drakkar-due") == 1

    play(cluster, scene)


def record_of(cluster: MemoryCluster, offset: int = 0) -> Any:
    """The record at that place of the retry topic, with its headers as a dictionary."""
    (record,) = (r for r in cluster.logs[RETRY_PLACE].records if r.offset == offset)
    return record, {name: (value or b"").decode() for name, value in record.headers}


def test_the_last_attempt_leaves_a_letter_of_the_first_life() -> None:
    cluster, letters = kafka(), Letters()
    cluster.produce(TOPIC, 0, b"echo good\nexit 3", headers=[("h", b"1")])

    async def scene(live: Running) -> None:
        await live.fates(3)
        assert fates(live) == [
            (TOPIC, 0, Fate.DEFERRED),
            (RETRY_TOPIC, 0, Fate.DEFERRED),
            (RETRY_TOPIC, 1, Fate.DEAD_LETTERED),
        ]
        assert [attempt for _, name, attempt in starts(live) if name == "0:0:1"] == [1, 2, 3]
        assert values_of(live) == ["good\n"]
        (told,) = live.heard.of("dead_lettered")
        assert (told.topic, told.partition, told.offset, told.attempts) == (TOPIC, 0, 0, 3)
        assert told.content.headers == (("h", b"1"),)

    play(cluster, scene, letters=letters)
    ((_, _, headers),) = letters.stored
    assert headers["drakkar-origin-topic"] == TOPIC.encode()
    assert headers["drakkar-attempts"] == b"3"
    assert headers["drakkar-task-id"] == b"0:0:1"
    assert not {"drakkar-due", "drakkar-deferred-to", "drakkar-only-tasks"} & headers.keys()
    _, second = record_of(cluster, 1)
    assert second["drakkar-deferred-from"] == f"{RETRY_TOPIC}/0/0"
    assert second["drakkar-replay-of"] == f"main/{TOPIC}/0/0/1700000000000"


class Mixed(Patient):
    """The first attempt of ``exit 4`` leaves a letter, that of ``exit 5`` is skipped."""

    async def on_error(self, failure: Any) -> Any:
        code = failure.result.exit_code
        answers = {4: DeadLetter(reason="four"), 5: Skip(reason="five")}
        return answers.get(code) or Retry(delay_seconds=DELAY_SECONDS)


def test_the_last_fate_is_that_of_all_tasks_over_all_lives() -> None:
    second = b"\n[ $DRAKKAR_ATTEMPT = 1 ] && exit 1; exit 5"
    for script, fate in (
        (b"exit 4" + second, Fate.DEAD_LETTERED),
        (b"true" + second, Fate.DELIVERED),
        (b"exit 5" + second, Fate.SKIPPED),
    ):
        cluster, letters = kafka(), Letters()
        cluster.produce(TOPIC, 0, script)

        async def scene(live: Running, fate: Fate = fate) -> None:
            await live.fates(2)
            assert [found for _, _, found in fates(live)] == [Fate.DEFERRED, fate]

        play(cluster, scene, letters=letters, handler=Mixed)
        assert len(letters.stored) == (fate is Fate.DEAD_LETTERED)


def waits(
    cluster: MemoryCluster, script: bytes, due_in: float, offset: int = 7, partition: int = 0
) -> None:
    """Put a message of the source into the retry topic, its only task to run after so long."""
    first: Record = Message(
        topic=TOPIC, partition=partition, offset=offset, key=None, value=script, headers=(),
        timestamp=5, payload=None,
    )  # fmt: skip
    deferral = Deferral(
        origin=MessageOrigin.of(first, "main"), due_at=time.time() + due_in, attempts={0: 1}
    )
    cluster.produce(RETRY_TOPIC, 0, script, headers=deferral.headers(first, RETRY_TOPIC))


def test_what_is_due_tomorrow_holds_nobody_up() -> None:
    cluster = kafka()
    waits(cluster, b"echo tomorrow", 86_400.0, offset=1)
    waits(cluster, b"echo soon", 0.2, offset=2)
    waits(cluster, b"echo now", -1.0, offset=3)
    cluster.produce(TOPIC, 0, b"echo source")

    async def scene(live: Running) -> None:
        await live.fates(3)
        assert sorted(fates(live)) == [
            (TOPIC, 0, Fate.DELIVERED),
            (RETRY_TOPIC, 1, Fate.DELIVERED),
            (RETRY_TOPIC, 2, Fate.DELIVERED),
        ]
        beats = {beat.topic: beat for beat in await figures(live)}
        assert (beats[TOPIC].held, beats[RETRY_TOPIC].held) == (None, 1)
        blocker = beats[RETRY_TOPIC].blocker
        assert blocker is not None
        assert (blocker.offset, blocker.age_seconds) == (0, 0.0)
        assert await live.stop() == 0
        assert cluster.committed(GROUP, RETRY_TOPIC, 0).offset == 0

    play(cluster, scene)

    async def heir(live: Running) -> None:
        await live.fates(2)
        assert fates(live) == [(RETRY_TOPIC, 1, Fate.SKIPPED), (RETRY_TOPIC, 2, Fate.SKIPPED)]
        assert values_of(live) == []

    play(cluster, heir)


def test_an_operators_pause_holds_what_becomes_due() -> None:
    cluster = kafka()
    waits(cluster, b"echo due", 0.3)

    async def scene(live: Running) -> None:
        partitions = live.worker._parts.epochs.partitions
        await live.heard.until(lambda: bool(live.heard.of("consumed")))
        (retry,) = (one for claim, one in partitions.items() if claim.topic == RETRY_TOPIC)
        retry.set_pause(PauseReason.OPERATOR, True)
        wanted = live.worker._parts.board.read(retry.claim)
        assert (wanted.resting, wanted.fates) == (1, 0)
        cluster.produce(TOPIC, 0, b"sleep 0.5; echo later")
        await live.fates(1)
        assert values_of(live) == ["later\n"]
        retry.set_pause(PauseReason.OPERATOR, False)
        await live.fates(2)
        assert values_of(live) == ["later\n", "due\n"]
        assert live.worker._parts.board.read(retry.claim).resting == 0

    play(cluster, scene)


async def figures(live: Running) -> Sequence[Any]:
    """The partitions as the next heartbeat tells them."""
    epochs = live.worker._parts.epochs
    return [partition.figures() for partition in epochs.partitions.values()]


def test_a_deferred_task_is_cancelled_by_its_id_whatever_partition_it_runs_in() -> None:
    cluster = kafka()
    waits(cluster, b"sleep 60", 0.0, offset=7, partition=3)

    async def scene(live: Running) -> None:
        await live.heard.until(lambda: bool(live.heard.of("task_started")))
        answer = await obey(live, Action.CANCEL_TASK, task_id="3:7:0", decision="skip")
        assert answer.detail == "cancelled"
        await live.fates(1)
        assert fates(live) == [(RETRY_TOPIC, 0, Fate.SKIPPED)]

    play(cluster, scene)


def test_the_lag_of_an_empty_retry_partition_is_known() -> None:
    """Else that of the whole cluster would be unknown."""
    cluster = kafka()
    cluster.produce(TOPIC, 0, b"echo fine")

    async def scene(live: Running) -> None:
        await live.fates(1)
        async with asyncio.timeout(10):
            # Figures are taken by a tick, and nobody tells of that.
            while [beat.lag for beat in live.worker.figures().beat.partitions] != [0, 0]:  # noqa: ASYNC110
                await asyncio.sleep(0.1)

    play(cluster, scene)


def test_a_partition_that_holds_enough_rests_until_something_is_due(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("domain.holding.MOST_HELD", 3)
    cluster = kafka()
    for offset in range(8):
        waits(cluster, b"echo %d" % offset, 0.5, offset=offset)
    cluster.produce(TOPIC, 0, b"echo source")
    of = config(
        kafka={"topic": TOPIC, "group": GROUP, "max_poll_records": 1},
        backpressure={"high_messages": 2},
    )
    most = 0

    async def scene(live: Running) -> None:
        nonlocal most
        while len(fates(live)) < 9:
            held = [beat.held for beat in await figures(live) if beat.held is not None]
            most = max([most, *held])
            await live.heard.until_next()
        assert fates(live)[0] == (TOPIC, 0, Fate.DELIVERED)
        assert sorted(values_of(live)) == [*(f"{n}\n" for n in range(8)), "source\n"]

    play(cluster, scene, of=of)
    under_way = 2
    assert 3 <= most <= 3 + under_way


def test_a_partition_rests_before_its_done_messages_find_no_room_in_the_commit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One of far delay between two that are due, again and again; some more are due behind them."""
    monkeypatch.setattr("workers.pipeline.held.MOST_STRETCHES", 3)
    cluster = kafka()
    for offset in range(0, 8, 2):
        waits(cluster, b"echo far", 4.0, offset=offset)
        waits(cluster, b"echo near", -1.0, offset=offset + 1)

    async def scene(live: Running) -> None:
        await live.fates(4)
        async with asyncio.timeout(10):
            # The stretches are looked at by a tick, and nobody tells of that.
            while TopicPartition(RETRY_TOPIC, 0) not in live.broker._paused:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        waits(cluster, b"echo behind", -1.0, offset=9)
        await live.fates(9)
        values = values_of(live)
        assert values[:5] == ["near\n"] * 4 + ["far\n"]
        assert sorted(values[5:]) == ["behind\n"] + ["far\n"] * 3

    play(cluster, scene)


def test_a_message_too_large_for_the_topic_waits_in_its_place() -> None:
    cluster = kafka()
    retries = Retries(cluster)
    retries.most_bytes = 3
    cluster.produce(TOPIC, 0, b"echo good\n[ $DRAKKAR_ATTEMPT = 3 ]")

    async def scene(live: Running) -> None:
        await live.fates(1)
        assert fates(live) == [(TOPIC, 0, Fate.DELIVERED)]
        assert [one[1:] for one in starts(live) if one[1] == "0:0:1"] == [
            ("0:0:1", 1), ("0:0:1", 2), ("0:0:1", 3),
        ]  # fmt: skip
        assert sorted(values_of(live)) == ["", "good\n"]

    play(cluster, scene, retries)
    assert cluster.logs[RETRY_PLACE].records == []


def test_a_retry_topic_that_takes_nothing_parks_the_partition(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sinks.record_writer.BACKOFF", Backoff(initial_seconds=0.01))
    cluster = kafka()
    retries = Retries(cluster)
    retries.is_down = True
    cluster.produce(TOPIC, 0, b"[ $DRAKKAR_ATTEMPT = 2 ]")

    async def scene(live: Running) -> None:
        await live.heard.until(lambda: bool(live.heard.of("parked")))
        (parked,) = live.heard.of("parked")
        assert (parked.topic, parked.cause) == (TOPIC, "retry_topic")
        assert not fates(live)
        retries.is_down = False
        await live.fates(2)
        assert [fate for _, _, fate in fates(live)] == [Fate.DEFERRED, Fate.DELIVERED]
        assert len(live.heard.of("unparked")) == 1

    play(cluster, scene, retries)


def test_a_death_between_write_and_fate_runs_nothing_twice_at_once() -> None:
    cluster = kafka()
    retries = Retries(cluster)
    retries.answers.clear()
    cluster.produce(TOPIC, 0, b"[ $DRAKKAR_ATTEMPT = 2 ] && echo done")

    async def dies(live: Running) -> None:
        async with asyncio.timeout(10):
            while not cluster.logs[RETRY_PLACE].records:  # noqa: ASYNC110 - written by a thread
                await asyncio.sleep(0.01)
        live.worker.signal()
        live.worker.signal()
        await live.done
        assert not fates(live)
        retries.answers.set()

    async def heir(live: Running) -> None:
        await live.fates(3)
        lives = [event for event in live.heard.events if event.kind == "task_started"]
        assert {event.task_id for event in lives if isinstance(event, TaskStarted)} == {"0:0:0"}
        assert sorted(fates(live)) == [
            (TOPIC, 0, Fate.DEFERRED),
            (RETRY_TOPIC, 0, Fate.DELIVERED),
            (RETRY_TOPIC, 1, Fate.DELIVERED),
        ]
        # The second record waited for the fate of the first.
        order = [
            (event.kind, event.offset)
            for event in live.heard.events
            if getattr(event, "topic", "") == RETRY_TOPIC
            and event.kind in ("task_started", "message_completed")
            and isinstance(event, TaskStarted | MessageCompleted)
        ]
        assert order == [
            ("task_started", 0), ("message_completed", 0),
            ("task_started", 1), ("message_completed", 1),
        ]  # fmt: skip
        ids = [event.delivery_id for event in live.heard.of("delivered")]
        assert len(ids) == 2
        assert len(set(ids)) == 1

    play(cluster, dies, retries)
    play(cluster, heir, Retries(cluster))


def test_records_that_no_worker_of_the_cluster_deferred_are_told_and_not_run() -> None:
    cluster = kafka()
    cluster.produce(RETRY_TOPIC, 0, b"echo stray")
    first: Record = Message(
        topic=TOPIC, partition=0, offset=3, key=None, value=b"echo", headers=(), timestamp=5,
        payload=None,
    )  # fmt: skip
    theirs = Deferral(origin=MessageOrigin.of(first, "fast"), due_at=2**33, attempts={0: 1})
    cluster.produce(RETRY_TOPIC, 0, b"echo theirs", headers=theirs.headers(first, RETRY_TOPIC))
    spoilt = [
        (name, b"soon" if name == "drakkar-due" else value)
        for name, value in theirs.headers(first, RETRY_TOPIC)
    ]
    cluster.produce(RETRY_TOPIC, 0, b"echo spoilt", headers=spoilt)

    async def scene(live: Running) -> None:
        await live.fates(3)
        assert sorted(fates(live)) == [
            (RETRY_TOPIC, 0, Fate.DEAD_LETTERED),
            (RETRY_TOPIC, 1, Fate.SKIPPED),
            (RETRY_TOPIC, 2, Fate.SKIPPED),
        ]
        (letter,) = live.heard.of("dead_lettered")
        assert letter.stage == "parse"
        assert "expected a message that a worker deferred" in letter.reason
        assert values_of(live) == []

    play(cluster, scene)


class Several(Patient):
    """One task for all messages of a call; it fails, and is to run again after a while."""

    async def arrange(self, messages: Any, pending: Any) -> Sequence[Task]:
        offsets = tuple(message.offset for message in messages)
        return [Task(args=("-c", "[ $DRAKKAR_ATTEMPT = 2 ]"), source_offsets=offsets)]


class Replacing(Patient):
    async def on_error(self, failure: Any) -> Any:
        if failure.task.parent_id:
            return Retry(delay_seconds=DELAY_SECONDS)
        return Replace(tasks=[Task(args=("-c", "[ $DRAKKAR_ATTEMPT = 2 ]"))])


class Keyed(Patient):
    async def arrange(self, messages: Any, pending: Any) -> Sequence[Task]:
        return [replace(task, key="k") for task in await super().arrange(messages, pending)]


class Hooked(Patient):
    async def on_message_complete(self, group: Any) -> Any:
        return [MemoryPayload(sink="store", value=f"{len(group.results)} results")]


LATE = b"[ $DRAKKAR_ATTEMPT = 2 ]"


@pytest.mark.parametrize(
    ("handler", "values", "is_deferred"),
    [
        (Several, [LATE, LATE], False),
        (Replacing, [b"false"], False),
        (Keyed, [LATE], False),
        (Hooked, [LATE + b"\n" + LATE], False),
        (Hooked, [LATE], True),
        (Patient, [LATE + b"\n" + LATE], True),
    ],
    ids=["fan-in", "replaced", "key", "hook over two tasks", "hook over one task", "two tasks"],
)
def test_what_may_not_leave_its_place_waits_there(
    handler: type[Patient], values: list[bytes], is_deferred: bool
) -> None:
    cluster = kafka()
    for value in values:
        cluster.produce(TOPIC, 0, value)

    async def scene(live: Running) -> None:
        await live.fates(2 if is_deferred else len(values))
        found = [fate for _, _, fate in fates(live)]
        assert found == [Fate.DEFERRED, Fate.DELIVERED] if is_deferred else found
        assert (Fate.DEFERRED in found) is is_deferred
        if handler is Hooked:
            assert f"{values[0].count(LATE)} results" in values_of(live)

    play(cluster, scene, handler=handler)
