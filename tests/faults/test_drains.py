"""A clean end doubles nothing and does not take longer than what runs."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest

from domain.decision import DeliveryDecision
from domain.failure import DeliveryError
from domain.retry import Backoff
from sinks.backends.memory import MemorySink
from sinks.base import Delivery, TransientError
from tests.support.pipeline import (
    TOPIC,
    Letters,
    Request,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker.base import CommittedOffset, Start
from workers.broker.memory import MemoryCluster
from workers.handler import (
    BatchGroup,
    MemoryPayload,
    Message,
    MessageGroup,
    Payload,
    Pending,
    Precomputed,
    Replace,
    Retry,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)

QUEUE = 60
"""Messages of 0.5 s in the queue: with two slots, 15 s of work."""
SLOW, QUICK = "sleep 0.5; echo {n}", "echo {n}"


@dataclass
class Seen:
    """What several lives of a worker delivered, and what was committed after each."""

    values: list[Any] = field(default_factory=list)
    commits: list[int] = field(default_factory=list)

    @property
    def twice(self) -> list[Any]:
        return [value for value, count in Counter(self.values).items() if count > 1]


def publish(cluster: MemoryCluster, partition: int, script: str, count: int = QUEUE) -> None:
    for n in range(count):
        value = json.dumps({"script": script.format(n=n)}).encode()
        cluster.produce(TOPIC, partition, value=value)


def committed(cluster: MemoryCluster, partition: int = 0) -> int:
    return cluster.committed("group", TOPIC, partition).offset or 0


async def life(
    seen: Seen,
    cluster: MemoryCluster,
    handler: ShellHandler,
    is_time: Callable[[Running], bool],
) -> float:
    """Start a worker, stop it when it is time; how long the stop took. Its end must be clean."""
    async with running(cluster, handler=handler) as live:
        await live.heard.until(lambda: is_time(live))
        began = time.monotonic()
        code = await live.stop()
        took = time.monotonic() - began
        seen.values += [one.payload.value for one in live.stored]
        seen.commits.append(committed(cluster))
        assert (code, [each.clean for each in live.heard.of("revoked")]) == (0, [True])
        return took


def fates(count: int) -> Callable[[Running], bool]:
    return lambda live: len(live.heard.of("message_completed")) >= count


def deliveries(count: int) -> Callable[[Running], bool]:
    return lambda live: len(live.heard.of("delivered")) >= count


def told(one: Running, two: Running, kind: str) -> list[Any]:
    return one.heard.of(kind) + two.heard.of(kind)


async def either(one: Running, two: Running, is_there: Callable[[], bool]) -> None:
    """Wait for something that either worker may tell."""
    waits = [asyncio.create_task(each.heard.until(is_there)) for each in (one, two)]
    done, left = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    for wait in left:
        wait.cancel()
    for wait in done:
        wait.result()


# -- F1: batches ---------------------------------------------------------------------------------


asked_of: list[tuple[int, int]] = []
"""The messages of each batch that ``Summing`` was asked about."""


class Silent(ShellHandler):
    """Delivers per task; its batch hook gives nothing."""

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        return []


class Summing(ShellHandler):
    """Delivers per batch only: one payload that names the messages it stands for."""

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return ()

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        offsets = tuple(group.message.offset for group in batch.groups)
        asked_of.extend((group.message.partition, group.message.offset) for group in batch.groups)
        assert all(group.results for group in batch.groups)
        return [MemoryPayload(sink="store", value=offsets)]


class Both(Silent):
    """Delivers per task and per batch."""

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=[g.message.offset for g in batch.groups])]


def members(seen: Seen) -> list[int]:
    """The messages named by payloads of batches."""
    return sorted(n for value in seen.values if not isinstance(value, str) for n in value)


@pytest.mark.parametrize("kind", [Silent, Both])
def test_a_stop_in_a_batch_doubles_nothing(kind: type[Silent]) -> None:
    async def scenario() -> None:
        cluster, seen = new_cluster(), Seen()
        publish(cluster, 0, "sleep 0.2; echo {n}", 12)
        await life(seen, cluster, kind({}), deliveries(4))
        assert seen.commits[0] >= 4
        await life(seen, cluster, kind({}), fates(12 - committed(cluster)))
        texts = [value for value in seen.values if isinstance(value, str)]
        assert sorted(texts) == sorted(f"{n}\n" for n in range(12))
        assert members(seen) == (list(range(12)) if kind is Both else [])

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [Silent, Summing])
def test_a_revoke_in_a_batch_doubles_nothing(kind: type[ShellHandler]) -> None:
    async def scenario() -> None:
        cluster = new_cluster(2)
        asked_of.clear()
        for partition in (0, 1):
            publish(cluster, partition, "sleep 0.05; echo {n} $DRAKKAR_TASK_ID", 30)
        async with running(cluster, handler=kind({})) as one:
            await one.heard.until(lambda: len(one.heard.of("task_completed")) >= 8)
            async with running(cluster, handler=kind({})) as two:
                await either(one, two, lambda: len(told(one, two, "message_completed")) >= 60)
                assert await two.stop() == 0
            assert await one.stop() == 0
            assert {each.clean for each in told(one, two, "revoked")} == {True}
        all_of_them = [(partition, n) for partition in (0, 1) for n in range(30)]
        if kind is Silent:
            delivered = told(one, two, "delivered")
            assert sorted((each.partition, each.offset) for each in delivered) == all_of_them
        else:
            assert sorted(asked_of) == all_of_them

    asyncio.run(scenario())


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Silent, Summing])
def test_forty_quick_restarts_come_to_the_end(kind: type[ShellHandler]) -> None:
    """Each life ends long before its batch would, and commits what it did."""

    async def scenario() -> None:
        cluster, seen = new_cluster(), Seen()
        publish(cluster, 0, "sleep 0.05; echo {n}", 400)
        for _ in range(40):
            await life(seen, cluster, kind({}), lambda live: bool(live.heard.of("task_completed")))
        assert seen.commits == sorted(set(seen.commits))
        assert seen.twice == []
        done = members(seen) if kind is Summing else sorted(int(v) for v in seen.values)
        assert done == list(range(seen.commits[-1]))

    asyncio.run(scenario())


@pytest.mark.parametrize("kind", [Silent, Both])
def test_a_member_that_outlives_the_budget_does_not_double_the_others(kind: type[Silent]) -> None:
    async def scenario() -> None:
        cluster, seen = new_cluster(), Seen()
        publish(cluster, 0, "sleep 60", 1)
        publish(cluster, 0, "echo {n}", 8)
        config = cluster_config().model_copy(update={"drain_timeout_seconds": 3.0})
        async with running(cluster, config, handler=kind({})) as live:
            await live.heard.until(lambda: deliveries(8)(live))
            assert await live.stop() == 1
            seen.values += [one.payload.value for one in live.stored]
        async with running(cluster, handler=kind({})) as heir:
            await heir.fates(8)
            heir.worker.signal()
            assert [one.payload.value for one in heir.stored] == []
        assert sorted(v for v in seen.values if isinstance(v, str)) == [f"{n}\n" for n in range(8)]
        assert members(seen) == (list(range(1, 9)) if kind is Both else [])

    asyncio.run(scenario())


# -- F2: what lies far ahead ---------------------------------------------------------------------


class FarAhead(ShellHandler):
    """The last message of the queue ends at once, in a way of its own; the heir has short tasks."""

    last = "none"
    script = SLOW

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [task for message in messages for task in self.tasks_of(message.offset)]

    def tasks_of(self, at: int) -> list[Task]:
        script = Task(args=("-c", self.script.format(n=at)), source_offsets=(at,))
        if at != QUEUE - 1 or self.last == "none":
            return [script]
        given = Task(precomputed=Precomputed(stdout=b"59\n"), source_offsets=(at,))
        quiet = Task(precomputed=Precomputed(stdout=b""), source_offsets=(at,))
        bad = Task(precomputed=Precomputed(exit_code=1), source_offsets=(at,))
        return {"filtered": [], "given": [given], "quiet": [quiet], "replaced": [bad]}.get(
            self.last, [script]
        )

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return await super().collect(result) if result.stdout else ()

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        at = failure.task.source_offsets[0]
        return Replace(tasks=[Task(precomputed=Precomputed(stdout=b"59\n"), source_offsets=(at,))])

    def task_priority(self, task: Task) -> float | None:
        return -float(task.source_offsets[0]) if self.last == "newest first" else None


def far_ahead(last: str, script: str = SLOW) -> FarAhead:
    handler = FarAhead({})
    handler.last, handler.script = last, script
    return handler


LASTS = ("none", "filtered", "given", "quiet", "replaced", "newest first")


@pytest.mark.parametrize("last", LASTS)
def test_a_stop_takes_as_long_as_what_runs(last: str) -> None:
    async def scenario() -> None:
        cluster, seen = new_cluster(), Seen()
        publish(cluster, 0, "unused")
        took = await life(seen, cluster, far_ahead(last), deliveries(3))
        assert took < 2.5
        left = QUEUE - committed(cluster)
        await life(seen, cluster, far_ahead(last, QUICK), fates(left))
        none = ["59\n"] if last in ("filtered", "quiet") else []
        assert sorted(seen.values + none) == sorted(f"{n}\n" for n in range(QUEUE))
        assert committed(cluster) == QUEUE

    asyncio.run(scenario())


@pytest.mark.parametrize("last", LASTS)
def test_a_revoke_takes_as_long_as_what_runs(last: str) -> None:
    async def scenario() -> None:
        cluster = new_cluster(2)
        for partition in (0, 1):
            publish(cluster, partition, "unused")
        async with running(cluster, handler=far_ahead(last)) as one:
            await one.heard.until(lambda: len(one.heard.of("delivered")) >= 3)
            async with running(cluster, handler=far_ahead(last, QUICK)) as two:
                await two.heard.until(lambda: bool(two.heard.of("assigned")))
                revoked, given = one.heard.of("revoked")[0], two.heard.of("assigned")[0]
                assert revoked.clean
                assert revoked.duration_ms < 2500
                await two.heard.until(
                    lambda: len(two.heard.of("message_completed")) >= QUEUE - given.offset
                )
                delivered = [
                    each.offset
                    for each in told(one, two, "delivered")
                    if each.partition == revoked.partition
                ]
                none = [QUEUE - 1] if last in ("filtered", "quiet") else []
                assert sorted(delivered + none) == list(range(QUEUE))

    asyncio.run(scenario())


class Waiting(FarAhead):
    """All messages but the last fail at first and wait long for their retry."""

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        return Retry(delay_seconds=300)


def test_messages_that_wait_for_a_retry_do_not_hold_a_stop() -> None:
    async def scenario() -> None:
        cluster, seen, first = new_cluster(), Seen(), Waiting({})
        publish(cluster, 0, "unused")
        first.last, first.script = "given", "test $DRAKKAR_ATTEMPT -ge 2 && sleep 0.5 && echo {n}"
        took = await life(
            seen,
            cluster,
            first,
            lambda live: len(live.heard.of("task_retried")) >= QUEUE - 1,
        )
        assert took < 3.5
        left = QUEUE - committed(cluster)
        await life(seen, cluster, far_ahead("given", QUICK), fates(left))
        assert sorted(seen.values) == sorted(f"{n}\n" for n in range(QUEUE))

    asyncio.run(scenario())


class PerMessage(Summing):
    """Delivers per message only."""

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=(group.message.offset,))]

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        return []


class PerTask(Summing):
    """Delivers per task, several tasks a message."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        once = await super().arrange(messages, pending)
        return [*once, *once]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=(*result.task.source_offsets, result.task.id))]

    async def on_batch_complete(self, batch: BatchGroup[Request]) -> Sequence[Payload]:
        return []


