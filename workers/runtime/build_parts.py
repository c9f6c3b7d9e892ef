"""Composition of a worker's parts: each function makes one of them, and nothing connects."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from domain.backpressure import Budget, BudgetLimits
from domain.events import Tell
from domain.retry import Backoff
from recorder.runs import RunDescription
from sinks.base import Sink
from sinks.dead_letter import DeadLetterWriter, LetterHold, LetterTopic, kafka_letters
from sinks.lane import Lane, build_lane
from sinks.letter import LetterStamp
from sinks.registry import SinkContext
from workers.broker.base import Broker, GroupConfig
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.consumer.ownership import Claim, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import Post
from workers.consumer.thread import ConsumerThread
from workers.executor.base import Executor
from workers.executor.slots import AHEAD, Slots
from workers.handler import Handler, overrides
from workers.pipeline.arranging import Arranging
from workers.pipeline.epochs import Epochs
from workers.pipeline.hooks import Hooks
from workers.pipeline.task_life import TaskSteps
from workers.pipeline.task_supervisor import TaskSupervisor
from workers.pipeline.telling import TaskTeller
from workers.runtime.listeners.counters import Counters
from workers.runtime.membership import Membership


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedParts:
    """What every part stands on."""

    config: ClusterConfig
    run: RunDescription
    handler: Handler[Any]
    hooks: Hooks
    children: TaskSupervisor
    slots: Slots
    budget: Budget[Claim]
    board: WantedBoard
    counters: Counters
    clock: Clock
    tell: Tell


def build_shared_parts(
    config: ClusterConfig,
    run: RunDescription,
    handler: Handler[Any],
    counters: Counters,
    tell: Tell,
) -> SharedParts:
    """What needs nothing else."""
    clock = Clock()
    hooks = Hooks(clock=clock, tell=tell, timeout_seconds=config.hook_timeout_seconds)
    limits = BudgetLimits(
        high_messages=config.high_messages, high_bytes=config.backpressure.high_bytes
    )
    budget: Budget[Claim] = Budget(limits)
    return SharedParts(
        config=config,
        run=run,
        handler=handler,
        hooks=hooks,
        children=TaskSupervisor(handler, hooks),
        slots=Slots(config.executor.max_executors, AHEAD),
        budget=budget,
        board=WantedBoard(budget.room_messages),
        counters=counters,
        clock=clock,
        tell=tell,
    )


def build_epochs(shared: SharedParts) -> Epochs:
    """The partitions of the moment: none yet."""
    return Epochs(
        shared.children,
        board=shared.board,
        counters=shared.counters,
        clock=shared.clock,
        tell=shared.tell,
    )


def build_membership(
    shared: SharedParts,
    epochs: Epochs,
    loop: asyncio.AbstractEventLoop,
    make_broker: Callable[[GroupConfig], Broker],
) -> Membership:
    """Not joined yet; the epochs of one consumer and the next never repeat."""
    config = shared.config
    policy = ConsumerPolicy(
        run=str(shared.run.id),
        max_poll_records=config.kafka.max_poll_records,
        start_at=config.kafka.start_at,
        revoke_timeout_seconds=config.revoke_timeout_seconds,
    )
    group, numbers = GroupConfig.from_config(config.kafka), count(1)

    def make_consumer_thread(post: Post) -> ConsumerThread:
        return ConsumerThread(make_broker(group), post, shared.board, policy, epochs=numbers)

    return Membership(
        config.kafka.group,
        make_consumer_thread,
        epochs=epochs,
        loop=loop,
        fail=shared.children.fail,
    )


def build_arranging(shared: SharedParts) -> Arranging:
    """From records to tasks."""
    return Arranging(
        handler=shared.handler,
        hooks=shared.hooks,
        cluster=shared.run.cluster,
        on_parse_error=shared.config.kafka.on_parse_error,
    )


def build_steps(shared: SharedParts, executor: Executor, environ: Mapping[str, str]) -> TaskSteps:
    """Steps of a task; ``environ`` is the worker's own environment."""
    config = shared.config.executor
    return TaskSteps(
        handler=shared.handler,
        hooks=shared.hooks,
        executor=executor,
        slots=shared.slots,
        config=config,
        base_env=child_environment(shared.config, environ),
        limits=config.limits.to_domain(),
        cluster=shared.run.cluster,
        clock=shared.clock,
        teller=TaskTeller(shared.clock, shared.tell),
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
    shared: SharedParts,
    make_letters: Callable[[], LetterTopic] | None,
    on_hold: Callable[[LetterHold], None],
) -> DeadLetterWriter:
    """The writer of dead letters; ``make_letters`` stands in for the cluster's topic."""
    config, kafka = shared.config, shared.config.kafka
    topic = make_letters or kafka_letters(
        config.dead_letters,
        topic=config.dead_letter_topic,
        brokers=kafka.brokers,
        client=kafka.client,
    )
    stamp = LetterStamp(cluster=shared.run.cluster, group=kafka.group, worker=shared.run.worker)
    return DeadLetterWriter(topic, stamp, wall=shared.clock.wall, on_hold=on_hold)


def sink_context(config: ClusterConfig, cluster: str, name: str) -> SinkContext:
    """What a sink of that name may need besides its own section."""
    kafka = config.kafka
    return SinkContext(
        cluster=cluster, name=name, source_brokers=kafka.brokers, source_client=kafka.client
    )


def build_lanes(shared: SharedParts, make_sink: Callable[[str], Sink] | None) -> dict[str, Lane]:
    """A lane a sink, by name; ``make_sink`` stands in for the configured sinks."""
    handler = shared.handler
    asks = overrides(handler, "on_delivery_error")
    ask = partial(shared.hooks.call, handler.on_delivery_error) if asks else None
    lanes = {}
    for name, section in shared.config.sinks.items():
        context = sink_context(shared.config, shared.run.cluster, name)
        build = None if make_sink is None else partial(make_sink, name)
        lanes[name] = build_lane(section, context, ask, build)
    return lanes
