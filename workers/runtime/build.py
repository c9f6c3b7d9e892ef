"""Composition: a worker from its configuration and its adapters."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from typing import Any

from domain.events import Event, ProcessReplaced, SpawnerLost, Tell
from domain.masking import Key, mask, mask_at
from domain.tracebacks import error_text
from recorder.failures.counting import project_failures
from recorder.projections import in_turn
from recorder.recorder import Recorder
from recorder.rollups.projection import project_rollups
from recorder.rows import Row
from recorder.run_changes import RunChanges
from recorder.runs import RunDescription, uuid7
from sinks.base import Sink
from sinks.letter_rows import store_letters
from sinks.record_writer import RecordTopic
from workers.broker.base import Broker, GroupConfig
from workers.broker.kafka import KafkaBroker
from workers.clock import Clock
from workers.config import ClusterConfig
from workers.executor.base import Executor
from workers.executor.persistent import EndedProcess, Persistent
from workers.executor.progress import PROGRESS_FD, PROGRESS_VARIABLE
from workers.executor.spawn import SpawnExecutor
from workers.handler import Handler
from workers.runtime.listeners.streams import end_process_at
from workers.runtime.process_identity import ProcessIdentity
from workers.runtime.versions import Versions, deployed_by
from workers.runtime.worker import Worker
from workers.runtime.worker_parts import WorkerParts, child_environment
from workers.version import VERSION

logger = logging.getLogger("drakkar.worker")


def load_handler(config: ClusterConfig) -> Handler[Any]:
    """Import and make the handler. Raises LookupError or ValueError naming what is wrong."""
    module_name, _, class_name = config.handler.partition(":")
    try:
        cls = getattr(import_module(module_name), class_name)
    except (ImportError, AttributeError) as exc:
        raise LookupError(f"cannot import {config.handler}: {exc}") from exc
    if not (isinstance(cls, type) and issubclass(cls, Handler)):
        raise LookupError(f"{config.handler}: expected a subclass of drakkar.Handler")
    return make_handler(cls, config)


def make_handler(cls: type[Handler[Any]], config: ClusterConfig) -> Handler[Any]:
    """Make a handler with its settings. Raises LookupError or ValueError naming what is wrong."""
    model = cls.settings_model
    settings = model.model_validate(config.app) if model is not None else config.app
    try:
        return cls(settings, max_retries=config.executor.max_retries)
    except (Exception, SystemExit) as exc:
        name = f"{cls.__module__}:{cls.__qualname__}"
        raise LookupError(f"{name}: its __init__ raised {error_text(exc)}") from exc


@dataclass(slots=True)
class ExecutorWatch:
    """Listeners to the executor's troubles; the executor starts before the worker is composed,
    because a run is described by the isolation tier in force."""

    lost: Callable[[int, int, str], None] | None = None
    failed: Callable[[BaseException], None] | None = None
    process_ended: Callable[[EndedProcess], None] | None = None

    def on_lost(self, pid: int, tasks: int, detail: str) -> None:
        """Tell that a spawner died."""
        if self.lost is not None:
            self.lost(pid, tasks, detail)

    def on_failed(self, error: BaseException) -> None:
        """Tell that the executor gave up."""
        if self.failed is not None:
            self.failed(error)

    def on_process_end(self, process: EndedProcess) -> None:
        """Tell that a persistent process must be replaced."""
        if self.process_ended is not None:
            self.process_ended(process)


def build_executor(
    config: ClusterConfig, environ: Mapping[str, str]
) -> tuple[SpawnExecutor, ExecutorWatch]:
    """Make the executor, not started yet, and the watch to be given to ``build_worker``."""
    watch = ExecutorWatch()
    executor = SpawnExecutor(
        spawners=config.executor.spawners,
        slots=config.executor.max_executors,
        on_spawner_lost=watch.on_lost,
        on_failed=watch.on_failed,
        nice=config.executor.nice,
        persistent=_persistent(config, environ),
        cgroups=config.executor.cgroups,
        limits=config.executor.limits.to_domain(),
        on_process_end=watch.on_process_end,
    )
    return executor, watch


def _persistent(config: ClusterConfig, environ: Mapping[str, str]) -> Persistent | None:
    executor = config.executor
    if executor.mode != "persistent" or executor.binary is None:
        return None
    given = executor.persistent
    return Persistent(
        argv=(executor.binary, *given.args),
        env=child_environment(config, environ) | {PROGRESS_VARIABLE: str(PROGRESS_FD)},
        cwd=executor.cwd,
        limits=executor.limits.to_domain(),
        kill_grace_seconds=executor.kill_grace_seconds,
        max_requests=given.max_requests,
        ready_timeout_seconds=given.ready_timeout_seconds if given.await_ready else None,
    )


def describe_run(
    config: ClusterConfig,
    cluster: str,
    worker: str,
    *,
    environ: Mapping[str, str],
    isolation: str,
    cgroups: str = "",
    secret_keys: Collection[Key] = (),
    versions: Versions = Versions(),  # noqa: B008 - frozen
) -> RunDescription:
    """Describe the run as the recorder stores it, with ``secret_keys`` masked."""
    clock = Clock()
    return RunDescription(
        id=uuid7(clock.wall()),
        cluster=cluster,
        worker=worker,
        host=socket.gethostname(),
        pid=os.getpid(),
        version=VERSION,
        isolation=isolation,
        cgroups=cgroups,
        slots=config.executor.max_executors,
        config_hash=config.fingerprint,
        config=mask_at(config.model_dump(mode="json"), secret_keys),
        environment=mask({n: environ[n] for n in config.recorder.expose_env if n in environ}),
        started_at=clock.wall(),
        process=str(ProcessIdentity.own() or ""),
        handler_version=versions.handler,
        program_version=versions.program,
        deployed_by=deployed_by(environ),
    )


def build_recorder(config: ClusterConfig, run: RunDescription) -> Recorder:
    """Make the run's recorder, and say what is made of events where they are stored."""
    projections = (project_letters, project_rollups, project_failures)
    return Recorder(run, config.recorder, project=in_turn(*projections))


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
    make_letters: Callable[[], RecordTopic] | None = None,
    make_retries: Callable[[], RecordTopic] | None = None,
    make_sink: Callable[[str], Sink] | None = None,
    last_resort: Callable[[float], None] = end_process_at,
    listeners: tuple[Tell, ...] = (),
    changes: RunChanges = RunChanges(),  # noqa: B008 - frozen
) -> Worker:
    """Compose a worker; nothing connects before it runs. Tests and probes pass other adapters."""
    parts = WorkerParts(
        config=config,
        run=run,
        handler=handler,
        environ=environ,
        recorder=recorder,
        executor=executor,
        loop=loop,
        make_broker=make_broker,
        make_letters=make_letters,
        make_retries=make_retries,
        make_sink=make_sink,
        last_resort=last_resort,
        listeners=listeners,
        changes=changes,
    )
    watch.lost = partial(_tell_spawner_lost, parts.tell, parts.clock)
    watch.failed = parts.children.fail
    watch.process_ended = partial(_tell_process_ended, parts.tell, parts.clock)
    return Worker(parts)


def _tell_spawner_lost(tell: Tell, clock: Clock, pid: int, tasks: int, detail: str) -> None:
    event: Event = SpawnerLost(at=clock.wall(), pid=pid, tasks=tasks, detail=detail)
    tell(event)


def _tell_process_ended(tell: Tell, clock: Clock, process: EndedProcess) -> None:
    event: Event = ProcessReplaced(
        at=clock.wall(),
        slot=process.slot,
        pid=process.pid,
        duration_ms=process.seconds * 1000.0,
        cause=process.cause,
        detail=process.detail,
        requests=process.requests,
    )
    tell(event)
