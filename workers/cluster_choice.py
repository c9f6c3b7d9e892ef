"""The cluster a command works on: its checked configuration, or every problem and exit code 2."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from django.conf import settings

from domain.printable import printable
from workers.broker.named_topics import NamedTopic, named_topics
from workers.config import ClusterConfig
from workers.handler import Handler
from workers.runtime.build import load_handler
from workers.runtime.preflight import preflight

BAD_USE = 2


def chosen_cluster(name: str) -> ClusterConfig:
    """The configuration of a cluster that can be run here. Raises SystemExit (2)."""
    config = known_cluster(name)
    secrets = settings.DRAKKAR_STATE.secret_texts
    refuse([each.without(secrets).report for each in preflight(name, config)])
    return config


def known_cluster(name: str) -> ClusterConfig:
    """The configuration of a cluster; handler and program are not looked at. Raises SystemExit."""
    config = settings.DRAKKAR
    clusters: dict[str, ClusterConfig] = {} if config is None else config.clusters
    if name not in clusters:
        refuse([f"--cluster: expected one of {', '.join(clusters) or 'none'}, got {name!r}"])
    return clusters[name]


def refuse(problems: Sequence[str]) -> None:
    """Name the problems and exit with code 2; no problem: go on. Raises SystemExit."""
    if problems:
        sys.stderr.write("".join(f"{problem}\n" for problem in problems))
        raise SystemExit(BAD_USE)


def made_handler(config: ClusterConfig) -> Handler[Any]:
    """Make the cluster's handler, or exit with code 2 and say why not. Raises SystemExit."""
    try:
        return load_handler(config)
    except LookupError as exc:
        refuse([str(exc)])
        raise SystemExit(BAD_USE) from exc


def named_topic(topic: str, cluster: str | None) -> NamedTopic:
    """Return a topic with the brokers at which the configuration has it.

    One that no cluster names is looked for where ``cluster``, by default the only one, reads.
    Raises SystemExit (2).
    """
    clusters = {} if settings.DRAKKAR is None else settings.DRAKKAR.clusters
    if cluster is not None:
        clusters = {cluster: known_cluster(cluster)}
    for config in clusters.values():
        for named in named_topics(config):
            if named.topic == topic:
                return named
    if len(clusters) != 1:
        known = ", ".join(n.topic for config in clusters.values() for n in named_topics(config))
        what = f"topic: expected one of {known or 'none'}, or --cluster, got {printable(topic)!r}"
        refuse([what])
    (config,) = clusters.values()
    return replace(named_topics(config)[0], topic=topic, role="other")