def refuse(self: MemorySink) -> None:
    """In place of ``open``."""
    raise TransientError("away on purpose")


@pytest.mark.parametrize("hindrance", ["paused", "away"])
@pytest.mark.parametrize("kind", [ShellHandler, PerTask, PerMessage, Summing])
def test_results_that_no_sink_takes_do_not_hold_a_stop(
    kind: type[ShellHandler], hindrance: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of them is out: the heir makes them again, and they are stored once."""

    async def scenario() -> None:
        cluster, count = new_cluster(), 10
        publish(cluster, 0, "sleep 0.05; echo {n}", count)
        with monkeypatch.context() as hindering:
            if hindrance == "away":
                hindering.setattr(MemorySink, "open", refuse)
            async with running(cluster, handler=kind({})) as live:
                await live.worker.has_started.wait()
                if hindrance == "paused":
                    live.worker.lanes["store"].pause()
                await live.heard.until(lambda: bool(live.heard.of("collected")))
                began = time.monotonic()
                assert await live.stop() == 0
                assert time.monotonic() - began < 5
                assert [each.clean for each in live.heard.of("revoked")] == [True]
                seen = Seen(values=[each.payload.value for each in live.stored])
        await life(seen, cluster, kind({}), fates(count - committed(cluster)))
        assert committed(cluster) == count
        assert seen.twice == []
        if kind is ShellHandler:
            assert sorted(int(value) for value in seen.values) == list(range(count))
        else:
            offsets = [n for value in seen.values for n in value if isinstance(n, int)]
            assert sorted(offsets) == sorted([*range(count)] * (2 if kind is PerTask else 1))

    asyncio.run(scenario())


class PatientSink(ShellHandler):
    """A payload that its sink did not take waits longer than any drain."""

    async def on_delivery_error(self, error: DeliveryError) -> DeliveryDecision:
        return Retry(delay_seconds=300)


@pytest.mark.parametrize(
    ("kind", "failures"), [(ShellHandler, 5), (PatientSink, 1)], ids=["breaker", "handler"]
)
@pytest.mark.parametrize("end", ["stop", "revoke"])
def test_a_sink_that_is_back_gets_what_waits_for_it_before_the_budget_is_used_up(
    kind: type[ShellHandler], failures: int, end: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the cooldown of a breaker (10 s) nor the delay of a retry has room in a revoke."""
    left, kept = [failures], MemorySink.send

    def send(self: MemorySink, batch: Sequence[Delivery]) -> None:
        if left[0]:
            left[0] -= 1
            raise TransientError("away for a moment")
        kept(self, batch)

    monkeypatch.setattr(MemorySink, "send", send)

    async def scenario() -> None:
        cluster = new_cluster(2)
        publish(cluster, 1, "echo {n}", 1)
        async with running(cluster, handler=kind({})) as live:
            await live.heard.until(lambda: not left[0])
            if end == "stop":
                assert await live.stop() == 0
            else:
                async with running(cluster, handler=kind({})):
                    await live.heard.until(lambda: bool(live.heard.of("revoked")))
            assert [each.clean for each in live.heard.of("revoked") if each.partition == 1] == [
                True
            ]
            assert [one.payload.value for one in live.stored] == ["0\n"]
            assert committed(cluster, 1) == 1

    asyncio.run(scenario())


def test_a_letter_topic_that_is_back_gets_what_waits_for_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sinks.record_writer.BACKOFF", Backoff(initial_seconds=60, max_seconds=60))

    async def scenario() -> None:
        cluster, letters = new_cluster(), Letters(is_down=True)
        cluster.produce(TOPIC, 0, value=b"no json")
        async with running(cluster, letters=letters) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            letters.is_down = False
            assert await live.stop() == 0
            assert (len(letters.stored), committed(cluster)) == (1, 1)

    asyncio.run(scenario())


@pytest.mark.parametrize("fault", ["down", "refused"])
def test_an_end_whose_last_commit_has_no_answer_is_not_called_clean(fault: str) -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, 0, "sleep 0.3; echo {n}", 20)
        config = cluster_config().model_copy(update={"drain_timeout_seconds": 2.0})
        async with running(cluster, config) as live:
            await live.fates(2)
            if fault == "down":
                cluster.set_down(True)
            else:
                cluster.commit_errors += ["UNKNOWN_MEMBER_ID"] * 20
            assert await live.stop() == 1
            assert [each.clean for each in live.heard.of("worker_stopped")] == [False]

    asyncio.run(scenario())


