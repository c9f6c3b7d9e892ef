"""The crash guard: only a death is a death, only a step is marked, and innocents do not crawl."""

from __future__ import annotations

import asyncio
import json
import signal
import threading
from collections.abc import Callable, Coroutine, Sequence
from functools import wraps
from pathlib import Path
from typing import Any

import pytest

from integration.services import kafka_mock
from tests.process.conftest import MakeScene, make_scene, process_database
from tests.support.pipeline import (
    TOPIC,
    Request,
    Running,
    ShellHandler,
    new_cluster,
    running,
)
from tests.support.worker_process import headers_of, until
from workers.broker.base import CommittedOffset, GroupConfig
from workers.broker.memory import MemoryBroker, MemoryCluster
from workers.consumer.ownership import WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import (
    Assignment,
    ConsumerSignal,
    EndRequest,
    EpochsBegun,
    EpochsLost,
    RecordsFetched,
)
from workers.consumer.thread import ConsumerThread
from workers.control import Action, Answer, Command, check_arguments
from workers.handler import (
    BatchGroup,
    Message,
    MessageGroup,
    Payload,
    Pending,
    Precomputed,
    Record,
    Retry,
    Task,
    TaskFailure,
    TaskResult,
)
from workers.runtime.command_executor import CommandExecutor

__all__ = ["make_scene", "process_database"]

Scenario = Callable[..., Coroutine[Any, Any, None]]


def on_a_loop(scenario: Scenario) -> Callable[..., None]:
    """Run an async test on a loop of its own."""

    @wraps(scenario)
    def run(*args: Any, **kwargs: Any) -> None:
        asyncio.run(scenario(*args, **kwargs))

    return run


def publish(cluster: MemoryCluster, *scripts: str) -> None:
    for script in scripts:
        cluster.produce(TOPIC, 0, value=json.dumps({"script": script}).encode())


def leave(cluster: MemoryCluster, offset: int, **said: Any) -> None:
    """What a dead owner left in the commit metadata."""
    cluster.overwrite(
        "group", TOPIC, 0, CommittedOffset(offset, json.dumps({"run": "dead", **said}))
    )


def said(cluster: MemoryCluster, group: str = "group", topic: str = TOPIC) -> dict[str, Any]:
    """The commit metadata of partition 0."""
    body: dict[str, Any] = json.loads(cluster.committed(group, topic, 0).metadata or "{}")
    return body


class Precomputing(ShellHandler):
    """Starts no program; remembers how many messages each call of arrange got."""

    def __init__(self, settings: Any) -> None:
        super().__init__(settings)
        self.batches: list[list[int]] = []

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        self.batches.append([message.offset for message in messages])
        return [
            Task(
                args=("x",),
                source_offsets=(message.offset,),
                precomputed=Precomputed(stdout=b"x", stderr=b"", exit_code=0),
            )
            for message in messages
        ]


# -- speed, and where the guard ends


@on_a_loop
async def test_a_guarded_partition_does_fifty_messages_a_second() -> None:
    cluster, count = new_cluster(), 200
    publish(cluster, *["true"] * count)
    leave(cluster, 0, deaths=1)
    handler = Precomputing({})
    async with running(cluster, handler=handler) as live:
        await live.heard.until(lambda: bool(live.heard.of("consumed")))
        async with asyncio.timeout(count / 50):
            await live.fates(count)
        assert all(len(batch) == 1 for batch in handler.batches)
        assert await live.stop() == 0


@on_a_loop
@pytest.mark.parametrize(("strikes", "letters"), [(2, 1), (1, 0)], ids=["poison", "innocent"])
async def test_the_guard_ends_with_the_suspected_message(strikes: int, letters: int) -> None:
    cluster = new_cluster()
    publish(cluster, *["true"] * 40)
    leave(cluster, 0, deaths=3, mark=1, suspect=1, strikes=strikes)
    handler = Precomputing({})
    async with running(cluster, handler=handler) as live:
        await live.fates(40)
        assert len(live.letters.stored) == letters
        assert handler.batches[0] == [0]
        assert max(len(batch) for batch in handler.batches) > 1
        assert await live.stop() == 0
    assert said(cluster).keys() == {"run", "left"}


@on_a_loop
async def test_a_suspected_message_has_the_partition_for_itself() -> None:
    """Others of its time could take the worker with them too."""
    cluster = new_cluster()
    publish(cluster, "sleep 0.3", "sleep 0.3", "sleep 0.3", "sleep 0.3")
    leave(cluster, 0, deaths=3, mark=2, suspect=2, strikes=1)
    async with running(cluster) as live:
        await live.fates(4)
        started = {event.task_id: event.at for event in live.heard.of("task_started")}
        completed = live.heard.of("message_completed")
        ended = {f"0:{event.offset}:0": event.at for event in completed}
        assert started["0:1:0"] < ended["0:0:0"], "programs before it run beside each other"
        assert started["0:2:0"] >= max(ended["0:0:0"], ended["0:1:0"])
        assert started["0:3:0"] >= ended["0:2:0"]
        assert await live.stop() == 0


