"""Plan of ``drakkar dev``: its environment and programs. No side effects."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from drakkar_site.config.tree import Config
from integration.demo.config import STOP_MARGIN_SECONDS
from integration.demo.folder import CHECKOUT
from integration.demo.plan import Program, Secrets, own_program, with_env
from integration.services.base import dying
from integration.services.ports import LOOPBACK
from workers.broker.named_topics import named_topics
from workers.config import ClusterConfig

WORKER = "worker"
"""Name of the one worker, for the supervisor and on the page."""
PARTITIONS = 4
INSIDE = ("kafka", "file", "memory")
"""Kinds of sinks that reach no server beyond those of ``drakkar dev``."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the command line; empty texts: servers of ``drakkar dev`` itself."""

    cluster: str = ""
    brokers: str = ""
    database_url: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ports:
    """Ports on which programs of ours listen."""

    web: int
    controller: int
    worker: int


def prefix_of(cluster: str) -> str:
    """Return the start of the names of a cluster's variables."""
    return f"DRAKKAR_CLUSTERS__{cluster.upper().replace('-', '_')}__"


def shared_environment(
    ports: Ports, secrets: Secrets, database_url: str, config: Config, run: Path
) -> dict[str, str]:
    """Return what every program of ours is given, but for the brokers."""
    spools = {
        f"{prefix_of(name)}RECORDER__SPOOL_DIR": str(run / "spool") for name in config.clusters
    }
    return {
        "DRAKKAR_SITE__DATABASE_URL": database_url,
        "DRAKKAR_SITE__SECRET_KEY": secrets.secret_key,
        "DRAKKAR_SITE__AUTH_TOKEN": secrets.auth_token,
        "DRAKKAR_SITE__ADMIN_PASSWORD": secrets.admin_password,
        "DRAKKAR_SITE__BIND": f"{LOOPBACK}:{ports.web}",
        "DRAKKAR_SITE__PUBLIC_URL": f"http://{LOOPBACK}:{ports.web}",
        "DRAKKAR_SITE__CONTROLLER_METRICS_PORT": str(ports.controller),
        **spools,
    }


def process_environment(folder: Path, given: Mapping[str, str]) -> dict[str, str]:
    """Return what processes need besides: to find our code first, then the user's in ``folder``."""
    places = [str(CHECKOUT), str(folder), *filter(None, [given.get("PYTHONPATH")])]
    return {
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', os.defpath)}",
        "PYTHONPATH": os.pathsep.join(places),
        "PYTHONUNBUFFERED": "1",
    }


def broker_environment(brokers: str, config: Config) -> dict[str, str]:
    """Return the variables that lead every cluster, its dead letters and its kafka sinks there."""
    found = {}
    for name, cluster in config.clusters.items():
        prefix = prefix_of(name)
        found[f"{prefix}KAFKA__BROKERS"] = brokers
        if cluster.dead_letters.brokers is not None:
            found[f"{prefix}DEAD_LETTERS__BROKERS"] = brokers
        for sink, section in cluster.sinks.items():
            if section.kind == "kafka" and getattr(section, "brokers", None) is not None:
                found[f"{prefix}SINKS__{sink.upper().replace('-', '_')}__BROKERS"] = brokers
    return found


def group_of_ones_own(cluster: str, group: str) -> dict[str, str]:
    """Return the variable that keeps the worker out of the group that others may be in."""
    return {f"{prefix_of(cluster)}KAFKA__GROUP": group}


def topics_of(config: Config) -> dict[str, int]:
    """Return the partitions of every topic that the configuration names."""
    clusters = config.clusters.values()
    return {named.topic: PARTITIONS for one in clusters for named in named_topics(one)}


def sinks_outside(config: ClusterConfig) -> Iterator[tuple[str, str]]:
    """Yield name and kind of each sink that delivers to where the configuration says."""
    for name, section in config.sinks.items():
        if section.kind not in INSIDE:
            yield name, section.kind


def programs(
    cluster: str, config: ClusterConfig, ports: Ports, more: Mapping[str, str], logs: Path
) -> Iterable[Program]:
    """Return web page, controller and worker; ``more`` are variables of all of them."""
    drakkar = [sys.executable, "-m", "drakkar"]
    daphne = [str(Path(sys.executable).with_name("daphne")), "-b", LOOPBACK, "-p", str(ports.web)]
    worker = {
        f"{prefix_of(cluster)}METRICS__PORT": str(ports.worker),
        f"{prefix_of(cluster)}LOGGING__FORMAT": "console",
        **more,
    }
    argv = [*drakkar, "runworker", "--cluster", cluster, "--name", WORKER]
    return [
        own_program("web", with_env([*daphne, "drakkar_site.asgi:application"], more), logs, True),
        own_program("controller", with_env([*drakkar, "runcontroller"], more), logs, True),
        Program(
            name=WORKER,
            argv=dying(with_env(argv, worker)),
            log_path=logs / f"{WORKER}.log",
            stop_seconds=math.ceil(config.drain_timeout_seconds) + STOP_MARGIN_SECONDS,
        ),
    ]
