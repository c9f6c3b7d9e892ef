"""``manage.py runworker``: run one worker of a cluster until it is told to stop."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import socket
import sys
import threading
from collections.abc import Coroutine
from concurrent.futures import Future
from functools import partial
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from prometheus_client import CollectorRegistry

from domain.beat import Beat
from domain.text_bounds import shown
from recorder.recorder import Recorder
from recorder.run_changes import RunChanges, recorded_changes
from recorder.runs import RunDescription
from workers.cluster_choice import BAD_USE, chosen_cluster, made_handler, refuse
from workers.config import ClusterConfig
from workers.control import Answer, ClusterPauses
from workers.control import Command as WorkerCommand
from workers.executor.spawn import SpawnExecutor
from workers.handler import Handler
from workers.runtime.build import (
    ExecutorWatch,
    build_executor,
    build_recorder,
    build_worker,
    describe_run,
)
from workers.runtime.command_executor import CommandExecutor
from workers.runtime.control_inbox import ControlInbox
from workers.runtime.health import HealthServer, PortTaken, Probes, page_url
from workers.runtime.heartbeat import Heartbeat
from workers.runtime.listeners.log import configure
from workers.runtime.listeners.metrics import WorkerCollector
from workers.runtime.listeners.streams import end_process, queue_standard_streams
from workers.runtime.listeners.user_metrics import UserMetrics
from workers.runtime.live_tails import LiveTails
from workers.runtime.metric_history import gauges_of
from workers.runtime.metric_snapshot import metric_snapshot
from workers.runtime.naming import NameHeld, Naming, take_name
from workers.runtime.output_follower import OutputFollower
from workers.runtime.probing import Probing
from workers.runtime.redelivery import Redelivery
from workers.runtime.versions import find_versions
from workers.runtime.worker import Worker
from workers.runtime.worker_parts import child_environment

GC_THRESHOLDS = (5_000, 10, 50)
"""Higher ones save no more, and a rare, long collection shows in the latencies."""
MAX_NAME = 255
"""Of a worker, in characters; it stands in the address of its page and in each of its rows."""
FAILED = 1
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Command(BaseCommand):
    """Thin: parses, builds, runs."""

    help = "Run a worker until it is told to stop. Exit codes: 0 stopped, 1 failed, 2 bad use."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py runworker --cluster main --name worker-1"
        parser.add_argument("--cluster", required=True, help="a name under `clusters`")
        parser.add_argument("--name", help="default: WORKER_ID, else host name and pid")
        parser.add_argument(
            "--no-recorder", action="store_true", help="keep no history (for measurements)"
        )

    def handle(self, *args: Any, **options: Any) -> None:
        config = chosen_cluster(options["cluster"])
        queue_standard_streams()
        environ: dict[str, str] = settings.DRAKKAR_ENVIRONMENT
        worker = options["name"] or environ.get("WORKER_ID") or _host_and_pid()
        if len(worker) > MAX_NAME or not worker.isprintable():
            what = f"expected at most {MAX_NAME} printable characters, got {shown(worker)}"
            refuse([f"--name, WORKER_ID: {what}"])
        configure(
            config.logging.level, config.logging.format, cluster=options["cluster"], worker=worker
        )
        handler = made_handler(config)
        run = _run(config, options["cluster"], worker, handler, environ, options["no_recorder"])
        # Client libraries keep threads that may block for long; everything of ours is closed.
        end_process(_ended(run))


def _ended(run: Coroutine[Any, Any, int]) -> int:
    """Run it to its end; the exit code. Raises SystemExit when the metrics port is taken."""
    try:
        return asyncio.run(run)
    except PortTaken as exc:
        refuse([str(exc)])
        raise
    except SystemExit as exc:
        # asyncio lets it through from any task: it was one that the handler started by itself.
        sys.stderr.write(f"worker failed: a task of the handler made an exit ({exc.code})\n")
        return FAILED


async def _run(
    config: ClusterConfig,
    cluster: str,
    name: str,
    handler: Handler[Any],
    environ: dict[str, str],
    is_silent: bool,
) -> int:
    executor, watch = build_executor(config, environ)
    await executor.start()
    versions = await find_versions(
        handler,
        config.executor.version_command,
        env=child_environment(config, environ),
        cwd=config.executor.cwd,
    )
    run = describe_run(
        config,
        cluster,
        name,
        environ=environ,
        isolation=executor.isolation,
        cgroups=executor.cgroups,
        secret_keys=settings.DRAKKAR_STATE.secret_keys(cluster),
        versions=versions,
    )
    changes = RunChanges()
    if not is_silent:
        code = await _named(run)
        if code is not None:
            await executor.close()
            return code
        changes = await asyncio.to_thread(recorded_changes, run.id)
    recorder = None if is_silent else build_recorder(config, run)
    return await _live(config, run, handler, environ, recorder, executor, watch, changes)


async def _live(
    config: ClusterConfig,
    run: RunDescription,
    handler: Handler[Any],
    environ: dict[str, str],
    recorder: Recorder | None,
    executor: SpawnExecutor,
    watch: ExecutorWatch,
    changes: RunChanges,
) -> int:
    loop = asyncio.get_running_loop()
    worker = build_worker(
        config,
        run,
        handler=handler,
        environ=environ,
        recorder=recorder,
        executor=executor,
        watch=watch,
        loop=loop,
        changes=changes,
    )
    registry = _registry(run, handler, worker)
    health = _health(config, run, worker, registry)
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, worker.signal)
    commands = _obeying(worker, config, run.cluster, environ)
    inbox = _inbox(run, worker, commands, loop)
    heartbeat = _heartbeat(run, worker, registry, inbox, _live_tails(run, worker, loop), recorder)
    if recorder is not None:
        recorder.start()
        heartbeat.start()
    health.start()
    _calm_garbage_collection()
    code = await worker.run()
    if recorder is not None:
        await asyncio.to_thread(heartbeat.close, 3.0)
    return code


def _obeying(
    worker: Worker, config: ClusterConfig, cluster: str, environ: dict[str, str]
) -> CommandExecutor:
    return CommandExecutor(
        worker,
        clock=worker.clock,
        tell=worker.tell,
        probe=Probing(config, cluster, environ),
        redeliver=Redelivery(config, clock=worker.clock, tell=worker.tell),
    )


def _post(
    commands: CommandExecutor, loop: asyncio.AbstractEventLoop, command: WorkerCommand
) -> Future[Answer]:
    return asyncio.run_coroutine_threadsafe(commands.obey(command), loop)


def _inbox(
    run: RunDescription,
    worker: Worker,
    commands: CommandExecutor,
    loop: asyncio.AbstractEventLoop,
) -> ControlInbox:
    return ControlInbox(
        run,
        obey=partial(_post, commands, loop),
        rest=partial(_rest, worker, loop),
    )


def _rest(worker: Worker, loop: asyncio.AbstractEventLoop, pauses: ClusterPauses) -> None:
    loop.call_soon_threadsafe(worker.rest, pauses)


def _heartbeat(
    run: RunDescription,
    worker: Worker,
    registry: CollectorRegistry,
    inbox: ControlInbox,
    tails: LiveTails,
    recorder: Recorder | None,
) -> Heartbeat:
    def snapshot() -> Beat:
        beat = worker.figures().beat
        if recorder is not None:
            recorder.note(gauges_of(beat))
        return beat

    return Heartbeat(
        run,
        snapshot=snapshot,
        metrics=lambda: metric_snapshot(registry),
        inbox=inbox,
        tails=tails,
    )


def _live_tails(run: RunDescription, worker: Worker, loop: asyncio.AbstractEventLoop) -> LiveTails:
    follower = OutputFollower(loop, worker.executor, lambda: worker.partitions)
    return LiveTails(run.id, follower, now=worker.clock.now, wall=worker.clock.wall)


async def _named(run: RunDescription) -> int | None:
    """Take the run's name, or the exit code instead; a signal ends the wait."""
    stopping, loop = threading.Event(), asyncio.get_running_loop()
    for number in STOP_SIGNALS:
        loop.add_signal_handler(number, stopping.set)
    try:
        naming = await asyncio.to_thread(take_name, run, stopping)
    except NameHeld as exc:
        sys.stderr.write(f"{exc}\n")
        return BAD_USE
    return 0 if naming is Naming.STOPPED or stopping.is_set() else None


def _calm_garbage_collection() -> None:
    """Keep what lives as long as the run out of collections, and make those rare.

    What a message leaves behind has no cycles: the defaults cost a quarter of the loop's time.
    """
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


def _registry(run: RunDescription, handler: Handler[Any], worker: Worker) -> CollectorRegistry:
    registry = CollectorRegistry()
    labels = {"cluster": run.cluster, "worker": run.worker}
    registry.register(WorkerCollector(worker.counters, worker.figures, labels))
    registry.register(UserMetrics(type(handler), labels))
    return registry


def _health(
    config: ClusterConfig, run: RunDescription, worker: Worker, registry: CollectorRegistry
) -> HealthServer:
    return HealthServer(
        host=config.metrics.host,
        port=config.metrics.port,
        registry=registry,
        probes=Probes(live=worker.live_problem, ready=worker.ready_problem),
        page_url=page_url(settings.DRAKKAR_STATE.site.url, run.cluster, run.worker),
    )


def _host_and_pid() -> str:
    return f"{socket.gethostname()}-{os.getpid()}"