# -- what is marked


class Watching(ShellHandler):
    """Notes what the group knew at each hook."""

    seen: list[tuple[str, dict[str, Any]]]

    def _look(self, hook: str) -> None:
        self.settings["seen"].append((hook, said(self.settings["cluster"])))

    def parse(self, message: Record) -> Request:
        self._look("parse")
        return super().parse(message)

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        self._look("arrange")
        return await super().arrange(messages, pending)

    def message_label(self, message: Message[Request]) -> str:
        self._look("message_label")
        return ""

    def task_priority(self, task: Task) -> float:
        self._look("task_priority")
        return 0.0

    async def on_error(self, failure: TaskFailure) -> Any:
        self._look("on_error")
        return Retry(delay_seconds=0) if failure.attempt == 1 else await super().on_error(failure)

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        self._look("collect")
        return await super().collect(result)

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        self._look("on_message_complete")
        return []

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        self._look("on_batch_complete")
        return []


HOOKS = {
    "parse", "arrange", "message_label", "task_priority", "on_error", "collect",
    "on_message_complete", "on_batch_complete",
}  # fmt: skip


@on_a_loop
async def test_every_step_is_marked_before_it_runs_and_a_program_is_not(tmp_path: Path) -> None:
    cluster, seen = new_cluster(), list[tuple[str, dict[str, Any]]]()
    once = tmp_path / "once"
    publish(cluster, f"test -e {once} || {{ touch {once}; exit 1; }}; echo done")
    leave(cluster, 0, deaths=1)
    handler = Watching({"cluster": cluster, "seen": seen}, max_retries=1)
    async with running(cluster, handler=handler) as live:
        run = live.worker.executor.run

        async def watched(launch: Any, watcher: Any) -> Any:
            seen.append(("program", said(cluster)))
            return await run(launch, watcher)

        live.worker.executor.run = watched  # type: ignore[method-assign]
        await live.fates(1)
        assert await live.stop() == 0
    assert {hook for hook, _ in seen} == HOOKS | {"program"}
    for hook, found in seen:
        if hook == "program":
            assert "mark" not in found
            assert (found["running"], found["task"], found["alone"]) == (0, "0:0:0", True)
        else:
            assert found["mark"] == 0, hook


@on_a_loop
async def test_a_stop_under_guard_delivers_what_runs() -> None:
    """The consumer thread, which waits for the drain, tells of no answered mark meanwhile."""
    cluster = new_cluster()
    publish(cluster, "sleep 0.5; echo done")
    leave(cluster, 0, deaths=1)
    async with running(cluster) as live:
        await live.heard.until(lambda: bool(live.heard.of("task_started")))
        async with asyncio.timeout(5):
            assert await live.stop() == 0
        assert [delivery.payload.value for delivery in live.stored] == ["done\n"]
        assert live.committed() == 1


# -- who died


class Member:
    """An owner of partitions whose loop gives nothing a fate: no progress ends a row of deaths."""

    def __init__(self, cluster: MemoryCluster, run: str, revoke_seconds: float = 5.0) -> None:
        self.board = WantedBoard(100)
        self.owned: dict[int, Assignment] = {}
        self.lost_partitions: list[int] = []
        self.is_stuck = False
        self._changed = threading.Condition()
        self.broker = MemoryBroker(
            cluster, GroupConfig(brokers="", topic="jobs", group="g"), session_seconds=0.3
        )
        policy = ConsumerPolicy(
            run=run,
            retry_seconds=0.05,
            first_check_seconds=0.2,
            revoke_timeout_seconds=revoke_seconds,
        )
        self.owner = ConsumerThread(self.broker, self.post, self.board, policy)
        self.owner.start()

    def post(self, signal: ConsumerSignal) -> None:
        match signal:
            case EpochsBegun(assignments):
                with self._changed:
                    self.owned |= {each.claim.partition: each for each in assignments}
                    self._changed.notify_all()
            case RecordsFetched(records):
                self.board.taken_messages += sum(map(len, records.values()))
            case EndRequest(claims=claims):
                for claim in claims:
                    self.owned.pop(claim.partition, None)
                    if not self.is_stuck:
                        signal.ended(claim)
            case EpochsLost(claims):
                with self._changed:
                    for claim in claims:
                        self.owned.pop(claim.partition, None)
                        self.lost_partitions.append(claim.partition)
                    self._changed.notify_all()

    def until(self, holds: Callable[[], bool]) -> None:
        with self._changed:
            assert self._changed.wait_for(holds, 10), (self.owned, self.lost_partitions)