@pytest.mark.parametrize("signals", [1, 2])
def test_an_end_that_is_cut_doubles_only_what_was_cut(signals: int) -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        publish(cluster, 0, "sleep 60", 1)
        publish(cluster, 0, "echo {n}", 20)
        config = cluster_config().model_copy(update={"drain_timeout_seconds": 2.0})
        async with running(cluster, config) as live:
            await live.fates(20)
            if signals == 2:
                live.worker.signal()
            assert await live.stop() == 1
            assert committed(cluster) == 0
        async with running(cluster) as heir:
            await heir.fates(20)
            assert heir.heard.of("delivered") == []
            assert {each.fate for each in heir.heard.of("message_completed")} == {"skipped"}

    asyncio.run(scenario())


def test_a_message_of_six_tasks_is_finished_before_its_partition_is_given_up() -> None:
    """One of its tasks is out; the queue of another partition wants the slots."""

    class Six(ShellHandler):
        async def arrange(
            self, messages: Sequence[Message[Request]], pending: Pending
        ) -> Sequence[Task]:
            once = await super().arrange(messages, pending)
            return [each for each in once for _ in range(6 if "six" in each.args[1] else 1)]

        def task_priority(self, task: Task) -> float:
            return 1.0 if "six" in task.args[1] and task.id != "1:0:0" else 0.0

    async def scenario() -> None:
        cluster = new_cluster(2)
        publish(cluster, 1, "sleep 0.2; echo six", 1)
        publish(cluster, 0, "sleep 0.2; echo {n}", 100)
        async with running(cluster, handler=Six({})) as one:

            def of_six(live: Running) -> list[Any]:
                return [each for each in live.heard.of("delivered") if each.partition == 1]

            await one.heard.until(lambda: bool(of_six(one)))
            async with running(cluster, handler=Six({})) as two:
                await two.heard.until(lambda: bool(two.heard.of("assigned")))
                (revoked,) = one.heard.of("revoked")
                assert (revoked.partition, revoked.clean) == (1, True)
                assert len(of_six(one)) == 6
                assert revoked.duration_ms < 2500

    asyncio.run(scenario())


