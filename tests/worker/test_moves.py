"""Rewind and skip of a paused, drained partition: memory broker, real processes."""

from __future__ import annotations

import asyncio
from collections import Counter
from datetime import UTC, datetime
from typing import Any

import pytest

from domain.commit import CommitMetadata
from domain.message import Record
from domain.parking import ParkingCause
from tests.support.pipeline import (
    TOPIC,
    WAIT_SECONDS,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from tests.worker.test_command_executor import obey, on_a_loop
from workers.broker.base import CommittedOffset
from workers.broker.memory import MemoryCluster
from workers.config import ClusterConfig
from workers.control import Action, Answer

PLACE = {"topic": TOPIC, "partition": 0}


def filled(count: int) -> MemoryCluster:
    """A topic of messages that each print their number."""
    cluster = new_cluster(1)
    for n in range(count):
        cluster.produce(TOPIC, 0, f'{{"script": "echo {n}"}}'.encode())
    return cluster


async def rested(live: Running, count: int) -> None:
    """Pause the partition, and wait until ``count`` of its messages have a fate and a commit."""
    await live.fates(count)
    assert (await obey(live, Action.PAUSE_PARTITION, **PLACE)).is_done
    await live.heard.until(lambda: live.heard.of("committed")[-1:] != [])
    await live.heard.until(lambda: live.heard.of("committed")[-1].offset == count)


async def rewind(live: Running, offset: int, expected: int, **more: Any) -> Answer:
    place = more or {"offset": offset}
    return await obey(live, Action.REWIND_PARTITION, **PLACE, expected=expected, **place)


async def skip(live: Running, offset: int, expected: int) -> Answer:
    return await obey(live, Action.SKIP_PARTITION, **PLACE, offset=offset, expected=expected)


async def skip_acknowledged(live: Running, offset: int, expected: int) -> Answer:
    """Skip once the metadata of the pause are acknowledged: nobody tells of that."""
    async with asyncio.timeout(WAIT_SECONDS):
        while (answer := await skip(live, offset, expected)).detail.endswith("yet: ask again"):  # noqa: ASYNC110
            await asyncio.sleep(0.02)
    return answer


async def resume(live: Running) -> None:
    assert (await obey(live, Action.RESUME_PARTITION, **PLACE)).is_done


def values(live: Running) -> Counter[str]:
    return Counter(one.payload.value.strip() for one in live.stored)


@on_a_loop
async def test_a_rewound_partition_stays_paused_and_runs_again_when_resumed() -> None:
    cluster = filled(5)
    async with running(cluster) as live:
        await rested(live, 5)
        answer = await rewind(live, 2, 5)
        assert answer == Answer(
            is_done=True, detail="from 5 to 2: 3 offsets run again; still paused"
        )
        assert live.committed() == 2
        (partition,) = live.worker.partitions.values()
        assert partition.figures().state == "paused"
        (told,) = live.heard.of("rewound")
        assert (told.offset, told.committed, told.offsets) == (2, 5, 3)
        assert len(live.heard.of("message_completed")) == 5
        await resume(live)
        await live.fates(8)
        assert values(live) == Counter({"0": 1, "1": 1, "2": 2, "3": 2, "4": 2})
        ids = Counter(event.delivery_id for event in live.heard.of("delivered"))
        assert sorted(ids.values()) == [1, 1, 2, 2, 2], "a rewound message keeps its identity"
        assert await live.stop() == 0
    assert cluster.committed("group", TOPIC, 0).offset == 5


@on_a_loop
async def test_skipped_messages_have_their_fate_by_one_event_and_never_run() -> None:
    cluster = filled(3)
    async with running(cluster) as live:
        await rested(live, 3)
        for n in range(3, 9):
            cluster.produce(TOPIC, 0, f'{{"script": "echo {n}"}}'.encode())
        answer = await skip(live, 7, 3)
        assert answer.detail == "from 3 to 7: 4 offsets are passed over; still paused"
        assert live.committed() == 7
        assert live.worker.counters.fates["skipped"] == 4
        (told,) = live.heard.of("skipped")
        assert (told.offset, told.committed, told.offsets) == (7, 3, 4)
        await resume(live)
        await live.fates(5)
        assert values(live) == Counter({"0": 1, "1": 1, "2": 1, "7": 1, "8": 1})
        assert await live.stop() == 0


@on_a_loop
async def test_a_time_stands_for_the_first_message_at_or_after_it() -> None:
    cluster = filled(5)
    async with running(cluster) as live:
        await rested(live, 5)
        at = datetime.fromtimestamp(1_700_000_000.003, UTC)
        answer = await rewind(live, 0, 5, time=at.isoformat())
        assert answer.detail.startswith("from 5 to 3:")
        late = datetime.fromtimestamp(1_800_000_000, UTC)
        refused = await rewind(live, 0, 3, time=late.isoformat())
        assert refused.detail == (
            "offset: expected 0 to 2 (committed 3, the topic holds 0 to 5), got 5"
        )


@on_a_loop
async def test_a_partition_that_is_not_paused_or_not_drained_is_refused() -> None:
    cluster = filled(2)
    async with running(cluster) as live:
        await live.fates(2)
        await live.heard.until(lambda: live.committed() == 2)
        refused = await rewind(live, 0, 2)
        assert refused.detail.startswith("it is not paused")
        cluster.produce(TOPIC, 0, b'{"script": "sleep 30"}')
        await live.heard.until(lambda: len(live.heard.of("task_started")) == 3)
        assert (await obey(live, Action.PAUSE_PARTITION, **PLACE)).is_done
        refused = await rewind(live, 0, 2)
        assert refused.detail == "it is not drained: 1 of its messages are worked on"
        assert (await skip(live, 3, 2)).detail == refused.detail
        assert not live.heard.of("rewound")
        assert live.committed() == 2


@on_a_loop
async def test_a_place_beyond_the_topic_or_on_the_wrong_side_is_refused_by_name() -> None:
    cluster = filled(4)
    async with running(cluster) as live:
        await rested(live, 4)
        cluster.truncate(TOPIC, 0, 2)
        said = "(committed 4, the topic holds 2 to 4)"
        assert (await rewind(live, 1, 4)).detail == f"offset: expected 2 to 3 {said}, got 1"
        assert (await rewind(live, 4, 4)).detail == f"offset: expected 2 to 3 {said}, got 4"
        nothing = "offset: there is nothing ahead of the commit to skip; the topic holds 2 to 4"
        assert (await skip(live, 5, 4)).detail == nothing
        cluster.set_down(True)
        away = await rewind(live, 2, 4)
        assert "unknown: the cluster is down" in away.detail


@on_a_loop
async def test_asked_twice_a_move_is_made_once() -> None:
    cluster = filled(5)
    async with running(cluster) as live:
        await rested(live, 5)
        answers = await asyncio.gather(rewind(live, 1, 5), rewind(live, 1, 5))
        assert sorted(answer.is_done for answer in answers) == [False, True]
        again = await rewind(live, 1, 5)
        assert again.detail.startswith("expected: the group has committed 1, not 5")
        assert len(live.heard.of("rewound")) == 1


@on_a_loop
async def test_what_the_group_refuses_did_not_happen() -> None:
    cluster = filled(5)
    async with running(cluster) as live:
        await rested(live, 5)
        cluster.commit_errors.extend(["", "FENCED_INSTANCE_ID"])
        refused = await rewind(live, 1, 5)
        assert not refused.is_done
        assert "the group did not take it" in refused.detail
        assert refused.detail.endswith("the partition stands at 5")
        assert not live.heard.of("rewound")
        assert live.committed() == 5
        (partition,) = live.worker.partitions.values()
        assert partition.figures().state == "paused"
        assert (await rewind(live, 1, 5)).is_done


@on_a_loop
async def test_an_heir_goes_on_where_it_was_moved_to_and_rests_until_it_is_resumed() -> None:
    cluster = filled(5)
    async with running(cluster) as live:
        await rested(live, 5)
        assert (await rewind(live, 2, 5)).is_done
        assert await live.stop() == 0
    async with running(cluster) as heir:
        await heir.heard.until(lambda: bool(heir.heard.of("assigned")))
        (assigned,) = heir.heard.of("assigned")
        assert assigned.offset == 2
        (partition,) = heir.worker.partitions.values()
        assert partition.figures().state == "paused"
        await resume(heir)
        await heir.fates(3)
        assert values(heir) == Counter({"2": 1, "3": 1, "4": 1})


@on_a_loop
async def test_what_had_its_fate_above_the_commit_is_passed_over_still() -> None:
    """The preview counts the offsets between the two commits, and no others run again."""
    cluster = filled(8)
    noted = CommitMetadata(run="former", has_left=True, is_paused=True, settled=((5, 6),))
    cluster.overwrite("group", TOPIC, 0, CommittedOffset(4, noted.encode()))
    async with running(cluster) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        assert (await rewind(live, 2, 4)).is_done
        await resume(live)
        await live.fates(6)
        assert values(live) == Counter({"2": 1, "3": 1, "4": 1, "7": 1})


def parking() -> ClusterConfig:
    """Messages that cannot be parsed park their partition."""
    config = cluster_config()
    kafka = config.kafka.model_copy(update={"on_parse_error": "park"})
    return config.model_copy(update={"kafka": kafka})


async def parked_at(live: Running, offset: int) -> None:
    """Wait until the partition is parked there, and pause it."""
    await live.heard.until(lambda: bool(live.heard.of("parked")))
    assert f"offset {offset}:" in live.heard.of("parked")[-1].detail
    assert (await obey(live, Action.PAUSE_PARTITION, **PLACE)).is_done


@on_a_loop
async def test_a_bad_message_for_which_it_is_parked_is_skipped() -> None:
    cluster = filled(2)
    cluster.produce(TOPIC, 0, b"\xff")
    for n in range(3, 6):
        cluster.produce(TOPIC, 0, f'{{"script": "echo {n}"}}'.encode())
    async with running(cluster, parking()) as live:
        await parked_at(live, 2)
        await live.heard.until(lambda: live.committed() == 2)
        (partition,) = live.worker.partitions.values()
        figures = partition.figures()
        assert (figures.state, figures.is_paused) == ("parked", True)
        await live.heard.until(lambda: partition.figures().working == 0)
        answer = await skip(live, 3, 2)
        assert answer.detail == "from 2 to 3: 1 offsets are passed over; still paused"
        assert live.committed() == 3
        (heir,) = live.worker.partitions.values()
        assert (heir.figures().state, heir.figures().parked) == ("paused", {})
        await resume(live)
        await live.heard.until(lambda: live.committed() == 6)
        assert values(live) == Counter({"0": 1, "1": 1, "3": 1, "4": 1, "5": 1})
        assert not [event for event in live.heard.of("message_completed") if event.offset == 2]


@on_a_loop
async def test_a_first_message_that_is_bad_is_skipped_and_can_be_had_back() -> None:
    cluster = new_cluster(1)
    cluster.produce(TOPIC, 0, b"\xff")
    async with running(cluster, parking()) as live:
        await parked_at(live, 0)
        assert (await skip_acknowledged(live, 1, 0)).is_done
        assert (await rewind(live, 0, 1)).is_done
        await resume(live)
        await live.heard.until(lambda: len(live.heard.of("parked")) == 2)


@on_a_loop
async def test_a_parked_partition_whose_tasks_run_is_not_drained() -> None:
    cluster = new_cluster(1)
    cluster.produce(TOPIC, 0, b'{"script": "sleep 30"}')
    cluster.produce(TOPIC, 0, b"\xff")
    async with running(cluster, parking()) as live:
        await parked_at(live, 1)
        await live.heard.until(lambda: bool(live.heard.of("task_started")))
        refused = await skip_acknowledged(live, 2, 0)
        assert refused.detail == "it is not drained: 1 of its messages are worked on"


@on_a_loop
async def test_a_move_that_meets_an_unpark_does_not_undo_what_ended() -> None:
    """The consumer thread sees it parked; the loop unparks it before it ends the epoch."""
    cluster = new_cluster(1)
    for n in range(5):
        cluster.produce(TOPIC, 0, f'{{"script": "echo {n}"}}'.encode())

    class Unparsed(ShellHandler):
        is_mended = False

        def parse(self, message: Record) -> Any:
            if not self.is_mended:
                raise ValueError("not yet")
            return super().parse(message)

    handler = Unparsed({})
    async with running(cluster, parking(), handler) as live:
        await parked_at(live, 0)
        (partition,) = live.worker.partitions.values()
        end, handler.is_mended = partition.end, True

        async def unparked_first(deadline: float, reason: str) -> bool:
            partition.unpark(ParkingCause.PARSE_ERROR, "by an operator")
            await live.fates(5)
            return await end(deadline, reason)

        partition.end = unparked_first  # type: ignore[method-assign]
        refused = await skip_acknowledged(live, 2, 0)
        assert not refused.is_done
        assert "messages of it ended just then" in refused.detail
        assert refused.detail.endswith("the partition stands at 5")
        assert not live.heard.of("skipped")
        assert live.committed() == 5


@on_a_loop
async def test_a_skip_to_what_the_topic_no_longer_holds_is_refused() -> None:
    cluster = filled(2)
    async with running(cluster) as live:
        await rested(live, 2)
        for n in range(2, 9):
            cluster.produce(TOPIC, 0, f'{{"script": "echo {n}"}}'.encode())
        cluster.truncate(TOPIC, 0, 6)
        refused = await skip(live, 4, 2)
        said = "(committed 2, the topic holds 6 to 9)"
        assert refused.detail == f"offset: expected 6 to 9 {said}, got 4"


@pytest.mark.parametrize("action", [Action.REWIND_PARTITION, Action.SKIP_PARTITION])
@on_a_loop
async def test_a_partition_of_another_owner_is_refused(action: Action) -> None:
    async with running(new_cluster(1)) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        place = {"topic": TOPIC, "partition": 3, "offset": 1, "expected": 2}
        refused = await obey(live, action, **place)
        assert refused.detail == f"{TOPIC} 3 is not owned by this worker any more"
