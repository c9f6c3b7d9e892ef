"""The worker through its seams: publish, await the fate, look at the sink, the topic and the
commit."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import threading
import time
from collections.abc import Sequence
from typing import Any
from uuid import UUID

import pytest

from domain.changes import Change
from domain.events import DeadLettered, TaskFailed
from domain.failure import FailureKind
from domain.origin import REPLAY_HEADER
from drakkar.testing import message, run
from recorder.run_changes import RunChanges
from sinks.backends.memory import MemorySink
from sinks.base import Delivery, TransientError
from tests.support.pipeline import (
    TOPIC,
    Letters,
    Request,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker.memory import MemoryCluster
from workers.executor.base import Exit, Launch, Watcher
from workers.executor.ending import exit_without_run
from workers.handler import (
    BatchGroup,
    MemoryPayload,
    Message,
    MessageGroup,
    Payload,
    Pending,
    Replace,
    Retry,
    Skip,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)

SHELL = {"executor": {"binary": "/bin/sh"}, "sinks": {"store": {"kind": "memory"}}}


def publish(cluster: MemoryCluster, *scripts: str, partition: int = 0) -> None:
    for script in scripts:
        cluster.produce(TOPIC, partition, value=json.dumps({"script": script}).encode())


def values(stored: Sequence[Any]) -> list[str]:
    return [delivery.payload.value for delivery in stored]


def test_messages_are_run_delivered_and_committed() -> None:
    async def scenario() -> None:
        cluster = new_cluster(partitions=3)
        for partition in range(3):
            publish(cluster, *(f"echo {partition}-{n}" for n in range(5)), partition=partition)
        async with running(cluster) as live:
            await live.fates(15)
            assert await live.stop() == 0
            expected = {f"{p}-{n}\n" for p in range(3) for n in range(5)}
            assert set(values(live.stored)) == expected
            assert len(live.stored) == 15
            assert [live.committed(partition) for partition in range(3)] == [5, 5, 5]
            assert {event.fate for event in live.heard.of("message_completed")} == {"delivered"}

    asyncio.run(scenario())


def test_random_bytes_are_dead_lettered_byte_for_byte() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        body = bytes(range(256))
        cluster.produce(TOPIC, 0, key=b"k\x00", value=body, headers=[("h", b"\xff")])
        cluster.produce(TOPIC, 0, value=None)
        publish(cluster, "echo after")
        async with running(cluster) as live:
            await live.fates(3)
            assert await live.stop() == 0
            key, value, headers = live.letters.stored[0]
            assert (key, value, headers["h"]) == (b"k\x00", body, b"\xff")
            assert headers["drakkar-stage"] == b"parse"
            assert headers["drakkar-failure-kind"] == b"parse"
            assert headers["drakkar-origin-offset"] == b"0"
            assert len(live.letters.stored) == 2
            assert values(live.stored) == ["after\n"]
            assert live.committed() == 3

    asyncio.run(scenario())


def test_a_failed_task_is_retried_then_dead_lettered() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "exit 3", "test $DRAKKAR_ATTEMPT -ge 2 && echo second")
        async with running(cluster, cluster_config(max_retries=2)) as live:
            await live.fates(2)
            assert await live.stop() == 0
            headers = live.letters.stored[0][2]
            assert headers["drakkar-stage"] == b"task"
            assert headers["drakkar-attempts"] == b"3"
            assert headers["drakkar-task-id"] == b"0:0:0"
            (letter,) = live.heard.of("dead_lettered")
            assert isinstance(letter, DeadLettered)
            (failed, *_) = live.heard.of("task_failed")
            assert isinstance(failed, TaskFailed)
            assert letter.content.labels == failed.labels
            assert values(live.stored) == ["second\n"]
            assert len(live.heard.of("task_retried")) == 3

    asyncio.run(scenario())


def test_a_collect_hook_that_raises_dead_letters_with_its_traceback() -> None:
    class Raising(ShellHandler):
        async def collect(self, result: TaskResult) -> Sequence[Payload]:
            raise RuntimeError("no such thing")

    (letter,) = run(Raising, [message({"script": "echo x"})], config=SHELL).letters
    assert letter.stage == "collect"
    assert "RuntimeError: no such thing" in letter.traceback


def test_an_unknown_sink_is_refused_with_the_known_names() -> None:
    class Astray(ShellHandler):
        async def collect(self, result: TaskResult) -> Sequence[Payload]:
            return [MemoryPayload(sink="nowhere", value=1)]

    outcome = run(Astray, [message({"script": "echo x"})], config=SHELL)
    assert "expected one of store, got 'nowhere'" in outcome.letters[0].reason
    assert outcome.payloads == {}


def test_fan_out_replace_skip_and_filter_give_each_message_one_fate() -> None:
    class Wide(ShellHandler):
        async def arrange(
            self, messages: Sequence[Message[Request]], pending: Pending
        ) -> Sequence[Task]:
            tasks = []
            for each in messages:
                script = each.payload.script
                count = 0 if script == "none" else 3
                tasks += [
                    Task(args=("-c", f"{script} {n}"), source_offsets=(each.offset,))
                    for n in range(count)
                ]
            return tasks

        async def on_error(self, failure: TaskFailure) -> TaskDecision:
            if failure.task.parent_id:
                return Skip(reason="enough")
            return Replace(tasks=[Task(args=("-c", "echo replaced")), Task(args=("-c", "exit 1"))])

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo", "none", "exit 1;")
        async with running(cluster, handler=Wide({})) as live:
            await live.fates(3)
            assert await live.stop() == 0
            fates = {e.offset: e.fate for e in live.heard.of("message_completed")}
            assert fates == {0: "delivered", 1: "filtered", 2: "delivered"}
            assert sorted(values(live.stored)) == ["0\n", "1\n", "2\n", *["replaced\n"] * 3]
            ids = {delivery.delivery_id for delivery in live.stored}
            assert len(ids) == 6
            assert any(delivery_id.endswith("/1.r1/collect/0") for delivery_id in ids)
            assert live.committed() == 3

    asyncio.run(scenario())


def test_message_and_batch_hooks_hold_the_offsets_back_until_delivered() -> None:
    class Summing(ShellHandler):
        async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
            return [MemoryPayload(sink="store", value=f"message {len(group.results)}")]

        async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
            return [MemoryPayload(sink="store", value="batch", delivery_key="b")]

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo x")
        async with running(cluster, handler=Summing({})) as live:
            await live.fates(1)
            assert values(live.stored) == ["x\n", "message 1", "batch"]
            assert live.stored[2].delivery_id == f"main/{TOPIC}/key:b"
            assert live.stored[1].delivery_id.endswith("/-/message/0")

    asyncio.run(scenario())


@pytest.mark.parametrize("has_hook", [False, True])
def test_output_is_kept_only_for_a_completion_hook_and_then_charged(has_hook: bool) -> None:
    """Law 3: what a message with many tasks holds is on its account."""
    megabyte = 1 << 20

    class Fanning(ShellHandler):
        async def arrange(
            self, messages: Sequence[Message[Request]], pending: Pending
        ) -> Sequence[Task]:
            scripts = (f"head -c {megabyte} /dev/zero", "sleep 60")
            return [Task(args=("-c", script)) for script in scripts]

        async def collect(self, result: TaskResult) -> Sequence[Payload]:
            return ()

    class Completing(Fanning):
        async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
            return ()

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "x")
        async with running(cluster, handler=(Completing if has_hook else Fanning)({})) as live:
            await live.heard.until(lambda: bool(live.heard.of("collected")))
            await asyncio.sleep(0.6)  # a tick: figures are of half a second ago
            held = live.worker.figures().queued_bytes
            assert (held > megabyte) is has_hook
            assert held < 2 * megabyte

    asyncio.run(scenario())


def test_a_replay_of_another_cluster_is_skipped_and_one_of_ours_keeps_its_identity() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        for origin in (b"fast/requests/0/7/123", b"main/requests/0/7/123"):
            cluster.produce(
                TOPIC, 0, value=b'{"script": "echo x"}', headers=[(REPLAY_HEADER, origin)]
            )
        async with running(cluster) as live:
            await live.fates(2)
            fates = {e.offset: e.fate for e in live.heard.of("message_completed")}
            assert fates == {0: "skipped", 1: "delivered"}
            assert live.stored[0].delivery_id == "main/requests/0/7/123/0/collect/0"

    asyncio.run(scenario())


def test_while_no_letter_can_be_written_the_offset_does_not_pass() -> None:
    """Law 5."""

    async def scenario() -> None:
        cluster, letters = new_cluster(partitions=2), Letters(is_down=True)
        cluster.produce(TOPIC, 0, value=b"not json")
        async with running(cluster, letters=letters) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            publish(cluster, "echo other", partition=1)
            await live.fates(1)
            assert values(live.stored) == ["other\n"]
            assert live.worker.figures() is not None
            letters.is_down = False
            await live.fates(2)
            assert await live.stop() == 0
            assert len(letters.stored) == 1
            assert live.committed(0) == 1
            assert live.heard.of("unparked")

    asyncio.run(scenario())


def test_a_clean_drain_leaves_nothing_for_the_heir_to_do_twice() -> None:
    """What was delivered above an unfinished message is not delivered again by the next owner."""

    class Patient(ShellHandler):
        async def on_error(self, failure: TaskFailure) -> TaskDecision:
            return Retry(delay_seconds=300)

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "test $DRAKKAR_ATTEMPT -ge 2 && echo late")
        publish(cluster, *(f"sleep 0.05; echo {n}" for n in range(30)))
        seen: list[str] = []
        async with running(cluster, handler=Patient({})) as live:
            await live.fates(4)
            assert not live.committed()
            assert await live.stop() == 0
            seen += values(live.stored)
            first = live.committed() or 0
            assert "late\n" in seen
            assert 4 < first < 31
        async with running(cluster, handler=Patient({})) as live:
            await live.fates(31 - first)
            assert await live.stop() == 0
            seen += values(live.stored)
            assert live.committed() == 31
        assert sorted(seen) == sorted(["late\n", *(f"{n}\n" for n in range(30))])

    asyncio.run(scenario())


def test_a_second_signal_kills_at_once_and_commits_nothing_of_it() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "sleep 60")
        async with running(cluster) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_started")))
            live.worker.signal()
            assert await live.stop() == 1
            assert live.heard.of("task_cancelled")
            assert live.stored == []
            assert not live.committed()

    asyncio.run(scenario())


def test_a_missing_program_parks_the_partition_and_loses_nothing() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo x")
        async with running(cluster, cluster_config(binary="/nowhere/program")) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            assert live.heard.of("parked")[0].cause == "program"
            assert live.heard.of("message_completed") == []
            assert live.worker.counters.running_tasks() == (), "nothing runs meanwhile"
            assert await live.stop() == 0
            assert live.letters.stored == []

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "code",
    [errno.EAGAIN, errno.ENOMEM, errno.EMFILE, errno.ETXTBSY, errno.EIO, errno.ESTALE, errno.EPERM],
)
def test_a_machine_that_can_start_nothing_is_no_messages_fault(
    code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Law 9: the partition waits, and no letter is written."""
    monkeypatch.setattr("workers.pipeline.task_steps.PARK_RETRY_SECONDS", 0.01)

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo x")
        async with running(cluster, cluster_config(max_retries=0)) as live:
            run = live.worker.executor.run
            refusals = [code] * 5

            async def refusing(launch: Launch, watcher: Watcher) -> Exit | None:
                if not refusals:
                    return await run(launch, watcher)
                detail = os.strerror(refusals.pop())
                return exit_without_run(FailureKind.SPAWN, detail, time.monotonic(), code)

            monkeypatch.setattr(live.worker.executor, "run", refusing)
            await live.fates(1)
            assert live.letters.stored == []
            assert values(live.stored) == ["x\n"]
            assert [event.cause for event in live.heard.of("parked")] == ["program"]
            assert len(live.heard.of("unparked")) == 1
            assert await live.stop() == 0

    asyncio.run(scenario())


