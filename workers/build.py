"""Composition: a worker from its configuration and its adapters."""

from __future__ import annotations

import asyncio
import fnmatch
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from itertools import count
from typing import Any

from domain.backpressure import Budget, Marks
from domain.events import Event, SpawnerLost, Tell, tell_each
from domain.masking import Key, mask, mask_at
from domain.retry import Backoff
from recorder.recorder import Recorder
from recorder.rows import Row
from recorder.runs import RunDescription, uuid7
from sinks.base import Sink
from sinks.dead_letter import DeadLetterWriter, LetterTopic, kafka_letters
from sinks.lane import Lane, build_lane
from sinks.letter import LetterStamp
from sinks.letter_rows import store_letters
from sinks.registry import SinkContext
from sinks.router import Router
from workers.arranging import Arranging
from workers.broker.base import Broker, GroupConfig
from workers.broker.kafka import KafkaBroker
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.consumer import Owner
from workers.deadline import end_process_at
from workers.executor.base import Executor
from workers.executor.slots import Slots
from workers.executor.spawn import SpawnExecutor
from workers.handler import Handler, overrides
from workers.hooks import Hooks
from workers.listeners.counters import Counters
from workers.listeners.log import log_listener
from workers.owner_policy import OwnerPolicy
from workers.ownership import Claim, WantedBoard
from workers.periodic import AdvisoryLocks, PeriodicJobs
from workers.task_run import TaskRunner
from workers.version import VERSION
from workers.worker import Worker, WorkerParts


def load_handler(config: ClusterConfig) -> Handler[Any]:
    """Import and make the handler. Raises LookupError or ValueError naming what is wrong."""
    module_name, _, class_name = config.handler.partition(":")
    try:
        cls = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as exc:
        raise LookupError(f"cannot import {config.handler}: {exc}") from exc
    if not (isinstance(cls, type) and issubclass(cls, Handler)):
        raise LookupError(f"{config.handler}: expected a subclass of workers.handler.Handler")
    model = cls.settings_model
    settings = model.model_validate(config.app) if model is not None else config.app
    handler: Handler[Any] = cls(settings, max_retries=config.executor.max_retries)
    return handler


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


@dataclass(slots=True)
class ExecutorWatch:
    """Who hears of the executor's troubles; the executor starts before the worker is composed,
    because a run is described by the isolation tier in force."""

    lost: Callable[[int, int, str], None] | None = None
    failed: Callable[[BaseException], None] | None = None

    def on_lost(self, pid: int, tasks: int, detail: str) -> None:
        """A spawner died."""
        if self.lost is not None:
            self.lost(pid, tasks, detail)

    def on_failed(self, error: BaseException) -> None:
        """The executor gave up."""
        if self.failed is not None:
            self.failed(error)


def build_executor(config: ClusterConfig) -> tuple[SpawnExecutor, ExecutorWatch]:
    """The executor, not started yet, and the watch to be given to ``build_worker``."""
    watch = ExecutorWatch()
    executor = SpawnExecutor(
        spawners=config.executor.spawners,
        on_spawner_lost=watch.on_lost,
        on_failed=watch.on_failed,
        nice=config.executor.nice,
    )
    return executor, watch


def describe_run(
    config: ClusterConfig,
    cluster: str,
    worker: str,
    *,
    environ: Mapping[str, str],
    isolation: str,
    secret_keys: Collection[Key] = (),
) -> RunDescription:
    """The run as the recorder stores it; ``secret_keys`` are masked whatever their names."""
    clock = Clock()
    return RunDescription(
        id=uuid7(clock.wall()),
        cluster=cluster,
        worker=worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=VERSION,
        isolation=isolation,
        slots=config.executor.max_executors,
        config_hash=config.fingerprint,
        config=mask_at(config.model_dump(mode="json"), secret_keys),
        environment=mask({n: environ[n] for n in config.recorder.expose_env if n in environ}),
        started_at=clock.wall(),
    )


def build_recorder(config: ClusterConfig, run: RunDescription) -> Recorder:
    """The run's recorder; dead letters get rows of their own with their events."""
    return Recorder(run, config.recorder, project=project_letters)


def project_letters(run: RunDescription, rows: Sequence[Row]) -> None:
    """Rows of dead letters, beside their events (``recorder.writer.Project``)."""
    store_letters(run.cluster, run.worker, rows)


