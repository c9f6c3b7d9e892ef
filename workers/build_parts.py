"""Composition of a worker's parts: each function makes one of them, and nothing connects."""

from __future__ import annotations

import asyncio
import fnmatch
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import count
from typing import Any

from domain.backpressure import Budget, Marks
from domain.events import Tell
from domain.retry import Backoff
from recorder.runs import RunDescription
from sinks.base import Sink
from sinks.dead_letter import DeadLetterWriter, LetterHold, LetterTopic, kafka_letters
from sinks.lane import Lane, build_lane
from sinks.letter import LetterStamp
from sinks.registry import SinkContext
from workers.arranging import Arranging
from workers.attempts import Attempts
from workers.bridge import LoopBridge
from workers.broker.base import Broker, GroupConfig
from workers.children import Children
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.consumer import Owner
from workers.epochs import Epochs
from workers.executor.base import Executor
from workers.executor.slots import Slots
from workers.handler import Handler, overrides
from workers.hooks import Hooks
from workers.listeners.counters import Counters
from workers.membership import Membership
from workers.owner_policy import OwnerPolicy
from workers.ownership import Claim, WantedBoard
from workers.task_run import TaskRunner
from workers.task_tell import TaskTeller


@dataclass(frozen=True, slots=True, kw_only=True)
class Ground:
    """What every part stands on."""

    config: ClusterConfig
    run: RunDescription
    handler: Handler[Any]
    hooks: Hooks
    children: Children
    slots: Slots
    budget: Budget[Claim]
    board: WantedBoard
    counters: Counters
    clock: Clock
    tell: Tell


def lay_ground(
    config: ClusterConfig,
    run: RunDescription,
    handler: Handler[Any],
    counters: Counters,
    tell: Tell,
) -> Ground:
    """What needs nothing else."""
    clock = Clock()
    hooks = Hooks(clock=clock, tell=tell, timeout_seconds=config.hook_timeout_seconds)
    marks = Marks(high_messages=config.high_messages, high_bytes=config.backpressure.high_bytes)
    budget: Budget[Claim] = Budget(marks)
    return Ground(
        config=config,
        run=run,
        handler=handler,
        hooks=hooks,
        children=Children(handler, hooks),
        slots=Slots(config.executor.max_executors),
        budget=budget,
        board=WantedBoard(budget.room_messages),
        counters=counters,
        clock=clock,
        tell=tell,
    )


def build_epochs(ground: Ground) -> Epochs:
    """The partitions of the moment: none yet."""
    return Epochs(
        ground.children,
        board=ground.board,
        counters=ground.counters,
        clock=ground.clock,
        tell=ground.tell,
    )


def build_membership(
    ground: Ground,
    epochs: Epochs,
    loop: asyncio.AbstractEventLoop,
    make_broker: Callable[[GroupConfig], Broker],
) -> Membership:
    """Not joined yet; the epochs of one consumer and the next never repeat."""
    config = ground.config
    policy = OwnerPolicy(
        run=str(ground.run.id),
        max_poll_records=config.kafka.max_poll_records,
        start_at=config.kafka.start_at,
        revoke_timeout_seconds=config.revoke_timeout_seconds,
    )
    group, numbers = GroupConfig.from_config(config.kafka), count(1)

    def make_owner(membership: Membership) -> Owner:
        listener = LoopBridge(loop, membership, epochs, ground.children.fail)
        return Owner(make_broker(group), listener, ground.board, policy, epochs=numbers)

    return Membership(config.kafka.group, make_owner)


def build_arranging(ground: Ground) -> Arranging:
    """From records to tasks."""
    return Arranging(
        handler=ground.handler,
        hooks=ground.hooks,
        cluster=ground.run.cluster,
        on_parse_error=ground.config.kafka.on_parse_error,
    )


def build_runner(ground: Ground, executor: Executor, environ: Mapping[str, str]) -> TaskRunner:
    """The steps of a task; ``environ`` is the worker's own environment."""
    config, teller = ground.config.executor, TaskTeller(ground.clock, ground.tell)
    attempts = Attempts(
        executor=executor,
        slots=ground.slots,
        config=config,
        base_env=child_environment(ground.config, environ),
        limits=config.limits.to_domain(),
        cluster=ground.run.cluster,
        clock=ground.clock,
        teller=teller,
    )
    return TaskRunner(
        handler=ground.handler,
        hooks=ground.hooks,
        attempts=attempts,
        cluster=ground.run.cluster,
        clock=ground.clock,
        teller=teller,
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
    stamp = LetterStamp(cluster=ground.run.cluster, group=kafka.group, worker=ground.run.worker)
    return DeadLetterWriter(topic, stamp, wall=ground.clock.wall, on_hold=on_hold)


def sink_context(config: ClusterConfig, cluster: str, name: str) -> SinkContext:
    """What a sink of that name may need besides its own section."""
    kafka = config.kafka
    return SinkContext(
        cluster=cluster, name=name, source_brokers=kafka.brokers, source_client=kafka.client
    )


def build_lanes(ground: Ground, make_sink: Callable[[str], Sink] | None) -> dict[str, Lane]:
    """A lane a sink, by name; ``make_sink`` stands in for the configured sinks."""
    handler = ground.handler
    asks = overrides(handler, "on_delivery_error")
    ask = partial(ground.hooks.call, handler.on_delivery_error) if asks else None
    lanes = {}
    for name, section in ground.config.sinks.items():
        context = sink_context(ground.config, ground.run.cluster, name)
        build = None if make_sink is None else partial(make_sink, name)
        lanes[name] = build_lane(section, context, ask, build)
    return lanes
