"""The worker's metrics after a known run: durations, waits of failures too, the handler's own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields
from typing import Any

from prometheus_client import CollectorRegistry, Counter

from domain.beat import Beat, Record, from_json, to_json
from tests.support.pipeline import (
    TOPIC,
    WAIT_SECONDS,
    Request,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.handler import Message, Pending, Task
from workers.runtime.listeners.metrics import WorkerCollector
from workers.runtime.listeners.user_metrics import UserMetrics, user_metrics
from workers.runtime.readiness import TICK_SECONDS

LABELS = {"cluster": "main", "worker": "w"}


def scraped(live: Running) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(WorkerCollector(live.worker.counters, live.worker.figures, LABELS))
    return registry


def value(registry: CollectorRegistry, name: str, **labels: str) -> float | None:
    return registry.get_sample_value(name, LABELS | labels)


def test_every_attempt_is_counted_in_wait_spawn_and_run_time() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        for script in ("echo fine", "sleep 0.3", "exit 3"):
            cluster.produce(TOPIC, 0, value=json.dumps({"script": script}).encode())
        async with running(cluster, cluster_config(max_retries=1, max_executors=1)) as live:
            await live.fates(3)
            assert await live.stop() == 0
            registry = scraped(live)
        for name in ("queue_wait", "spawn", "duration"):
            assert value(registry, f"drakkar_executor_{name}_seconds_count") == 4, name
        wait = value(registry, "drakkar_executor_queue_wait_seconds_sum")
        run = value(registry, "drakkar_executor_duration_seconds_sum")
        spawn = value(registry, "drakkar_executor_spawn_seconds_sum")
        assert wait is not None
        assert run is not None
        assert spawn is not None
        assert 0.3 <= run < 5
        assert wait > 0.3, "one slot: somebody waited for the sleeper"
        assert 0 < spawn < 1

    asyncio.run(scenario())


UNKNOWN_HERE = {
    "last_error", "last_error_at", "last_error_class", "next_probe_seconds", "waiting_for",
    "high_watermark", "lag", "blocker", "position", "committed",
}  # fmt: skip
"""Figures of things that did not happen, or that the consumer thread asks for later."""


def unknown(record: Record, path: str = "") -> Iterator[str]:
    """Paths of the figures of a record that are None, or have nothing in them."""
    for each in fields(record):  # type: ignore[arg-type]
        found, name = getattr(record, each.name), f"{path}{each.name}"
        if found is None or found in ((), {}):
            yield name
        for one in found if isinstance(found, tuple) else [found]:
            if isinstance(one, Record):
                yield from unknown(one, f"{name}.")


def test_a_heartbeat_tells_every_figure_and_keeps_it_in_its_row() -> None:
    async def scenario() -> Beat:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, value=json.dumps({"script": "echo fine"}).encode())
        cluster.produce(TOPIC, 0, value=json.dumps({"script": "sleep 60"}).encode())
        async with running(cluster, cluster_config(max_executors=2)) as live:
            await live.fates(1)
            await live.heard.until(lambda: len(live.heard.of("task_started")) == 2)
            async with asyncio.timeout(WAIT_SECONDS):
                # Figures are taken by a tick, and nobody tells of that.
                while not live.worker.figures().beat.pool.running:  # noqa: ASYNC110
                    await asyncio.sleep(0.05)
            return live.worker.figures().beat

    beat = asyncio.run(scenario())
    missing = {path for path in unknown(beat) if path.rpartition(".")[2] not in UNKNOWN_HERE}
    assert missing == {
        "counters.lags",
        "partitions.blocker.waits_for",
        "partitions.held",
        "partitions.lag_paces",
        "partitions.parked",
        "pool.running.group",
        "pool.running.key",
        "pool.running.labels",
        "pool.running.note",
        "pool.running.progress",
        "recorder.flush_counts",
        "recorder.flush_sum_seconds",
    }
    assert from_json(Beat, json.loads(json.dumps(to_json(beat)))) == beat


class SlowToStart(ShellHandler):
    """Takes longer to start than two figures are apart."""

    async def on_startup(self) -> None:
        await asyncio.sleep(2.2 * TICK_SECONDS)


def test_figures_are_taken_while_the_handler_starts_and_no_sink_has() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, value=json.dumps({"script": "echo fine"}).encode())
        async with running(cluster, handler=SlowToStart({})) as live:
            await live.fates(1)
            assert await live.stop() == 0
            assert [sink.delivered for sink in live.worker.figures().beat.sinks] == [1]

    asyncio.run(scenario())


class Wordy(ShellHandler):
    """More arguments than Linux starts a program with (6 MiB at most)."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [Task(args=["-c", "true", *["x" * 100_000] * 80]) for _ in messages]


def test_a_program_that_cannot_start_has_no_spawn_time() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, value=json.dumps({"script": "true"}).encode())
        async with running(
            cluster, cluster_config(max_retries=0), Wordy({}, max_retries=0)
        ) as live:
            await live.fates(1)
            assert await live.stop() == 0
            registry = scraped(live)
        assert value(registry, "drakkar_executor_failures_total", kind="spawn") == 1
        assert value(registry, "drakkar_executor_queue_wait_seconds_count") == 1
        assert value(registry, "drakkar_executor_spawn_seconds_count") == 0

    asyncio.run(scenario())


def test_deliveries_are_timed_by_sink() -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        for _ in range(3):
            cluster.produce(TOPIC, 0, value=json.dumps({"script": "echo x"}).encode())
        async with running(cluster) as live:
            await live.fates(3)
            assert await live.stop() == 0
            registry = scraped(live)
        name = "drakkar_sink_delivery_seconds"
        assert value(registry, f"{name}_count", sink="store") == 3
        assert value(registry, f"{name}_bucket", sink="store", le="+Inf") == 3
        total = value(registry, f"{name}_sum", sink="store")
        assert total is not None
        assert total > 0

    asyncio.run(scenario())


class Counting(ShellHandler):
    """Holds metrics of its own."""

    seen = Counter("seen", "Messages seen.", registry=None)
    named = Counter("named", "By a label named like ours.", ["worker"], registry=None)
    alias = seen

    def message_label(self, message: Message[Any]) -> str:
        """Counts itself."""
        self.seen.inc()
        self.named.labels("own").inc(2)
        return "x"


class Heir(Counting):
    """Only inherits them."""

    more = Counter("more", "One of its own.", registry=None)


def sample(registry: CollectorRegistry, name: str, labels: Mapping[str, str]) -> float | None:
    return registry.get_sample_value(name, dict(labels))


def test_the_handlers_own_metrics_are_marked_and_inherited() -> None:
    assert {metric._name for metric in user_metrics(Heir)} == {"seen", "named", "more"}
    registry = CollectorRegistry()
    registry.register(UserMetrics(Heir, LABELS))

    async def scenario() -> None:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, value=json.dumps({"script": "echo x"}).encode())
        async with running(cluster, handler=Heir({}, max_retries=0)) as live:
            await live.fates(1)
            assert await live.stop() == 0

    asyncio.run(scenario())
    marked = LABELS | {"source": "user"}
    assert sample(registry, "seen_total", marked) == 1
    assert sample(registry, "more_total", marked) == 0
    assert sample(registry, "named_total", marked | {"worker": "own"}) == 2