class Replacing(ShellHandler):
    """What fails goes on as another task, which needs a slot of its own."""

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        offsets = failure.task.source_offsets
        return Replace(tasks=[Task(args=("-c", "echo again"), source_offsets=offsets)])


def test_a_guarded_partition_does_not_keep_the_slots_from_one_that_is_given_up() -> None:
    """Its tasks have slots and wait for the group to have their notes, and the consumer thread
    reads no answers before the other partition has ended."""

    async def scenario() -> None:
        cluster = new_cluster(2)
        publish(cluster, 0, "sleep 0.05; echo {n}", 200)
        publish(cluster, 1, "sleep 1; exit 1", 1)
        dead = CommittedOffset(0, json.dumps({"run": "dead", "deaths": 2}))
        cluster.overwrite("group", TOPIC, 0, dead)
        async with running(cluster, handler=Replacing({})) as one:
            await one.heard.until(
                lambda: any(each.partition == 1 for each in one.heard.of("task_started"))
            )
            async with running(cluster, handler=Replacing({})) as two:
                await two.heard.until(lambda: bool(two.heard.of("assigned")))
                (revoked,) = one.heard.of("revoked")
                assert (revoked.partition, revoked.clean) == (1, True)
                assert revoked.duration_ms < 3500
                before = len(one.heard.of("message_completed"))
                await one.fates(before + 5)

    asyncio.run(scenario())


