"""Composition of a worker: each part is made once, of those that it needs, and nothing connects."""

from __future__ import annotations

import asyncio
import fnmatch
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from itertools import count
from typing import Any

from domain.backpressure import Budget, BudgetLimits
from domain.events import Listeners, Tell
from domain.holding import HELD_SHARE, HeldBytes
from domain.retry import Backoff
from recorder.recorder import Recorder
from recorder.run_changes import RunChanges
from recorder.runs import RunDescription
from sinks.base import Sink
from sinks.dead_letter import DeadLetterWriter, kafka_letters
from sinks.lane import Lane, build_lane
from sinks.letter import LetterStamp
from sinks.record_writer import RecordTopic
from sinks.registry import SinkContext
from sinks.retry_topic import RetryTopicWriter, kafka_retries
from sinks.router import Router
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
from workers.pipeline.partition import PartitionTools
from workers.pipeline.task_steps import TaskSteps
from workers.pipeline.task_supervisor import TaskSupervisor
from workers.pipeline.telling import TaskTeller
from workers.runtime.listeners.counters import Counters
from workers.runtime.listeners.log import LogListener
from workers.runtime.membership import Membership
from workers.runtime.periodic import AdvisoryLocks, PeriodicJobs

logger = logging.getLogger("drakkar.worker")


