"""Operators' orders on a whole worker: memory broker, memory sink, real processes."""

from __future__ import annotations

import asyncio
import base64
import threading
from collections.abc import Callable, Coroutine
from dataclasses import replace
from functools import wraps
from typing import Any

import pytest

from domain.events import Parked
from tests.support.pipeline import (
    TOPIC,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.control import (
    Action,
    Answer,
    Arguments,
    Asked,
    CancelArguments,
    ClusterPauses,
    Command,
    LetterArguments,
    MatchArguments,
    MoveArguments,
    PartitionArguments,
    ProbeArguments,
    SinkArguments,
    Target,
    UnparkArguments,
    check_arguments,
)
from workers.handler import Task
from workers.runtime.command_executor import CommandExecutor
from workers.runtime.probing import Probing, bounded
from workers.runtime.redelivery import Redelivery
from workers.runtime.worker import WorkerState

ECHO = b'{"script": "echo hi"}'
LONG = b'{"script": "sleep 60"}'


Scenario = Callable[..., Coroutine[Any, Any, None]]


def on_a_loop(scenario: Scenario) -> Callable[..., None]:
    """Run an async test on a loop of its own."""

    @wraps(scenario)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(scenario(*args, **kwargs))

    return run


async def obey(live: Running, action: Action, **arguments: Any) -> Answer:
    _, checked = check_arguments(action.value, arguments)
    probe = Probing(cluster_config(max_retries=0), "main", {"PATH": "/usr/bin:/bin"})
    worker = live.worker
    redeliver = Redelivery(cluster_config(), clock=worker.clock, tell=worker.tell)
    commands = CommandExecutor(
        worker, clock=worker.clock, tell=worker.tell, probe=probe, redeliver=redeliver
    )
    return await commands.obey(Command(id="r1", action=action, arguments=checked))


@on_a_loop
async def test_a_paused_intake_takes_nothing_until_it_is_resumed() -> None:
    cluster = new_cluster(2)
    async with running(cluster) as live:
        await live.heard.until(lambda: len(live.heard.of("assigned")) == 2)
        answer = await obey(live, Action.PAUSE_INTAKE)
        assert answer == Answer(is_done=True, detail="2 partitions rest; what was taken goes on")
        states = {partition.figures().state for partition in live.worker.partitions.values()}
        assert states == {"paused"}
        assert live.worker.state is WorkerState.PAUSED
        cluster.produce(TOPIC, 0, ECHO)
        await obey(live, Action.RESUME_INTAKE)
        await live.fates(1)
        told = [(event.action, event.outcome) for event in live.heard.of("control")]
        assert told == [("pause_intake", "done"), ("resume_intake", "done")]
        paused, resumed = live.heard.of("paused"), live.heard.of("resumed")
        assert [(event.partition, event.reason) for event in paused] == [(0, "quiet"), (1, "quiet")]
        assert len(resumed) == 2
        asked_at = live.worker.clock.wall()
        assert await live.stop() == 0
        said = live.worker.figures().beat
        assert said.state == "stopped"
        assert said.state_since is not None
        assert asked_at <= said.state_since <= live.worker.clock.wall()


@on_a_loop
async def test_a_drained_worker_leaves_its_group_stays_up_and_joins_again() -> None:
    cluster = new_cluster(1)
    cluster.produce(TOPIC, 0, ECHO)
    async with running(cluster) as live:
        await live.fates(1)
        assert (await obey(live, Action.DRAIN)).is_done
        assert live.worker.partitions == {}
        assert live.worker.ready_problem() is not None
        assert not live.done.done()
        cluster.produce(TOPIC, 0, ECHO)
        answer = await obey(live, Action.RESUME_INTAKE)
        assert answer.detail == "joining the group again"
        await live.fates(2)
        assert await live.stop() == 0
        epochs = [event.epoch for event in live.heard.of("assigned")]
        assert len(set(epochs)) == len(epochs) == 2


@on_a_loop
async def test_while_the_former_consumer_closes_it_does_not_join_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its late farewell would pass for that of the next one, and a stop would not wait."""
    closing, gate = threading.Event(), threading.Event()
    cluster, config = new_cluster(1), cluster_config()
    config = config.model_copy(update={"drain_timeout_seconds": 0.5})
    async with running(cluster, config) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        close = live.broker.close

        def held() -> None:
            closing.set()
            gate.wait(20)
            close()

        monkeypatch.setattr(live.broker, "close", held)
        assert not (await obey(live, Action.DRAIN)).is_done
        assert closing.is_set()
        refused = await obey(live, Action.RESUME_INTAKE)
        assert not refused.is_done
        assert "still leaving" in refused.detail
        gate.set()
        assert await live.stop() in (0, 1)


@on_a_loop
async def test_stop_drains_and_ends_with_code_0_and_a_second_one_does_not_kill() -> None:
    async with running(new_cluster(1)) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        assert (await obey(live, Action.STOP)).is_done
        assert not (await obey(live, Action.STOP)).is_done
        assert await live.done == 0


@on_a_loop
async def test_a_partition_is_paused_and_resumed_alone() -> None:
    cluster = new_cluster(2)
    async with running(cluster) as live:
        await live.heard.until(lambda: len(live.heard.of("assigned")) == 2)
        await obey(live, Action.PAUSE_PARTITION, topic=TOPIC, partition=1)
        beats = {c.partition: p.figures() for c, p in live.worker.partitions.items()}
        states = {number: (beat.state, beat.is_paused) for number, beat in beats.items()}
        assert states == {0: ("running", False), 1: ("paused", True)}
        answer = await obey(live, Action.RESUME_PARTITION, topic=TOPIC, partition=1)
        assert answer.detail == "goes on"
        for action, more in (
            (Action.RESUME_PARTITION, {"topic": TOPIC, "partition": 1}),
            (Action.RESUME_INTAKE, {}),
            (Action.RESUME_SINK, {"sink": "store"}),
        ):
            assert (await obey(live, action, **more)).detail == "it was not paused itself"
        cluster.produce(TOPIC, 1, ECHO)
        await live.fates(1)
        refused = await obey(live, Action.PAUSE_PARTITION, topic=TOPIC, partition=9)
        assert refused == Answer(
            is_done=False, detail=f"{TOPIC} 9 is not owned by this worker any more"
        )


@on_a_loop
async def test_a_partition_parked_by_a_parse_error_tries_again_when_it_is_unparked() -> None:
    cluster = new_cluster(1)
    config = cluster_config()
    kafka = config.kafka.model_copy(update={"on_parse_error": "park"})
    cluster.produce(TOPIC, 0, b"\xff")
    async with running(cluster, config.model_copy(update={"kafka": kafka})) as live:
        await live.heard.until(lambda: len(live.heard.of("parked")) == 1)
        answer = await obey(live, Action.UNPARK_PARTITION, topic=TOPIC, partition=0)
        assert answer.detail == "goes on; was parked for parse_error"
        await live.heard.until(lambda: len(live.heard.of("parked")) == 2)
        parked: list[Parked] = live.heard.of("parked")
        assert {event.cause for event in parked} == {"parse_error"}
        assert not live.committed()


@pytest.mark.parametrize(
    ("decision", "fate"), [("skip", "skipped"), ("dead_letter", "dead_lettered")]
)
@on_a_loop
async def test_a_cancelled_task_gives_its_message_the_chosen_fate(decision: str, fate: str) -> None:
    cluster = new_cluster(1)
    cluster.produce(TOPIC, 0, LONG)
    async with running(cluster) as live:
        await live.heard.until(lambda: bool(live.heard.of("task_started")))
        answer = await obey(live, Action.CANCEL_TASK, task_id="0:0:0", decision=decision)
        assert answer.is_done
        await live.fates(1)
        (completed,) = live.heard.of("message_completed")
        (cancelled,) = live.heard.of("task_cancelled")
        assert (completed.fate, cancelled.reason) == (fate, "cancelled by an operator")
        assert len(live.letters.stored) == (decision == "dead_letter")
        gone = await obey(live, Action.CANCEL_TASK, task_id="0:0:0", decision=decision)
        assert not gone.is_done
        cluster.produce(TOPIC, 0, ECHO)
        await live.fates(2)


class LabelHandler(ShellHandler):
    """Labels each task with its message's number, even or odd."""

    async def arrange(self, messages: Any, pending: Any) -> list[Task]:
        return [
            replace(task, labels={"parity": "odd" if task.source_offsets[0] % 2 else "even"})
            for task in await super().arrange(messages, pending)
        ]


@on_a_loop
async def test_all_that_match_are_cancelled_running_and_waiting_and_no_others() -> None:
    cluster = new_cluster(1)
    for _ in range(6):
        cluster.produce(TOPIC, 0, LONG)
    async with running(cluster, handler=LabelHandler({}, max_retries=0)) as live:
        await live.heard.until(lambda: len(live.heard.of("task_started")) == 2)
        answer = await obey(live, Action.CANCEL_MATCHING, label="parity=odd", decision="skip")
        assert answer == Answer(
            is_done=True,
            detail="3 cancelled, 0 had ended or have payloads on their way",
            result={"cancelled": 3, "ended": 0},
        )
        await live.fates(3)
        assert {event.offset for event in live.heard.of("message_completed")} == {1, 3, 5}
        again = await obey(live, Action.CANCEL_MATCHING, label="parity=odd", decision="skip")
        assert again.result == {"cancelled": 0, "ended": 0}
        long = await obey(live, Action.CANCEL_MATCHING, running_seconds=3600, decision="skip")
        assert long.result == {"cancelled": 0, "ended": 0}
        running_now = await obey(
            live, Action.CANCEL_MATCHING, running_seconds=0, partition=0, decision="dead_letter"
        )
        assert running_now.result is not None
        assert running_now.result["cancelled"] >= 1
        await live.heard.until(lambda: bool(live.heard.of("dead_lettered")))
        elsewhere = await obey(live, Action.CANCEL_MATCHING, partition=9, decision="skip")
        assert elsewhere.result == {"cancelled": 0, "ended": 0}


@on_a_loop
async def test_a_paused_cluster_takes_nothing_in_nor_do_partitions_that_come() -> None:
    cluster = new_cluster(2)
    async with running(cluster) as live:
        await live.heard.until(lambda: len(live.heard.of("assigned")) == 2)
        asked = {("cluster", ""): Asked(request="r", actor="anna", reason="deploy")}
        live.worker.rest(ClusterPauses(is_paused=True, asked=asked))
        (said,) = live.heard.of("control")
        assert (said.request, said.actor, said.reason) == ("r", "anna", "deploy")
        assert live.worker.state is WorkerState.PAUSED
        assert (await obey(live, Action.DRAIN)).is_done
        for partition in range(2):
            cluster.produce(TOPIC, partition, ECHO)
        assert (await obey(live, Action.RESUME_INTAKE)).is_done
        await live.heard.until(lambda: len(live.heard.of("assigned")) == 4)
        beats = [partition.figures() for partition in live.worker.partitions.values()]
        assert {(beat.state, beat.is_paused) for beat in beats} == {("paused", False)}
        on = "but it rests on: its cluster is paused"
        place = {"topic": TOPIC, "partition": 0}
        for own in ("its own pause is ended", "it was not paused itself"):
            if own == "its own pause is ended":
                await obey(live, Action.PAUSE_INTAKE)
                await obey(live, Action.PAUSE_PARTITION, **place)
            assert (await obey(live, Action.RESUME_INTAKE)).detail == f"{own}, {on}"
            assert (await obey(live, Action.RESUME_PARTITION, **place)).detail == f"{own}, {on}"
        assert not live.heard.of("consumed")
        live.worker.rest(ClusterPauses())
        await live.fates(2)
        reasons = {event.reason for event in live.heard.of("paused")}
        assert reasons == {"cluster", "quiet", "operator"}


class TenantHandler(ShellHandler):
    """Gives each task the group ``a`` or ``b`` by its message's number, and that as key too."""

    async def arrange(self, messages: Any, pending: Any) -> list[Task]:
        tasks = await super().arrange(messages, pending)
        names = ["b" if task.source_offsets[0] % 2 else "a" for task in tasks]
        return [
            replace(task, group=name, key=name) for task, name in zip(tasks, names, strict=True)
        ]


@pytest.mark.parametrize("what", ["groups", "keys"])
@on_a_loop
async def test_what_is_paused_waits_and_the_others_go_on(what: str) -> None:
    cluster, names = new_cluster(1), frozenset({"a"})
    held = ClusterPauses(groups=names) if what == "groups" else ClusterPauses(keys=names)
    async with running(cluster, handler=TenantHandler({}, max_retries=0)) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        live.worker.rest(held)
        for n in range(6):
            cluster.produce(TOPIC, 0, f'{{"script": "echo {n}"}}'.encode())
        await live.fates(3)
        assert {event.offset for event in live.heard.of("message_completed")} == {1, 3, 5}
        (partition,) = live.worker.partitions.values()
        blocker = partition.figures().blocker
        assert blocker is not None
        assert blocker.waits_for == ("group a, paused" if what == "groups" else "key a, paused")
        assert not live.committed()
        live.worker.rest(held)
        live.worker.rest(ClusterPauses())
        await live.fates(6)
        told = [(event.action, event.target) for event in live.heard.of("control")]
        assert told == [(f"pause_{what[:-1]}", "a"), (f"resume_{what[:-1]}", "a")]
        assert await live.stop() == 0


@on_a_loop
async def test_tasks_are_cancelled_by_group_and_by_key() -> None:
    cluster = new_cluster(1)
    for _ in range(4):
        cluster.produce(TOPIC, 0, LONG)
    async with running(cluster, handler=TenantHandler({}, max_retries=0)) as live:
        await live.heard.until(lambda: len(live.heard.of("task_started")) == 2)
        named = [(task.group, task.key) for task in live.worker.figures().beat.pool.running or ()]
        assert set(named) <= {("a", "a"), ("b", "b")}
        group = await obey(live, Action.CANCEL_MATCHING, group="b", decision="skip")
        assert group.result == {"cancelled": 2, "ended": 0}
        neither = await obey(live, Action.CANCEL_MATCHING, group="a", task_key="b", decision="skip")
        assert neither.result == {"cancelled": 0, "ended": 0}
        key = await obey(live, Action.CANCEL_MATCHING, task_key="a", decision="skip")
        assert key.result == {"cancelled": 2, "ended": 0}
        await live.fates(4)


@on_a_loop
async def test_a_sink_is_tested_paused_and_resumed_by_name() -> None:
    cluster = new_cluster(1)
    async with running(cluster) as live:
        tested = await obey(live, Action.TEST_SINK, sink="store")
        assert tested.detail.startswith("connected in ")
        await obey(live, Action.PAUSE_SINK, sink="store")
        cluster.produce(TOPIC, 0, ECHO)
        await live.heard.until(lambda: bool(live.heard.of("collected")))
        assert live.worker.lanes["store"].statistics().is_paused
        assert live.stored == []
        await obey(live, Action.RESUME_SINK, sink="store")
        await live.fates(1)
        unknown = await obey(live, Action.PAUSE_SINK, sink="stor")
        assert unknown == Answer(is_done=False, detail="sink: expected one of store, got 'stor'")


@on_a_loop
async def test_a_message_is_probed_beside_the_work_and_leaves_no_trace() -> None:
    async with running(new_cluster(1)) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        sent = base64.b64encode(ECHO).decode()
        answer = await obey(live, Action.PROBE, partition=3, offset=7, value=sent)
        assert (answer.is_done, answer.detail) == (True, "fate: delivered")
        assert answer.result is not None
        assert [task["stdout"] for task in answer.result["tasks"]] == ["hi\n"]
        assert [payload["sink"] for payload in answer.result["payloads"]] == ["store"]
        assert live.stored == []
        assert {event.kind for event in live.heard.events} <= {
            "worker_started", "assigned", "control", "spawner_started",
        }  # fmt: skip
        (told,) = live.heard.of("control")
        assert told.target == "3 7"


@on_a_loop
async def test_one_message_is_probed_at_a_time() -> None:
    async with running(new_cluster(1)) as live:
        begun, go_on = asyncio.Event(), asyncio.Event()

        async def slow(asked: ProbeArguments) -> Answer:
            begun.set()
            await go_on.wait()
            return Answer(is_done=True, detail="done")

        worker = live.worker
        redeliver = Redelivery(cluster_config(), clock=worker.clock, tell=worker.tell)
        commands = CommandExecutor(
            worker, clock=worker.clock, tell=worker.tell, probe=slow, redeliver=redeliver
        )
        order = Command(id="r", action=Action.PROBE, arguments=ProbeArguments())
        first = asyncio.create_task(commands.obey(order))
        await begun.wait()
        second = await commands.obey(order)
        assert second == Answer(
            is_done=False, detail="another message is being probed; one at a time"
        )
        go_on.set()
        assert (await first).is_done
        assert (await commands.obey(order)).is_done


@on_a_loop
async def test_each_declared_action_is_done_or_refused_in_words() -> None:
    given: dict[type[Arguments], dict[str, Any]] = {
        PartitionArguments: {"topic": "t", "partition": 9},
        UnparkArguments: {"topic": "t", "partition": 9},
        MoveArguments: {"topic": "t", "partition": 9, "offset": 1, "expected": 2},
        SinkArguments: {"sink": "nowhere"},
        CancelArguments: {"task_id": "9:1:0", "decision": "skip"},
        LetterArguments: {"partition": 0, "offset": 1},
        MatchArguments: {"partition": 9, "decision": "skip"},
    }

    async def done(*asked: object) -> Answer:
        return Answer(is_done=True, detail="done")

    async with running(new_cluster(1)) as live:
        worker = live.worker
        commands = CommandExecutor(
            worker, clock=worker.clock, tell=worker.tell, probe=done, redeliver=done
        )
        asked = [each for each in Action if each.spec.target is not Target.CLUSTER]
        for action in sorted(asked, key=lambda each: each.spec.is_destructive):
            kind = action.spec.arguments
            arguments = kind.model_validate(given.get(kind, {}))
            answer = await commands.obey(Command(id="r", action=action, arguments=arguments))
            assert answer.detail, action
        assert await live.done == 0


def test_what_is_told_of_a_probe_is_bounded() -> None:
    found = bounded({"text": "a\0" + "x" * 9000, "list": list(range(60)), "n": 1})
    assert found["text"].startswith("a\N{REPLACEMENT CHARACTER}x")
    assert found["text"].endswith("... and 810 characters more")
    assert len(found["list"]) == 51
    assert found["list"][-1] == "... and 10 more"
    assert found["n"] == 1