def test_a_program_that_could_not_be_started_has_no_exit_code(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """-1 read as "killed by SIGHUP" on its page."""

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo x")
        async with running(cluster, cluster_config(max_retries=0)) as live:

            async def refusing(_: Launch, watcher: Watcher) -> Exit:
                detail = os.strerror(errno.E2BIG)
                return exit_without_run(FailureKind.SPAWN, detail, time.monotonic(), errno.E2BIG)

            monkeypatch.setattr(live.worker.executor, "run", refusing)
            await live.fates(1)
            (failed,) = live.heard.of("task_failed")
            assert failed.failure == "spawn"
            assert failed.exit_code is None
            assert await live.stop() == 0

    asyncio.run(scenario())


def test_an_offset_does_not_pass_before_its_delivery(monkeypatch: pytest.MonkeyPatch) -> None:
    is_down = threading.Event()
    is_down.set()
    store = MemorySink.send

    def send(self: MemorySink, batch: Sequence[Delivery]) -> None:
        if is_down.is_set():
            raise TransientError("down on purpose")
        store(self, batch)

    monkeypatch.setattr(MemorySink, "send", send)

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "echo x")
        async with running(cluster) as live:
            await live.heard.until(lambda: bool(live.heard.of("delivery_failed")))
            assert live.heard.of("message_completed") == []
            assert not live.committed()
            is_down.clear()
            await live.fates(1)
            assert await live.stop() == 0
            assert values(live.stored) == ["x\n"]
            assert live.committed() == 1

    asyncio.run(scenario())


