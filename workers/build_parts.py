"""Composition of a worker's parts: each function makes one of them, and nothing connects."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

from domain.backpressure import Budget, Marks
from domain.events import Tell
from domain.retry import Backoff
from sinks.base import Sink
from sinks.dead_letter import DeadLetterWriter, LetterHold, LetterTopic, kafka_letters
from sinks.lane import Lane, build_lane
from sinks.letter import LetterStamp
from sinks.registry import SinkContext
from workers.arranging import Arranging
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.executor.base import Executor
from workers.executor.slots import Slots
from workers.handler import Handler, overrides
from workers.hooks import Hooks
from workers.owner_policy import OwnerPolicy
from workers.ownership import Claim
from workers.task_run import TaskRunner


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every part stands on."""

    config: ClusterConfig
    cluster: str
    worker: str
    handler: Handler[Any]
    hooks: Hooks
    clock: Clock
    tell: Tell


def budget_of(config: ClusterConfig) -> Budget[Claim]:
    """How much may be in hand."""
    marks = Marks(high_messages=config.high_messages, high_bytes=config.backpressure.high_bytes)
    return Budget(marks)


def owner_policy(config: ClusterConfig, run: str) -> OwnerPolicy:
    """How the consumer's thread behaves."""
    return OwnerPolicy(
        run=run,
        max_poll_records=config.kafka.max_poll_records,
        start_at=config.kafka.start_at,
        revoke_timeout_seconds=config.revoke_timeout_seconds,
    )


def build_arranging(ground: Ground) -> Arranging:
    """From records to tasks."""
    return Arranging(
        handler=ground.handler,
        hooks=ground.hooks,
        cluster=ground.cluster,
        on_parse_error=ground.config.kafka.on_parse_error,
    )


def build_runner(
    ground: Ground, executor: Executor, slots: Slots, environ: Mapping[str, str]
) -> TaskRunner:
    """The steps of a task; ``environ`` is the worker's own environment."""
    config = ground.config.executor
    return TaskRunner(
        handler=ground.handler,
        hooks=ground.hooks,
        executor=executor,
        slots=slots,
        config=config,
        base_env=child_environment(ground.config, environ),
        limits=config.limits.to_domain(),
        cluster=ground.cluster,
        clock=ground.clock,
        tell=ground.tell,
        backoff=Backoff(**config.retry_backoff.model_dump()),
    )


def child_environment(config: ClusterConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """What every child sees: the passed names of the worker's environment, then
    ``executor.env``."""
    patterns = config.executor.env_pass
    passed = {
        name: value
        for name, value in environ.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    return passed | config.executor.env


def build_letters(
    ground: Ground,
    make_letters: Callable[[], LetterTopic] | None,
    on_hold: Callable[[LetterHold], None],
) -> DeadLetterWriter:
    """The writer of dead letters; ``make_letters`` stands in for the cluster's topic."""
    config, kafka = ground.config, ground.config.kafka
    topic = make_letters or kafka_letters(
        config.dead_letters,
        topic=config.dead_letter_topic,
        brokers=kafka.brokers,
        client=kafka.client,
    )
    stamp = LetterStamp(cluster=ground.cluster, group=kafka.group, worker=ground.worker)
    return DeadLetterWriter(topic, stamp, wall=ground.clock.wall, on_hold=on_hold)


def build_lanes(ground: Ground, make_sink: Callable[[str], Sink] | None) -> dict[str, Lane]:
    """A lane a sink, by name; ``make_sink`` stands in for the configured sinks."""
    handler, kafka = ground.handler, ground.config.kafka
    asks = overrides(handler, "on_delivery_error")
    ask = partial(ground.hooks.call, handler.on_delivery_error) if asks else None
    lanes = {}
    for name, section in ground.config.sinks.items():
        context = SinkContext(
            cluster=ground.cluster,
            name=name,
            source_brokers=kafka.brokers,
            source_client=kafka.client,
        )
        build = None if make_sink is None else partial(make_sink, name)
        lanes[name] = build_lane(section, context, ask, build)
    return lanes
