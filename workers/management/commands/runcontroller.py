"""``manage.py runcontroller``: partitions ahead, lost runs, and later the fleet's other jobs."""

from __future__ import annotations

import signal
import sys
from functools import partial
from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandParser
from prometheus_client import CollectorRegistry

from domain.beat import Beat, CounterBeat
from domain.events import WorkerStarted, WorkerStopped
from recorder.config import RecorderConfig
from recorder.export_jobs import ExportLimits
from recorder.recorder import Recorder
from recorder.retention import Retention
from recorder.rollups.retention import RollupRetention
from recorder.runs import RunDescription
from sinks.letter_jobs import ReplayTransports
from sinks.replay_kafka import transport_of
from workers.clock import Clock
from workers.control_plane.control_run import control_run
from workers.control_plane.controller import Controller, ControllerCollector
from workers.control_plane.jobs import Upkeep
from workers.control_plane.notify import apprise_client
from workers.control_plane.notify.receivers import notifying_of
from workers.control_plane.queries import CONTROL_CLUSTER
from workers.control_plane.redelivery_client import deliver
from workers.control_plane.rerun.source import KafkaSourceTopic
from workers.runtime.health import HealthServer, PortTaken, Probes
from workers.runtime.heartbeat import Heartbeat
from workers.runtime.listeners.log import configure
from workers.runtime.listeners.streams import end_process, queue_standard_streams
from workers.runtime.metric_snapshot import metric_snapshot


class Command(BaseCommand):
    """Thin: builds the controller, runs it until SIGTERM or SIGINT."""

    help = "Run the fleet's controller until it is told to stop."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py runcontroller"

    def handle(self, *args: Any, **options: Any) -> None:
        queue_standard_streams()
        configure("INFO", "json", cluster=CONTROL_CLUSTER, worker="controller")
        clock = Clock()
        run = control_run("controller", clock)
        recorder = Recorder(run, RecorderConfig(), clock.wall)
        controller = Controller(recorder.tell, clock, _upkeep())
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: controller.stop())
        registry = CollectorRegistry()
        registry.register(ControllerCollector(controller))
        health = _health(registry)
        heartbeat = Heartbeat(
            run,
            snapshot=lambda: _beat(controller),
            metrics=lambda: metric_snapshot(registry),
        )
        recorder.tell(_started(run, clock))
        recorder.start()
        heartbeat.start()
        health.start()
        controller.run()
        recorder.tell(WorkerStopped(at=clock.wall(), clean=True, reason="signal"))
        recorder.close(1.0)
        heartbeat.close(1.0)
        end_process(0)


def _upkeep() -> Upkeep:
    site, config = settings.DRAKKAR_STATE.site, settings.DRAKKAR_STATE.config
    clusters = config.clusters if config is not None else {}
    return Upkeep(
        retention=Retention(days=site.history_retention_days, max_bytes=site.history_max_bytes),
        rollups=RollupRetention(
            minute_days=site.rollup_minute_days, hour_days=site.rollup_retention_days
        ),
        audit_days=site.audit_retention_days,
        request_days=site.request_retention_days,
        exports=ExportLimits(
            folder=Path(site.export_dir),
            ttl_hours=site.export_ttl_hours,
            max_bytes=site.export_max_bytes,
        ),
        kafka={name: cluster.kafka for name, cluster in clusters.items()},
        retry_topics={
            name: cluster.retry.topic for name, cluster in clusters.items() if cluster.retry.topic
        },
        transports=ReplayTransports(
            transports={name: partial(transport_of, cluster) for name, cluster in clusters.items()},
            redeliver=deliver,
        ),
        sources={
            name: partial(KafkaSourceTopic, cluster.kafka) for name, cluster in clusters.items()
        },
        notifying=notifying_of(site, apprise_client.send),
    )


def _started(run: RunDescription, clock: Clock) -> WorkerStarted:
    return WorkerStarted(
        at=clock.wall(),
        cluster=run.cluster,
        worker=run.worker,
        host=run.host,
        pid=run.pid,
        version=run.version,
        isolation="",
        launcher="",
        cgroups="",
    )


def _health(registry: CollectorRegistry) -> HealthServer:
    site = settings.DRAKKAR_STATE.site
    try:
        return HealthServer(
            host=site.controller_metrics_host,
            port=site.controller_metrics_port,
            registry=registry,
            probes=Probes(live=lambda: None, ready=lambda: None),
            page_url=site.url,
        )
    except PortTaken as exc:
        sys.stderr.write(f"site.controller_metrics_port: {exc}\n")
        raise SystemExit(2) from exc


def _beat(controller: Controller) -> Beat:
    state = "stopped" if controller.is_stopping else "ready"
    return Beat(state=state, rss_bytes=0, counters=CounterBeat(lags=controller.lags))
