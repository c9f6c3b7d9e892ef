"""What an owner leaves to the next one: a pause, the crash guard; and what parks a partition."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Sequence

import pytest

from domain.commit import CommitMetadata
from domain.flood import MOST_IN_A_ROW, WINDOW, FloodWatch
from domain.parking import ParkingCause
from domain.stall import StallWatch
from tests.support.pipeline import (
    TOPIC,
    Request,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker.base import CommittedOffset
from workers.broker.memory import MemoryCluster
from workers.consumer.ownership import PauseReason
from workers.handler import Message, Pending, Record, Task
from workers.pipeline.partition import PartitionWorker


def publish(cluster: MemoryCluster, *scripts: str) -> None:
    for script in scripts:
        cluster.produce(TOPIC, 0, value=json.dumps({"script": script}).encode())


def word(cluster: MemoryCluster) -> CommitMetadata | None:
    return CommitMetadata.decode(cluster.committed("group", TOPIC, 0).metadata)


def leave(cluster: MemoryCluster, offset: int, metadata: CommitMetadata) -> None:
    cluster.overwrite("group", TOPIC, 0, CommittedOffset(offset, metadata.encode()))


def only(live: Running) -> PartitionWorker:
    (partition,) = live.worker.partitions.values()
    return partition


async def until(cluster: MemoryCluster, is_so: Callable[[CommitMetadata], bool]) -> None:
    """Wait for a word committed to the group."""

    def wait() -> bool:
        with cluster.changed:
            return cluster.changed.wait_for(
                lambda: (found := word(cluster)) is not None and is_so(found), 10
            )

    assert await asyncio.to_thread(wait)


def test_an_owner_that_left_did_not_die_and_one_that_died_counts() -> None:
    left = CommitMetadata(run="a", has_left=True, deaths=1, is_paused=True)
    assert CommitMetadata.inherit(left, "b") == CommitMetadata(run="b", deaths=1, is_paused=True)
    died = CommitMetadata(run="a", deaths=1)
    assert CommitMetadata.inherit(died, "b") == CommitMetadata(run="b", deaths=2)
    assert CommitMetadata.inherit(died, "a") == died
    assert CommitMetadata.inherit(None, "b") == CommitMetadata(run="b")


def test_only_the_same_mark_left_behind_in_a_row_strikes() -> None:
    first = CommitMetadata.inherit(CommitMetadata(run="a", deaths=2, mark=7), "b")
    assert (first.suspect, first.strikes, first.mark) == (7, 1, None)
    second = CommitMetadata.inherit(CommitMetadata(run="b", mark=7, suspect=7, strikes=1), "c")
    assert (second.suspect, second.strikes) == (7, 2)
    other = CommitMetadata.inherit(CommitMetadata(run="b", mark=8, suspect=7, strikes=2), "c")
    assert (other.suspect, other.strikes) == (8, 1)
    unmarked = CommitMetadata.inherit(CommitMetadata(run="b", suspect=7, strikes=2), "c")
    assert (unmarked.suspect, unmarked.strikes) == (7, 2)


def test_an_operators_pause_survives_a_new_owner_and_can_be_lifted_there() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo 0")
        async with running(cluster) as live:
            await live.fates(1)
            only(live).set_pause(PauseReason.OPERATOR, True)
            await until(cluster, lambda found: found.is_paused)
            assert await live.stop() == 0
        left = word(cluster)
        assert left is not None
        assert left.is_paused
        assert left.has_left
        publish(cluster, "echo 1")
        async with running(cluster) as live:
            await live.heard.until(lambda: bool(live.heard.of("assigned")))
            assert only(live).figures().state == "paused"
            await asyncio.sleep(0.3)
            assert live.heard.of("consumed") == []
            only(live).set_pause(PauseReason.OPERATOR, False)
            await live.fates(1)
            assert await live.stop() == 0
        left = word(cluster)
        assert left is not None
        assert not left.is_paused

    asyncio.run(scenario())


def test_the_heir_of_two_dead_owners_takes_one_marked_message_at_a_time() -> None:
    seen: list[tuple[int, list[int]]] = []

    class Watching(ShellHandler):
        async def arrange(
            self, messages: Sequence[Message[Request]], pending: Pending
        ) -> Sequence[Task]:
            found = word(self.settings["cluster"])
            assert found is not None
            assert found.mark is not None
            seen.append((found.mark, [message.offset for message in messages]))
            return await super().arrange(messages, pending)

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, *(f"echo {n}" for n in range(4)))
        leave(cluster, 0, CommitMetadata(run="dead", deaths=1))
        async with running(cluster, handler=Watching({"cluster": cluster})) as live:
            await live.fates(4)
            assert await live.stop() == 0
            assert seen == [(n, [n]) for n in range(4)]
            left = word(cluster)
            assert left is not None
            assert (left.mark, left.deaths, left.strikes) == (None, 0, 0)
            assert live.committed() == 4

    asyncio.run(scenario())


def test_the_guard_ends_and_what_waited_behind_it_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.pipeline.guard.GUARDED_MESSAGES", 2)

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, *(f"echo {n}" for n in range(6)))
        leave(cluster, 0, CommitMetadata(run="dead", deaths=1))
        async with running(cluster) as live:
            await live.fates(6)
            assert await live.stop() == 0

    asyncio.run(scenario())


def test_a_message_marked_twice_is_tried_twice() -> None:
    """An operator unparks a parse error under the guard: the mark stands in the group already."""

    class Mended(ShellHandler):
        is_mended = False

        def parse(self, message: Record) -> Request:
            if not self.is_mended:
                raise ValueError("not yet")
            return super().parse(message)

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo 0")
        leave(cluster, 0, CommitMetadata(run="dead", deaths=1))
        config = cluster_config()
        kafka = config.kafka.model_copy(update={"on_parse_error": "park"})
        handler = Mended({})
        async with running(cluster, config.model_copy(update={"kafka": kafka}), handler) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            handler.is_mended = True
            only(live).unpark(ParkingCause.PARSE_ERROR, "by an operator")
            await live.fates(1)
            assert await live.stop() == 0

    asyncio.run(scenario())


def test_a_message_that_three_dead_runs_had_in_hand_is_poison() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo 0", "echo 1", "echo 2")
        leave(cluster, 0, CommitMetadata(run="dead", deaths=3, mark=1, suspect=1, strikes=2))
        async with running(cluster) as live:
            await live.fates(3)
            assert await live.stop() == 0
            fates = {event.offset: event.fate for event in live.heard.of("message_completed")}
            assert fates == {0: "delivered", 1: "dead_lettered", 2: "delivered"}
            (letter,) = live.letters.stored
            assert letter[2]["drakkar-stage"] == b"crash"
            assert letter[2]["drakkar-failure-kind"] == b"poison"
            left = word(cluster)
            assert left is not None
            assert (left.suspect, left.strikes) == (None, 0)

    asyncio.run(scenario())


def test_two_marks_left_behind_are_not_enough() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo 0")
        leave(cluster, 0, CommitMetadata(run="dead", deaths=3, mark=0, suspect=0, strikes=1))
        async with running(cluster) as live:
            await live.fates(1)
            assert live.letters.stored == []
            assert await live.stop() == 0

    asyncio.run(scenario())


def test_an_owner_says_whose_the_partition_is_before_anything_passed() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "sleep 60")
        leave(cluster, 0, CommitMetadata(run="dead"))
        async with running(cluster) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_started")))
            await until(cluster, lambda found: found.run != "dead")
            found = word(cluster)
            assert found is not None
            assert (found.deaths, found.has_left, live.committed()) == (1, False, 0)

    asyncio.run(scenario())


def test_a_flood_of_dead_letters_parks_until_an_operator_unparks() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        for _ in range(MOST_IN_A_ROW):
            cluster.produce(TOPIC, 0, value=b"not json")
        async with running(cluster) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            (event,) = live.heard.of("parked")
            assert (event.cause, event.is_retried) == ("dead_letter_flood", False)
            publish(cluster, "echo after")
            await asyncio.sleep(0.3)
            assert live.stored == []
            only(live).unpark(ParkingCause.DEAD_LETTER_FLOOD, "by an operator")
            await live.fates(MOST_IN_A_ROW + 1)
            assert [delivery.payload.value for delivery in live.stored] == ["after\n"]
            assert await live.stop() == 0

    asyncio.run(scenario())


def test_a_flood_is_fifty_in_a_row_or_more_than_half_of_two_hundred() -> None:
    row = FloodWatch()
    assert [row.add(True) for _ in range(MOST_IN_A_ROW - 1)] == [None] * (MOST_IN_A_ROW - 1)
    assert row.add(False) is None
    assert [row.add(True) is None for _ in range(MOST_IN_A_ROW)].count(False) == 1
    half = FloodWatch()
    assert all(half.add(n % 2 == 0) is None for n in range(WINDOW))
    assert half.add(False) is None
    more = FloodWatch()
    assert all(more.add(n % 3 != 0) is None for n in range(WINDOW - 1))
    assert more.add(True) == f"133 of the last {WINDOW} messages were dead-lettered"


def test_a_position_that_stands_below_the_end_is_a_stall() -> None:
    watch = StallWatch(30)
    assert not watch.is_stalled("p", 5, 9, 0.0)
    assert not watch.is_stalled("p", 5, 9, 29.0)
    assert watch.is_stalled("p", 5, 9, 30.0)
    assert not watch.is_stalled("p", 5, 9, 31.0)
    assert not watch.is_stalled("p", 6, 9, 70.0)
    for position, end in ((None, 9), (6, None), (9, 9)):
        assert not watch.is_stalled("p", position, end, 99.0)
    assert not watch.is_stalled("p", 6, 9, 101.0)


def test_what_is_done_behind_a_slow_head_is_known_while_it_runs() -> None:
    """Nobody says goodbye: what the group knows then is all that the heir of a crash has."""

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "sleep 60", *(f"echo {n}" for n in range(1, 40)))
        async with running(cluster) as live:
            await live.fates(39)
            await until(cluster, lambda found: found.settled == ((1, 39),))
            died = cluster.committed("group", TOPIC, 0)
            assert died.offset == 0
        heirs = new_cluster()
        publish(heirs, *(f"echo again {n}" for n in range(40)))
        heirs.overwrite("group", TOPIC, 0, died)
        async with running(heirs) as live:
            await live.fates(40)
            assert [one.payload.value for one in live.stored] == ["again 0\n"]
            assert await live.stop() == 0
            assert live.committed() == 40

    asyncio.run(scenario())
