"""A worker in mode persistent: the product's own composition, with a Kafka in memory."""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import Sequence
from typing import Any

from domain.decision import Skip
from domain.failure import FailureKind
from domain.live_tail import TailState
from domain.task import Task
from tests.support import persistent_program
from tests.support.pipeline import (
    TOPIC,
    Request,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from tests.worker.test_output_follower import Watched
from workers.config import ClusterConfig
from workers.executor.base import Chunk, Signs
from workers.handler import Message, Pending

PROGRAM = ["-IS", persistent_program.__file__]


class WordsHandler(ShellHandler):
    """The words of a message are the arguments of its request."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(args=message.payload.script.split(), source_offsets=(message.offset,))
            for message in messages
        ]


def persistent(*words: str, **executor: Any) -> ClusterConfig:
    """A configuration with the program that does what it is told."""
    section = {"args": [*PROGRAM, *words], "await_ready": "ready" in words}
    return cluster_config(
        mode="persistent", binary=sys.executable, **({"persistent": section} | executor)
    )


def texts(live: Running) -> list[str]:
    """What was delivered."""
    return [delivery.payload.value for delivery in live.stored]


def handler(config: ClusterConfig) -> WordsHandler:
    """Its handler."""
    return WordsHandler({}, max_retries=config.executor.max_retries)


def test_messages_are_answered_delivered_and_committed_by_two_processes() -> None:
    async def scenario() -> None:
        cluster, config = new_cluster(), persistent("ready", max_executors=2)
        for number in range(200):
            cluster.produce(TOPIC, 0, value=b'{"script": "echo %d"}' % number)
        async with running(cluster, config, handler(config)) as live:
            await live.fates(200)
            assert await live.stop() == 0
            assert live.committed() == 200
        assert sorted(map(int, texts(live))) == list(range(200))
        pids = {event.pid for event in live.heard.of("task_completed")}
        assert 1 <= len(pids) <= 2
        assert {event.slot for event in live.heard.of("task_started")} <= {0, 1}

    asyncio.run(scenario())


def test_a_process_knows_its_descriptor_of_progress_from_its_start() -> None:
    async def scenario() -> None:
        cluster, config = new_cluster(), persistent(max_executors=1)
        cluster.produce(TOPIC, 0, value=b'{"script": "variable DRAKKAR_PROGRESS_FD"}')
        async with running(cluster, config, handler(config)) as live:
            await live.fates(1)
        assert texts(live) == ["3"]

    asyncio.run(scenario())


def test_a_live_tail_shows_of_a_persistent_process_what_belongs_to_the_request() -> None:
    async def scenario() -> None:
        cluster, config = new_cluster(), persistent(max_executors=1)
        cluster.produce(TOPIC, 0, value=b'{"script": "stderr earlier"}')
        async with running(cluster, config, handler(config)) as live:
            await live.fates(1)
            cluster.produce(TOPIC, 0, value=b'{"script": "tick"}')
            tail = Watched(live, "0:1:0")
            await tail.until(lambda: "tick 3\n" in tail.text(stream="stderr"))
            await tail.until(lambda: tail.facts is not None and bool(tail.facts.progress))
            facts = tail.facts
            assert facts is not None
            (before,) = live.heard.of("task_completed")
            assert (facts.state, facts.attempt, facts.slot) == (TailState.RUNNING, 1, 0)
            assert facts.pid == before.pid, "one process answers both"
            assert facts.stderr_bytes is not None
            await live.fates(2)
            await tail.until(lambda: tail.stands(TailState.ABSENT))
            told = tail.text(stream="stderr")
            recorded = live.heard.of("task_completed")[-1].stderr.decode()
            assert told.startswith("tick 0\ntick 1\n"), "nothing of the request before"
            assert recorded.startswith(told)
            assert tail.text() == "", "an answer is no output of the program"

    asyncio.run(scenario())


def test_an_operator_cancels_a_request_and_its_process_has_its_grace() -> None:
    async def scenario() -> None:
        cluster, config = new_cluster(), persistent(max_executors=1, kill_grace_seconds=20)
        cluster.produce(TOPIC, 0, value=b'{"script": "sleep 60"}')
        async with running(cluster, config, handler(config)) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_started")))
            is_asleep = asyncio.Event()

            def heard(told: Chunk | Signs | None) -> None:
                if isinstance(told, Chunk) and told.data == b"sleeping\n":
                    is_asleep.set()

            assert live.worker.executor.follow("0:0:0", heard)
            await is_asleep.wait()
            (partition,) = live.worker.partitions.values()
            assert partition.cancel_task("0:0:0", Skip(reason="enough"))
            await live.fates(1)
            (cancelled,) = live.heard.of("task_cancelled")
            assert (cancelled.exit_code, cancelled.stderr) == (-signal.SIGTERM, b"sleeping\n")
            assert cancelled.pid is not None
            cluster.produce(TOPIC, 0, value=b'{"script": "echo 2"}')
            await live.fates(2)
        assert texts(live) == ["2"]

    asyncio.run(scenario())


def test_a_broken_protocol_is_retried_then_dead_lettered_and_the_others_go_on() -> None:
    async def scenario() -> None:
        cluster, config = new_cluster(), persistent(max_retries=1)
        scripts = ("echo 1", 'line {\\"id\\":0}', "kill", "echo 2")
        for script in scripts:
            cluster.produce(TOPIC, 0, value=b'{"script": "%b"}' % script.encode())
        async with running(cluster, config, handler(config)) as live:
            await live.fates(4)
            assert await live.stop() == 0
        assert sorted(texts(live)) == ["1", "2"]
        failed = [(each.failure, each.attempt) for each in live.heard.of("task_failed")]
        kinds = (FailureKind.PROTOCOL, FailureKind.SIGNAL)
        assert sorted(failed) == sorted((kind, attempt) for kind in kinds for attempt in (1, 2))
        replaced = live.heard.of("process_replaced")
        assert sorted(each.cause for each in replaced) == ["ended"] * 2 + ["protocol"] * 2

    asyncio.run(scenario())


def test_a_program_that_never_gets_ready_parks_the_partition_and_loses_nothing() -> None:
    async def scenario() -> None:
        cluster, config = new_cluster(), persistent("die", max_executors=1)
        cluster.produce(TOPIC, 0, value=b'{"script": "echo 1"}')
        async with running(cluster, config, handler(config)) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            (parked,) = live.heard.of("parked")
            assert "no model here" in parked.detail
            assert live.heard.of("task_failed") == []
            assert await live.stop() == 0
            assert not live.committed()
        assert live.letters.stored == []

    asyncio.run(scenario())
