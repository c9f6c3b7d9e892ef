"""``manage.py check``: every error of the configuration, the handlers and the programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, register

from domain.problem import Problem
from workers.preflight import binary_problems, handler_problems


@register("drakkar")
def check_configuration(**_: Any) -> list[CheckMessage]:
    """Structure first, then each cluster's handler and program, also from a file with errors."""
    problems = [*settings.DRAKKAR_PROBLEMS, *_clusters(settings.DRAKKAR_STATE.tree)]
    return [Error(str(each), hint=each.hint or None, id=each.id) for each in problems]


def _clusters(tree: Mapping[str, Any]) -> Iterator[Problem]:
    clusters = tree.get("clusters")
    for name, cluster in clusters.items() if isinstance(clusters, dict) else ():
        if not isinstance(cluster, dict):
            continue
        yield from handler_problems(name, cluster.get("handler"), cluster.get("app") or {})
        executor = cluster.get("executor")
        if isinstance(executor, dict):
            yield from binary_problems(name, executor.get("binary"), executor.get("cwd"))
