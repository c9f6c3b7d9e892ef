"""A clean end makes nothing twice (docs/decisions/0002), whatever was under way at the stop."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Sequence
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from tests.support.pipeline import TOPIC, Letters, cluster_config, new_cluster, running
from workers.broker.memory import MemoryCluster
from workers.handler import (
    BatchGroup,
    Handler,
    MemoryPayload,
    Message,
    MessageGroup,
    Payload,
    Pending,
    Precomputed,
    Replace,
    Retry,
    Skip,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)

KINDS = ("quick", "slow", "filtered", "precomputed", "flaky", "skipped", "replaced", "many", "pair")
LIVES = 8
Values = list[Any]


class Work(BaseModel):
    """One message: what becomes of it."""

    kind: str


class Mixed(Handler[Work]):
    """Tasks of every kind; each payload names the messages it stands for."""

    async def arrange(self, messages: Sequence[Message[Work]], pending: Pending) -> Sequence[Task]:
        tasks: list[Task] = []
        pair: list[int] = []
        for message in messages:
            kind, at = message.payload.kind, message.offset
            if kind == "pair":
                pair.append(at)
                if len(pair) == 2:
                    tasks.append(of("echo", *pair))
                    pair = []
            elif kind == "many":
                tasks += [of("sleep 0.02; echo", at), of("echo", at), of("sleep 0.05; echo", at)]
            elif kind != "filtered":
                tasks.append(task_of(kind, at))
        return [*tasks, *(of("echo", at) for at in pair)]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        place = (result.task.id.split(":")[2], *result.task.source_offsets)
        return [MemoryPayload(sink="store", value=("task", *place))]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        at = failure.task.source_offsets[0]
        if failure.task.labels["kind"] == "skipped":
            return Skip(reason="on purpose")
        if failure.task.labels["kind"] == "replaced":
            return Replace(tasks=[of("sleep 0.02; echo", at), of("echo", at)])
        return Retry(delay_seconds=0.2)


class ByMessage(Mixed):
    async def on_message_complete(self, group: MessageGroup[Work]) -> Sequence[Payload]:
        await asyncio.sleep(0.01)
        return [MemoryPayload(sink="store", value=("message", group.message.offset))]


class ByBatch(Mixed):
    async def on_batch_complete(self, batch: BatchGroup[Work]) -> Sequence[Payload]:
        offsets = tuple(group.message.offset for group in batch.groups)
        return [MemoryPayload(sink="store", value=("batch", *offsets))]


class ByBoth(ByMessage, ByBatch):
    """Both completion hooks."""


class NewestFirst(Mixed):
    def task_priority(self, task: Task) -> float:
        return -task.source_offsets[0]


def of(script: str, *offsets: int, kind: str = "quick") -> Task:
    return Task(args=("-c", script), source_offsets=offsets, labels={"kind": kind})


def task_of(kind: str, at: int) -> Task:
    if kind == "precomputed":
        return Task(precomputed=Precomputed(stdout=b"done"), source_offsets=(at,))
    scripts = {
        "slow": "sleep 0.1",
        "flaky": "test $DRAKKAR_ATTEMPT -ge 2",
        "skipped": "exit 1",
        "replaced": "exit 1",
    }
    return of(scripts.get(kind, "true"), at, kind=kind)


async def one_life(
    cluster: MemoryCluster, handler: type[Mixed], letters: Letters, delivered: int | None, left: int
) -> Values:
    """Stop after so many deliveries, or at the end of the work; what was delivered."""
    config = cluster_config().model_copy(update={"drain_timeout_seconds": 15.0})
    async with running(cluster, config, handler({}), letters) as live:
        told = live.heard.of
        await live.heard.until(
            lambda: (
                len(told("message_completed")) >= left
                or (delivered is not None and len(told("delivered")) >= delivered)
            )
        )
        code = await live.stop()
        assert (code, [ended.clean for ended in told("revoked")]) == (0, [True])
        return [one.payload.value for one in live.stored]


@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    kinds=st.lists(st.sampled_from([*KINDS, "bad"]), min_size=1, max_size=16),
    handler=st.sampled_from([Mixed, ByMessage, ByBatch, ByBoth, NewestFirst]),
    stops=st.lists(st.integers(0, 6), max_size=LIVES - 1),
)
def test_lives_that_end_cleanly_deliver_nothing_twice_and_lose_nothing(
    kinds: list[str], handler: type[Mixed], stops: list[int]
) -> None:
    async def scenario() -> None:
        cluster, letters, seen = new_cluster(), Letters(), []
        for kind in kinds:
            value = b"not json" if kind == "bad" else json.dumps({"kind": kind}).encode()
            cluster.produce(TOPIC, 0, value=value)
        for stop in (*stops, None):
            left = len(kinds) - (cluster.committed("group", TOPIC, 0).offset or 0)
            seen += await one_life(cluster, handler, letters, stop, left)
        assert [value for value, count in Counter(seen).items() if count > 1] == []
        assert cluster.committed("group", TOPIC, 0).offset == len(kinds)
        assert len(letters.stored) == kinds.count("bad")
        assert_all_there(kinds, handler, seen)

    asyncio.run(scenario())


def assert_all_there(kinds: list[str], handler: type[Mixed], seen: Values) -> None:
    """Each message has its payloads, and stands in one group of its completion hook."""
    tasks = Counter(at for what, *place in seen if what == "task" for at in place[1:])
    payloads = {"filtered": 0, "skipped": 0, "bad": 0, "many": 3, "replaced": 2}
    assert [tasks[at] for at in range(len(kinds))] == [payloads.get(kind, 1) for kind in kinds]
    for hook, asking, unasked in (
        ("message", (ByMessage, ByBoth), {"bad", "filtered"}),
        ("batch", (ByBatch, ByBoth), {"bad"}),
    ):
        grouped = Counter(at for what, *place in seen if what == hook for at in place)
        wanted = [int(handler in asking and kind not in unasked) for kind in kinds]
        assert [grouped[at] for at in range(len(kinds))] == wanted
