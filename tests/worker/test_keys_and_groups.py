"""Keys and groups of a whole worker: real programs, their sinks, a second owner."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.support.pipeline import (
    TOPIC,
    Request,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker.memory import MemoryCluster
from workers.executor.slots import Slots
from workers.handler import Message, Pending, Retry, Skip, Task, TaskDecision, TaskFailure

SKIP = Skip(reason="by the test")


class NamedHandler(ShellHandler):
    """The script says the key and the group of its task: ``key group script``, ``-`` for none."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                args=("-c", script),
                key=None if key == "-" else key,
                group=None if group == "-" else group,
                source_offsets=(message.offset,),
            )
            for message in messages
            for key, group, script in [message.payload.script.split(" ", 2)]
        ]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        return Retry(delay_seconds=0.05)


def publish(cluster: MemoryCluster, *scripts: str, partition: int = 0) -> None:
    for script in scripts:
        cluster.produce(TOPIC, partition, value=json.dumps({"script": script}).encode())


def logged(path: Path, name: str, seconds: float = 0.05) -> str:
    return f"k - echo +{name} >> {path}; sleep {seconds}; echo -{name} >> {path}; echo {name}"


def slots_of(live: Running) -> Slots:
    (partition,) = live.worker.partitions.values()
    return partition.tools.steps.slots


def test_tasks_of_a_key_run_and_deliver_in_order_over_a_retry(tmp_path: Path) -> None:
    """The second one fails once; the third begins when it has ended, and the one without a key runs
    beside them."""
    path = tmp_path / "log"
    fails = f"test -e {path}.failed || {{ touch {path}.failed; exit 1; }}; "
    second = logged(path, "1").replace("k - ", f"k - {fails}")

    async def scenario() -> list[str]:
        cluster = new_cluster()
        config = cluster_config(max_executors=4)
        async with running(cluster, config, NamedHandler({}, max_retries=9)) as live:
            publish(cluster, logged(path, "0"), second, logged(path, "2"), "- - echo free")
            await live.fates(4)
            assert live.heard.of("task_retried")
            assert {event.labels.get("key") for event in live.heard.of("task_started")} == {
                "k",
                None,
            }
            assert await live.stop() == 0
            texts = [str(getattr(one.payload, "value", "")).strip() for one in live.stored]
            return [text for text in texts if text != "free"]

    assert asyncio.run(scenario()) == ["0", "1", "2"]
    assert path.read_text().split() == ["+0", "-0", "+1", "-1", "+2", "-2"]


def test_the_next_owner_goes_on_where_the_order_was_left(tmp_path: Path) -> None:
    """A stop finishes what runs and leaves what waits for its key."""
    path = tmp_path / "log"

    async def scenario() -> None:
        cluster = new_cluster()
        config = cluster_config(max_executors=4)
        publish(cluster, *[logged(path, str(n), 0.3) for n in range(4)])
        async with running(cluster, config, NamedHandler({}, max_retries=9)) as live:
            await live.heard.until(lambda: len(live.heard.of("task_started")) == 1)
            assert await live.stop() == 0
            assert live.committed() == 1
            (revoked,) = live.heard.of("revoked")
            assert (revoked.clean, revoked.dropped_messages) == (True, 3)
        async with running(cluster, config, NamedHandler({}, max_retries=9)) as live:
            await live.fates(3)
            assert await live.stop() == 0

    asyncio.run(scenario())
    assert path.read_text().split() == [f"{sign}{n}" for n in range(4) for sign in "+-"]


def test_a_rebalance_lets_no_task_of_a_key_overtake(tmp_path: Path) -> None:
    """A second worker joins while tasks run: what moves goes on there in order, nothing twice."""
    count, paths = 8, [tmp_path / "0", tmp_path / "1"]

    async def scenario() -> None:
        cluster = new_cluster(2)
        config = cluster_config(max_executors=4)
        for number, path in enumerate(paths):
            scripts = [logged(path, str(n), 0.15) for n in range(count)]
            publish(cluster, *scripts, partition=number)
        async with running(cluster, config, NamedHandler({}, max_retries=9)) as first:
            await first.heard.until(lambda: len(first.heard.of("task_started")) >= 3)
            async with running(cluster, config, NamedHandler({}, max_retries=9)) as second:
                await second.fates(1)
                assert first.heard.of("revoked")
                while cluster.committed("group", TOPIC, 0).offset != count or (
                    cluster.committed("group", TOPIC, 1).offset != count
                ):
                    await asyncio.to_thread(_changed, cluster)
                assert await second.stop() == 0
            assert await first.stop() == 0

    asyncio.run(scenario())
    for path in paths:
        assert path.read_text().split() == [f"{sign}{n}" for n in range(count) for sign in "+-"]


def _changed(cluster: MemoryCluster) -> None:
    with cluster.changed:
        cluster.changed.wait(0.5)


def test_a_group_at_its_bound_leaves_the_slots_to_others_and_is_told_as_the_reason() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        config = cluster_config(max_executors=3, groups={"*": {"max_running": 1}})
        publish(cluster, *["- acme sleep 60"] * 3, "- other echo 3", "- - echo 4")
        async with running(cluster, config, NamedHandler({}, max_retries=9)) as live:
            await live.fates(2)
            slots = slots_of(live)
            assert (slots.busy, slots.waiting, slots.waiting_for_group) == (1, 2, 2)
            (partition,) = live.worker.partitions.values()
            assert partition.cancel_task("0:0:0", SKIP)
            await live.fates(3)
            await live.heard.until(
                lambda: any(e.task_id == "0:1:0" for e in live.heard.of("task_started"))
            )
            assert partition.cancel_task("0:1:0", SKIP)
            await live.fates(4)
            slots.hold_group("acme", True)
            assert partition.cancel_task("0:2:0", SKIP)
            publish(cluster, "- acme echo late")
            await live.fates(5)
            await live.heard.until(lambda: len(live.heard.of("arranged")) == 6)
            async with asyncio.timeout(10):
                # It was arranged in this turn, and waits from one of the next on.
                while not slots.waiting_for_group:  # noqa: ASYNC110
                    await asyncio.sleep(0)
            blocker = partition.figures().blocker
            assert blocker is not None
            assert blocker.waits_for == "group acme, paused"
            slots.hold_group("acme", False)
            await live.fates(6)
            assert await live.stop() == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("name", ["key", "group"])
def test_a_name_of_10_kb_is_a_letter_that_names_the_field(name: str) -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        long = "x" * 10_000
        publish(cluster, f"{long} - true" if name == "key" else f"- {long} true", "- - echo ok")
        async with running(cluster, handler=NamedHandler({}, max_retries=9)) as live:
            await live.fates(2)
            ((_, _, headers),) = live.letters.stored
            reason = headers["drakkar-reason"] or b""
            assert (
                f"{name}: expected 1 to 255 bytes of UTF-8 or None, got 10,000" in reason.decode()
            )
            assert headers["drakkar-stage"] == b"arrange"
            assert await live.stop() == 0

    asyncio.run(scenario())