def build_worker(
    config: ClusterConfig,
    run: RunDescription,
    *,
    handler: Handler[Any],
    environ: Mapping[str, str],
    recorder: Recorder | None,
    executor: Executor,
    watch: ExecutorWatch,
    loop: asyncio.AbstractEventLoop,
    make_broker: Callable[[GroupConfig], Broker] = KafkaBroker,
    make_letters: Callable[[], LetterTopic] | None = None,
    make_sink: Callable[[str], Sink] | None = None,
    last_resort: Callable[[float], None] = end_process_at,
    listeners: tuple[Tell, ...] = (),
) -> Worker:
    """Compose a worker; nothing connects before it runs. Tests and probes pass other adapters."""
    clock, counters = Clock(), Counters()
    heard: list[Tell] = [counters, log_listener(config.recorder.log_min_duration_ms), *listeners]
    if recorder is not None:
        heard.append(recorder.tell)
    tell = tell_each(*heard)
    hooks = Hooks(clock=clock, tell=tell, timeout_seconds=config.hook_timeout_seconds)
    slots = Slots(config.executor.max_executors)
    holder: list[Worker] = []
    budget: Budget[Claim] = Budget(
        Marks(high_messages=config.high_messages, high_bytes=config.backpressure.high_bytes)
    )
    board = WantedBoard(budget.room_messages)
    lanes = _lanes(config, run.cluster, handler, hooks, make_sink)
    kafka = config.kafka
    letters = DeadLetterWriter(
        make_letters
        or kafka_letters(
            config.dead_letters,
            topic=config.dead_letter_topic,
            brokers=kafka.brokers,
            client=kafka.client,
        ),
        LetterStamp(cluster=run.cluster, group=kafka.group, worker=run.worker),
        wall=clock.wall,
        on_hold=lambda hold: holder[0].letter_held(hold),
    )
    router = Router(lanes, letters, tell=tell, wall=clock.wall)
    parts = WorkerParts(
        config=config,
        run=run,
        handler=handler,
        hooks=hooks,
        arranging=Arranging(
            handler=handler,
            hooks=hooks,
            cluster=run.cluster,
            on_parse_error=config.kafka.on_parse_error,
        ),
        runner=TaskRunner(
            handler=handler,
            hooks=hooks,
            executor=executor,
            slots=slots,
            config=config.executor,
            base_env=child_environment(config, environ),
            limits=config.executor.limits.to_domain(),
            cluster=run.cluster,
            clock=clock,
            tell=tell,
            backoff=Backoff(**config.executor.retry_backoff.model_dump()),
        ),
        executor=executor,
        slots=slots,
        lanes=lanes,
        dead_letters=letters,
        router=router,
        recorder=recorder,
        counters=counters,
        board=board,
        budget=budget,
        clock=clock,
        tell=tell,
        periodic=PeriodicJobs(handler, hooks, clock, tell, AdvisoryLocks(run.cluster)),
        last_resort=last_resort,
    )
    worker = Worker(parts)
    holder.append(worker)
    watch.lost = partial(_tell_spawner_lost, tell, clock)
    watch.failed = worker.fail
    policy = OwnerPolicy(
        run=str(run.id),
        max_poll_records=config.kafka.max_poll_records,
        start_at=config.kafka.start_at,
        revoke_timeout_seconds=config.revoke_timeout_seconds,
    )
    group = GroupConfig.from_config(config.kafka)
    epochs = count(1)
    worker.attach(
        lambda: Owner(make_broker(group), worker.listener(loop), board, policy, epochs=epochs)
    )
    return worker


def _lanes(
    config: ClusterConfig,
    cluster: str,
    handler: Handler[Any],
    hooks: Hooks,
    make_sink: Callable[[str], Sink] | None,
) -> dict[str, Lane]:
    asks = overrides(handler, "on_delivery_error")
    ask = partial(hooks.call, handler.on_delivery_error) if asks else None
    lanes = {}
    for name, section in config.sinks.items():
        context = SinkContext(
            cluster=cluster,
            name=name,
            source_brokers=config.kafka.brokers,
            source_client=config.kafka.client,
        )
        build = None if make_sink is None else partial(make_sink, name)
        lanes[name] = build_lane(section, context, ask, build)
    return lanes


def _tell_spawner_lost(tell: Tell, clock: Clock, pid: int, tasks: int, detail: str) -> None:
    event: Event = SpawnerLost(at=clock.wall(), pid=pid, tasks=tasks, detail=detail)
    tell(event)