def test_after_an_epoch_is_lost_nothing_of_it_is_delivered_or_committed() -> None:
    """Law 6."""

    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, "sleep 6; echo late")
        async with running(cluster, session_seconds=2.0) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_started")))
            live.broker.freeze()
            async with running(cluster) as heir:
                await heir.heard.until(lambda: bool(heir.heard.of("assigned")))
                live.broker.thaw()
                await live.heard.until(lambda: bool(live.heard.of("lost")))
                await live.heard.until(lambda: bool(live.heard.of("task_cancelled")))
                assert live.heard.of("delivered") == []
                assert live.heard.of("message_completed") == []
                assert live.heard.of("committed") == []

    asyncio.run(scenario())


def test_what_changed_since_the_run_before_is_told_after_the_start() -> None:
    async def scenario() -> None:
        changes = RunChanges(
            run_before=UUID(int=7),
            versions=(Change("handler", "v1", "v2"),),
            config=(Change("executor.max_executors", "4", "8"),),
        )
        async with running(new_cluster(), changes=changes) as live:
            assert await live.stop() == 0
            told = [event.kind for event in live.heard.events[:3]]
            assert told == ["worker_started", "version_changed", "config_changed"]
            (config,) = live.heard.of("config_changed")
            assert config.run_before == str(UUID(int=7))
            assert config.changes == [{"key": "executor.max_executors", "old": "4", "new": "8"}]

    asyncio.run(scenario())


def test_a_run_like_the_one_before_tells_of_no_change() -> None:
    async def scenario() -> None:
        same = RunChanges(run_before=UUID(int=7), versions=(), config=())
        async with running(new_cluster(), changes=same) as live:
            assert await live.stop() == 0
            assert live.heard.of("version_changed") == live.heard.of("config_changed") == []

    asyncio.run(scenario())