def test_who_begins_anew_gets_again_what_had_its_fate() -> None:
    """What an earlier owner named is passed over by heirs, not by a restart at an offset."""

    async def scenario() -> None:
        cluster, seen = new_cluster(), Seen()
        publish(cluster, 0, "unused")
        await life(seen, cluster, far_ahead("given"), deliveries(3))
        assert seen.values.count("59\n") == 1
        heir = far_ahead("given")
        async with running(cluster, handler=heir) as live:
            await live.heard.until(lambda: bool(live.heard.of("message_completed")))
            passed_over = live.heard.of("message_completed")[0]
            reason = "has its fate from an earlier owner of the partition"
            assert (passed_over.offset, passed_over.fate) == (QUEUE - 1, "skipped")
            assert passed_over.reason == reason
            (claim,) = live.worker.partitions
            live.worker.restart(claim, Start.EARLIEST)
            await live.heard.until(lambda: bool(live.heard.of("revoked")))
            heir.script = QUICK  # not before: the queue could end before the restart is served
            await live.heard.until(lambda: len(live.heard.of("assigned")) == 2)
            before = len(live.heard.of("message_completed"))
            await live.fates(before + QUEUE)
            assert await live.stop() == 0
            assert [one.payload.value for one in live.stored].count("59\n") == 1

    asyncio.run(scenario())


def test_the_configuration_of_these_tests_is_what_they_say() -> None:
    config = cluster_config()
    assert (config.executor.max_executors, config.drain_timeout_seconds) == (2, 10)
    assert config.revoke_timeout_seconds == 5


def test_nothing_stays_of_epochs_that_were_lost() -> None:
    async def scenario() -> None:
        cluster = new_cluster(2)
        async with running(cluster, session_seconds=0.5) as live:
            publish(cluster, 0, "sleep 30", 1)
            for time_lost in range(1, 4):
                await live.heard.until(partial(has_more, live, "task_started", time_lost - 1))
                live.broker.freeze()
                await asyncio.sleep(0.7)  # longer than the session, whose clock is real
                live.broker.thaw()
                await live.heard.until(partial(has_more, live, "lost", 2 * time_lost - 1))
                await live.heard.until(partial(has_more, live, "assigned", 2 * time_lost + 1))
            await live.heard.until(partial(has_more, live, "task_started", 3))
            assert set(live.worker._parts.board.claims) <= set(live.worker.partitions)

    asyncio.run(scenario())


def has_more(live: Running, kind: str, count: int) -> bool:
    return len(live.heard.of(kind)) > count