@dataclass(eq=False, kw_only=True)
class WorkerParts:
    """Parts of one worker, from its configuration and adapters.

    ``environ`` is the worker's own environment; ``make_letters``, ``make_retries`` and
    ``make_sink`` stand in for the cluster's topics of dead letters and of retries, and the
    configured sinks; ``last_resort`` ends the process after so many seconds, whatever hangs;
    ``listeners`` hear of each event after our own; ``changes`` are those since the run before.
    """

    config: ClusterConfig
    run: RunDescription
    handler: Handler[Any]
    environ: Mapping[str, str]
    recorder: Recorder | None
    executor: Executor
    loop: asyncio.AbstractEventLoop
    make_broker: Callable[[GroupConfig], Broker]
    make_letters: Callable[[], RecordTopic] | None
    make_retries: Callable[[], RecordTopic] | None
    make_sink: Callable[[str], Sink] | None
    last_resort: Callable[[float], None]
    listeners: tuple[Tell, ...]
    changes: RunChanges

    @cached_property
    def clock(self) -> Clock:
        """Clock of all parts."""
        return Clock()

    @cached_property
    def counters(self) -> Counters:
        """Figures counted from events."""
        return Counters(self.config.retry.topic)

    @cached_property
    def tell(self) -> Tell:
        """Way of each event: to the figures, the recorder, the log; what one raises costs the
        others nothing."""
        heard: dict[str, Tell] = {"figures": self.counters}
        if self.recorder is not None:
            heard["recorder"] = self.recorder.tell
        heard["log"] = LogListener(self.config.recorder.log_min_duration_ms)
        heard |= {f"listener-{number}": each for number, each in enumerate(self.listeners, 1)}
        told = Listeners(heard, _say_listener_failed)
        self.counters.listener_errors = told.errors
        return told

    @cached_property
    def hooks(self) -> Hooks:
        """Caller of the handler's hooks."""
        seconds = self.config.hook_timeout_seconds
        return Hooks(clock=self.clock, tell=self.tell, timeout_seconds=seconds)

    @cached_property
    def children(self) -> TaskSupervisor:
        """Child tasks, and the failure that ends the worker."""
        return TaskSupervisor(self.handler, self.hooks)

    @cached_property
    def slots(self) -> Slots:
        """Slots of the executor."""
        config = self.config.executor
        return Slots(config.max_executors, AHEAD, config.group_rule)

    @cached_property
    def budget(self) -> Budget[Claim]:
        """Bytes and messages in hand."""
        high_bytes = self.config.backpressure.high_bytes
        return Budget(BudgetLimits(high_messages=self.config.high_messages, high_bytes=high_bytes))

    @cached_property
    def board(self) -> WantedBoard:
        """State that the loop wants of the consumer thread."""
        return WantedBoard(self.budget.room_messages)

    @cached_property
    def epochs(self) -> Epochs:
        """Partitions of the moment: none yet."""
        return Epochs(self.children, self.counters, self._partition_tools())

    @cached_property
    def membership(self) -> Membership:
        """Place in the group, not joined yet; epochs of one consumer and the next never repeat."""
        kafka, numbers = self.config.kafka, count(1)
        group = GroupConfig.from_config(kafka, self.config.retry.topic)
        policy = ConsumerPolicy(
            run=str(self.run.id),
            max_poll_records=kafka.max_poll_records,
            start_at=kafka.start_at,
            retry_topic=self.config.retry.topic,
            revoke_timeout_seconds=self.config.revoke_timeout_seconds,
        )

        def make_consumer_thread(post: Post) -> ConsumerThread:
            return ConsumerThread(self.make_broker(group), post, self.board, policy, epochs=numbers)

        return Membership(
            kafka.group,
            make_consumer_thread,
            epochs=self.epochs,
            loop=self.loop,
            fail=self.children.fail,
        )

    @cached_property
    def steps(self) -> TaskSteps:
        """Steps of a task."""
        config = self.config.executor
        return TaskSteps(
            handler=self.handler,
            hooks=self.hooks,
            executor=self.executor,
            slots=self.slots,
            config=config,
            base_env=child_environment(self.config, self.environ),
            limits=config.limits.to_domain(),
            cluster=self.run.cluster,
            clock=self.clock,
            teller=TaskTeller(self.clock, self.tell),
            backoff=Backoff(**config.retry_backoff.model_dump()),
            retry_in_place_seconds=config.retry_in_place_seconds,
        )

    @cached_property
    def lanes(self) -> Mapping[str, Lane]:
        """Lanes of the sinks, by name."""
        asks = overrides(self.handler, "on_delivery_error")
        ask = partial(self.hooks.call, self.handler.on_delivery_error) if asks else None
        lanes = {}
        for name, section in self.config.sinks.items():
            context = sink_context(self.config, self.run.cluster, name)
            build = None if self.make_sink is None else partial(self.make_sink, name)
            lanes[name] = build_lane(section, context, ask, build)
        return lanes

    @cached_property
    def dead_letters(self) -> DeadLetterWriter:
        """Writer of dead letters."""
        config, kafka = self.config, self.config.kafka
        topic = self.make_letters or kafka_letters(
            config.dead_letters,
            topic=config.dead_letter_topic,
            brokers=kafka.brokers,
            client=kafka.client,
        )
        stamp = LetterStamp(cluster=self.run.cluster, group=kafka.group, worker=self.run.worker)
        return DeadLetterWriter(
            topic,
            stamp,
            wall=self.clock.wall,
            on_hold=lambda hold: self.epochs.letter_held(hold),
        )

    @cached_property
    def retries(self) -> RetryTopicWriter | None:
        """Writer of deferred messages; None: the cluster has no retry topic."""
        topic, kafka = self.config.retry.topic, self.config.kafka
        if topic is None:
            return None
        made = self.make_retries or kafka_retries(topic, brokers=kafka.brokers, client=kafka.client)
        return RetryTopicWriter(topic, made, on_hold=lambda hold: self.epochs.letter_held(hold))

    @cached_property
    def router(self) -> Router:
        """Way of payloads to their lanes."""
        return Router(self.lanes, self.dead_letters, tell=self.tell, wall=self.clock.wall)

    @cached_property
    def periodic(self) -> PeriodicJobs:
        """Periodic jobs of the handler."""
        locks = AdvisoryLocks(self.run.cluster)
        return PeriodicJobs(self.handler, self.hooks, self.clock, self.tell, locks)

    def _partition_tools(self) -> PartitionTools:
        """Return those parts that partitions work with."""
        arranging = Arranging(
            handler=self.handler,
            hooks=self.hooks,
            cluster=self.run.cluster,
            on_parse_error=self.config.kafka.on_parse_error,
            retry_topic=self.config.retry.topic,
        )
        return PartitionTools(
            cluster=self.run.cluster,
            handler=self.handler,
            hooks=self.hooks,
            arranging=arranging,
            steps=self.steps,
            router=self.router,
            dead_letters=self.dead_letters,
            board=self.board,
            budget=self.budget,
            clock=self.clock,
            tell=self.tell,
            start=self.children.start,
            retries=self.retries,
            held_bytes=HeldBytes(int(self.config.backpressure.high_bytes * HELD_SHARE)),
            max_batch_messages=self.config.batch.max_messages,
            batch_linger_seconds=self.config.batch.linger_ms / 1000.0,
        )


def _say_listener_failed(name: str, error: Exception, count: int) -> None:
    """Say the first failure of a listener, then each at a power of ten."""
    if count == 10 ** (len(str(count)) - 1):
        logger.error("listener %s failed on %d events: %r", name, count, error)


def child_environment(config: ClusterConfig, environ: Mapping[str, str]) -> dict[str, str]:
    """Return what every child sees: the passed names of the worker's environment, then
    ``executor.env``."""
    patterns = config.executor.env_pass
    passed = {
        name: value
        for name, value in environ.items()
        if any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)
    }
    return passed | config.executor.env


def sink_context(config: ClusterConfig, cluster: str, name: str) -> SinkContext:
    """Return what a sink of that name may need besides its own section."""
    kafka = config.kafka
    return SinkContext(
        cluster=cluster, name=name, source_brokers=kafka.brokers, source_client=kafka.client
    )