class Fleet:
    """Members of one group on a topic of two partitions, with a message in each."""

    def __init__(self) -> None:
        self.cluster = MemoryCluster()
        self.cluster.create_topic("jobs", 2)
        for partition in range(2):
            self.cluster.produce("jobs", partition, b"x")
        self.members: list[Member] = []

    def join(self, **how: Any) -> Member:
        self.members.append(Member(self.cluster, f"run-{len(self.members)}", **how))
        return self.members[-1]

    def said(self, partition: int) -> dict[str, Any]:
        body: dict[str, Any] = json.loads(
            self.cluster.committed("g", "jobs", partition).metadata or "{}"
        )
        return body

    def until_said(self, holds: Callable[[dict[str, Any]], bool], partition: int) -> None:
        with self.cluster.changed:
            assert self.cluster.changed.wait_for(lambda: holds(self.said(partition)), 10), (
                self.said(partition)
            )

    def close(self) -> None:
        for member in self.members:
            member.owner.kill()
            assert member.owner.join(5)


@pytest.fixture
def fleet() -> Any:
    made = Fleet()
    yield made
    made.close()


def test_an_owner_that_leaves_past_its_budget_did_not_die(fleet: Fleet) -> None:
    first = fleet.join(revoke_seconds=0.1)
    first.until(lambda: len(first.owned) == 2)
    fleet.until_said(lambda found: found.get("run") == "run-0", 1)
    first.is_stuck = True
    second = fleet.join()
    second.until(lambda: 1 in second.owned)
    fleet.until_said(lambda found: found.get("run") == "run-1", 1)
    assert fleet.said(1).get("deaths", 0) == 0


def test_an_owner_that_lost_its_partitions_and_lives_did_not_die(fleet: Fleet) -> None:
    """It says so with what it holds next; the heir takes the death back."""
    first = fleet.join()
    first.until(lambda: len(first.owned) == 2)
    fleet.until_said(lambda found: found.get("run") == "run-0", 0)
    second = fleet.join()
    second.until(lambda: 1 in second.owned)
    first.broker.freeze()
    first.until(lambda: bool(first.lost_partitions))
    second.until(lambda: 0 in second.owned)
    # The group has only two partitions: the first gets the other one.
    first.until(lambda: 1 in first.owned)
    for partition in range(2):
        fleet.until_said(lambda found: found.get("deaths", 0) == 0, partition)


@pytest.mark.slow
def test_a_fleet_that_loses_all_again_and_again_is_never_guarded(fleet: Fleet) -> None:
    """As in an outage of the broker longer than the session: nobody died."""
    one, other = fleet.join(), fleet.join()
    one.until(lambda: bool(one.owned))
    other.until(lambda: bool(other.owned))
    for round_ in range(1, 4):
        for member in (one, other):
            member.broker.freeze()
        for member in (one, other):
            member.until(lambda m=member, n=round_: len(m.lost_partitions) >= n)  # type: ignore[misc]
        one.until(lambda: len(one.owned) == 1)
        other.until(lambda: len(other.owned) == 1)
        for partition in range(2):
            fleet.until_said(lambda found: found.get("deaths", 0) < 2, partition)
    for partition in range(2):
        fleet.until_said(lambda found: found.get("deaths", 0) == 0, partition)


@on_a_loop
@pytest.mark.parametrize("lives", [True, False])
async def test_a_worker_is_guarded_only_where_the_former_owner_is_dead(lives: bool) -> None:
    """It asks at the start: the former owner says at another partition that it lost this one."""
    cluster = new_cluster(2)
    publish(cluster, *["true"] * 20)
    leave(cluster, 0, deaths=1)
    word = {"run": "dead", "lost": [0] if lives else [1]}
    cluster.overwrite("group", TOPIC, 1, CommittedOffset(0, json.dumps(word)))
    handler = Precomputing({})
    async with running(cluster, handler=handler) as live:
        await live.fates(20)
        assert (max(len(batch) for batch in handler.batches) > 1) is lives
        assert await live.stop() == 0


# -- the suspect


async def obey(live: Running, **arguments: Any) -> Answer:
    action, checked = check_arguments(
        Action.UNPARK_PARTITION, {"topic": TOPIC, "partition": 0, **arguments}
    )

    async def never(*_: Any) -> Answer:
        raise AssertionError("not asked")

    worker = live.worker
    obeying = CommandExecutor(
        worker, clock=worker.clock, tell=worker.tell, probe=never, redeliver=never
    )
    return await obeying.obey(Command(id="r1", action=action, arguments=checked))


SUSPECT = {"deaths": 7, "lone": 1, "lone_task": "0:1:0", "lone_deaths": 5}


