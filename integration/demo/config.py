"""Configuration that the demo's own processes will load, as far as it reads it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from drakkar_site.config.sources import load
from integration.demo.clusters import MAIN, TOPICS, WORKER_PORTS, cluster_of
from integration.demo.plan import Options
from integration.services.kafka_mock import SESSION_TIMEOUT_MS
from workers.broker.named_topics import named_topics
from workers.config import ClusterConfig

STOP_MARGIN_SECONDS = 10
"""Past the drain's own budget: the last commit, the recorder's flush, and the process's end."""


def config_path(environment: Mapping[str, str]) -> Path:
    """Return the file with the configuration."""
    return load(environment).path


def cluster_names(environment: Mapping[str, str]) -> tuple[str, ...]:
    """Return the clusters of the configuration; none of one that does not load."""
    config = load(environment).config
    return tuple(config.clusters) if config is not None else ()


def topics_wanted(environment: Mapping[str, str]) -> list[str]:
    """The demo's topics, and those of every cluster that somebody added to its configuration."""
    config = load(environment).config
    clusters = config.clusters.values() if config is not None else ()
    added = [named.topic for cluster in clusters for named in named_topics(cluster)]
    return list(dict.fromkeys((*TOPICS, *added)))


def session_timeout_ms(environment: Mapping[str, str]) -> int:
    """Return what ``main`` asks of its group, for a broker whose groups take no settings."""
    main = _cluster(environment, MAIN.name)
    return (main.kafka.session_timeout_ms if main is not None else None) or SESSION_TIMEOUT_MS


def worker_stop_seconds(environment: Mapping[str, str], worker: str) -> int:
    """From SIGTERM to SIGKILL: this worker's ``drain_timeout_seconds`` and a margin.

    Of a configuration that does not load, the default: its workers end at their start.
    """
    cluster = _cluster(environment, cluster_of(worker).name)
    default = ClusterConfig.model_fields["drain_timeout_seconds"].default
    budget = cluster.drain_timeout_seconds if cluster is not None else default
    return math.ceil(budget) + STOP_MARGIN_SECONDS


def stop_seconds(environment: Mapping[str, str], options: Options) -> dict[str, int]:
    """``worker_stop_seconds`` of each worker, with what ``--env`` gives it alone."""
    return {
        name: worker_stop_seconds({**environment, **options.env_of(name)}, name)
        for name in WORKER_PORTS
    }


def _cluster(environment: Mapping[str, str], name: str) -> ClusterConfig | None:
    config = load(environment).config
    return config.clusters.get(name) if config is not None else None
