"""``manage.py check``: every error of the configuration, the handlers and the programs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error, Warning, register

from domain.problem import Problem
from drakkar_site.config.exposure import has_shipped_key
from drakkar_site.config.sources import State
from workers.runtime.preflight import (
    binary_problems,
    handler_problems,
    program_problems,
    retry_problems,
)


@register("drakkar")
def check_configuration(**_: Any) -> list[CheckMessage]:
    """Every error of the file and the environment."""
    return [_error(problem) for problem in settings.DRAKKAR_PROBLEMS]


@register("drakkar", deploy=True)
def check_exposure(**_: Any) -> list[CheckMessage]:
    """Warn of what is meant for development and test only."""
    site = settings.DRAKKAR_STATE.site
    found: list[CheckMessage] = []
    if site.auth_token:
        hint = "issue tokens that expire: manage.py create_token, or /tokens"
        text = "site.auth_token: expected none in production, got one; it never expires"
        found.append(Warning(text, hint=hint, id="drakkar.W001"))
    if has_shipped_key(site):
        hint = "50 or more random characters, from ${NAME} or ${file:/path}"
        text = "site.secret_key: expected one of your own, got the example's"
        found.append(Warning(text, hint=hint, id="drakkar.W002"))
    return found


def check_programs(**_: Any) -> list[CheckMessage]:
    """Each cluster's handler and program, also from a file with errors.

    Registered by ``manage.py check`` only: a handler that cannot be imported on this machine
    must not keep ``migrate`` or ``create_token`` from running."""
    return [_error(problem) for problem in programs(settings.DRAKKAR_STATE)]


def programs(state: State) -> list[Problem]:
    """Return what is wrong with handlers, their settings, programs and retry topics, without
    secrets."""
    sound = {} if state.config is None else state.config.clusters
    retries = [each for name, cluster in sound.items() for each in retry_problems(name, cluster)]
    found = [*_clusters(state.tree), *retries]
    return [each.without(state.secret_texts) for each in found]


def _error(problem: Problem) -> CheckMessage:
    return Error(str(problem), hint=problem.hint or None, id=problem.id)


def _clusters(tree: Mapping[str, Any]) -> Iterator[Problem]:
    clusters = tree.get("clusters")
    for name, cluster in clusters.items() if isinstance(clusters, dict) else ():
        if not isinstance(cluster, dict):
            continue
        handler = cluster.get("handler")
        found = list(handler_problems(name, handler, cluster.get("app") or {}))
        executor = cluster.get("executor") or {}
        if isinstance(executor, dict):
            found += binary_problems(name, executor)
            # What a handler brings is only asked of one that can be had.
            found += [] if found else program_problems(name, handler, executor.get("binary"))
        yield from found
