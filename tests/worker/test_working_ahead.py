"""Tasks handed to the spawner ahead of a slot: what is told of them, and how a worker drains."""

from __future__ import annotations

import asyncio
from collections import Counter
from itertools import pairwise
from typing import Any

import pytest

from tests.support.pipeline import TOPIC, Heard, cluster_config, new_cluster, running
from workers.broker.memory import MemoryCluster

PARTITIONS = 3


@pytest.fixture(autouse=True)
def _always_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    """However slow this machine is now, its programs count as short."""
    monkeypatch.setattr("workers.executor.slots.SHORT_SECONDS", 60.0)


def publish(cluster: MemoryCluster, count: int, script: str) -> None:
    for number in range(count):
        value = f'{{"script": "{script}"}}'.encode()
        cluster.produce(TOPIC, number % PARTITIONS, value=value)


def assert_each_start_has_one_end(heard: Heard) -> None:
    """No attempt that was told as started ends unknown, and none ends twice."""
    started = Counter((event.task_id, event.attempt) for event in heard.of("task_started"))
    ended = Counter((event.task_id, event.attempt) for event in heard.of("task_completed"))
    assert set(started.values()) == {1}
    assert ended == started


def assert_no_slot_is_held_twice(heard: Heard, slots: int) -> None:
    ends: dict[str, Any] = {event.task_id: event for event in heard.of("task_completed")}
    for slot in range(slots):
        spans = []
        for event in heard.of("task_started"):
            end = ends[event.task_id]
            assert end.slot == event.slot
            if event.slot == slot:
                spans.append((event.at, end.started_at + end.duration_ms / 1000.0))
        assert len(spans) > 5
        for (_, end_at), (begin_at, _) in pairwise(sorted(spans)):
            assert end_at <= begin_at + 0.001, "a wall clock has no more digits"


def test_starts_and_ends_of_what_was_handed_ahead_are_told_as_of_any() -> None:
    async def scenario() -> None:
        cluster = new_cluster(PARTITIONS)
        publish(cluster, 150, "echo x")
        async with running(cluster, cluster_config(max_executors=3)) as live:
            await live.fates(150)
            assert await live.stop() == 0
        assert len(live.stored) == 150
        assert len(live.heard.of("task_completed")) == 150
        assert_each_start_has_one_end(live.heard)
        assert_no_slot_is_held_twice(live.heard, 3)

    asyncio.run(scenario())


def test_a_drain_finishes_what_the_spawner_has_started_and_nothing_else() -> None:
    async def scenario() -> None:
        cluster = new_cluster(PARTITIONS)
        publish(cluster, 300, "sleep 0.01; echo x")
        async with running(cluster, cluster_config(max_executors=2)) as live:
            await live.fates(20)
            assert await live.stop() == 0
        started = len(live.heard.of("task_started"))
        assert started < 300, "the stop came while more were waiting"
        assert_each_start_has_one_end(live.heard)
        assert len(live.stored) == started

    asyncio.run(scenario())