@on_a_loop
@pytest.mark.parametrize(
    ("decision", "fate"),
    [("run", "delivered"), ("skip", "skipped"), ("dead_letter", "dead_lettered")],
)
async def test_an_operator_decides_about_a_suspect(decision: str, fate: str) -> None:
    cluster = new_cluster()
    publish(cluster, "echo 0", "echo 1", "echo 2")
    leave(cluster, 0, **SUSPECT)
    async with running(cluster) as live:
        await live.heard.until(lambda: bool(live.heard.of("parked")))
        (parked,) = live.heard.of("parked")
        assert (parked.cause, parked.is_retried, parked.offset) == ("suspect", False, 1)
        assert "offset 1" in parked.detail
        assert "task 0:1:0" in parked.detail
        refused = await obey(live)
        assert not refused.is_done
        assert refused.detail.startswith("suspect: expected one of run, skip, dead_letter")
        answer = await obey(live, suspect=decision)
        assert answer.is_done
        await live.fates(3)
        fates = {event.offset: event.fate for event in live.heard.of("message_completed")}
        assert fates == {0: "delivered", 1: fate, 2: "delivered"}
        assert len(live.letters.stored) == (decision == "dead_letter")
        for _, _, headers in live.letters.stored:
            assert headers["drakkar-failure-kind"] == b"poison"
        assert await live.stop() == 0
    assert said(cluster).keys() == {"run", "left"}


@on_a_loop
async def test_a_suspect_stays_parked_over_restarts() -> None:
    cluster = new_cluster()
    publish(cluster, "echo 0", "echo 1")
    leave(cluster, 1, **SUSPECT)
    for _ in range(2):
        async with running(cluster) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            assert await live.stop() == 0
            assert live.committed() == 1


SESSION_MS = 1500
MOST_KILLS = 9


@pytest.mark.slow
def test_a_hook_that_kills_at_once_is_found_in_a_group_that_has_just_begun(
    make_scene: MakeScene, tmp_path: Path
) -> None:
    """Two unguarded deaths, one at which others were at work, three marked ones; and one that a
    slow machine may not have noted."""
    topics = dict.fromkeys(("atonce", "atonce-out", "atonce_dlq"), 1)
    with kafka_mock.running(tmp_path / "mock", topics) as mock:
        mock.session_timeout(SESSION_MS)
        handler = "tests.support.worker_process:KillingArranger"
        scene = make_scene(brokers=mock.brokers, topic="atonce", cluster={"handler": handler})
        scene.produce("echo a", "echo b", "die", "echo c")
        deaths, worker = 0, scene.worker()

        def ended() -> bool:
            return scene.workers[-1].process.poll() is not None or scene.committed() == 4

        while until(ended, "a death or the end") and worker.process.poll() is not None:
            assert worker.process.returncode == -signal.SIGKILL, worker.log[-2000:]
            deaths += 1
            assert deaths <= 7, "no end of the deaths"
            worker = scene.worker()
        (letter,) = scene.results(1, "dlq")
        assert headers_of(letter)["drakkar-origin-offset"] == b"2"
        assert headers_of(letter)["drakkar-failure-kind"] == b"poison"
        assert {one.value() for one in scene.results(3)} == {b"a\n", b"b\n", b"c\n"}


@pytest.mark.slow
def test_a_program_that_outlives_its_workers_is_never_buried(
    make_scene: MakeScene, tmp_path: Path
) -> None:
    """Workers are killed while it runs until the partition parks: at most two unguarded kills, five
    counted ones, and two that a slow machine may not have noted."""
    topics = dict.fromkeys(("lone", "lone-out", "lone_dlq"), 1)
    with kafka_mock.running(tmp_path / "mock", topics) as mock:
        mock.session_timeout(SESSION_MS)
        scene = make_scene(brokers=mock.brokers, topic="lone")
        marks, kills = tmp_path / "starts", 0
        scene.produce(f"echo x >> {marks}; sleep 15; echo done", "echo after")
        worker = scene.worker()

        def started() -> bool:
            return marks.exists() and marks.read_text().count("x") > kills

        def ended() -> bool:
            return started() or bool(scene.workers[-1].lines("parked"))

        while until(ended, "a start or the parking") and started():
            kills += 1
            assert kills <= MOST_KILLS, "no end of the deaths"
            worker.signal(signal.SIGKILL)
            worker.exit_code()
            worker = scene.worker()
        (parked,) = worker.lines("parked")
        assert (parked["cause"], parked["offset"]) == ("suspect", 0)
        assert "task 0:0:0" in parked["detail"]
        assert kills >= 5
        assert scene.read("dlq") == []
        assert scene.committed() in (-1001, 0)
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert scene.committed() in (-1001, 0)
