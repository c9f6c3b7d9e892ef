"""Every page of the URL map that can be looked at, with arguments that a sample has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

from django.urls import URLPattern, URLResolver, get_resolver

from integration.bench.fleet import TOPIC

NOT_PAGES = re.compile(
    r"logout/|topics|findings/(un)?mark|failures/.*/change|notifications/test|history/export"
    r"|history/views/.*|favicon\.ico|debug/databases/exports.*|.*\^api/|.*/(revoke|cancel)"
    r"|api/v1/(exports/.*/file|)|admin/(login|logout|jsi18n|autocomplete|r)/.*"
    r"|admin/.*/(add|delete|password)/|admin/\w+/\w+/<path:object_id>/|admin/\(\?P<url>.*"
)
"""What is sent to, redirects, is downloaded, asks Kafka, or is nobody's."""
MORE = {
    "control/new": ["?action=stop&cluster=main&worker=worker-1"],
    "control/partitions": ["?action=pause_partition&cluster=main&all=1"],
    "dead-letters": ["?cluster=main&state=open"],
    "dead-letters/jobs/new": ["?action=source&of=all&cluster=main"],
    "failures": ["", "?label=tenant%3Dtenant-7&sort=count"],
    "reruns/new": ["", "?cluster=main&failure=exit"],
    "api/v1/reruns/preview": ["?cluster=main&failure=exit"],
    "api/v1/trace": ["?q=7:100"],
    "api/v1/live/earlier": ["?until=1h"],
    "api/v1/versions": ["?cluster=main"],
    "api/v1/events": ["", "?kind=task_failed&partition=7", "?text=nowhere-at-all"],
    "trace": ["", "?q=tenant%3Dtenant-7", "?q=7:{offset}"],
    "trends": ["", "?range=90d"],
    "api/v1/trends": [
        f"?{charts}&range={span}"
        for span in ("1h", "24h", "90d")
        for charts in (
            "chart=rate&chart=failures&chart=duration&chart=queue",
            "chart=lag&chart=latency&chart=slots&chart=cpu&marks=false",
        )
    ],
    "workers": ["", "?cluster=main&worker=worker-3"],
    "partitions/main/search.requests/7": ["", "?events=all"],
    "history": [
        "",
        "?kind=task_failed&partition=7",
        "?cluster=main&worker=worker-3",
        "?kind=parked&kind=breaker_opened",
        "?label=tenant%3Dtenant-7",
        "?text=needle",
        "?text=nowhere-at-all",
    ],
}
"""Queries of a route; without one here it is opened as it is."""
JOBS = {"dead-letters": "letter_job", "reruns": "rerun"}
"""What of the sample a job's page is of, by a step of its route."""


def addresses(sample: Mapping[str, Any]) -> list[str]:
    """The address of every page, for a sample of ``fleet.make``."""
    found = []
    for route in dict.fromkeys(_leaves(get_resolver().url_patterns, "")):
        if not NOT_PAGES.fullmatch(route):
            path = _filled(route, sample)
            found += [f"/{path}{query.format(**sample)}" for query in MORE.get(path, [""])]
    return found


def _leaves(patterns: list[URLPattern | URLResolver], before: str) -> Iterator[str]:
    for each in patterns:
        route = before + str(each.pattern)
        if isinstance(each, URLResolver):
            yield from _leaves(each.url_patterns, route)
        else:
            yield route


def _filled(route: str, sample: Mapping[str, Any]) -> str:
    route = re.sub(r"\^\(\?P<app_label>[^)]*\)/\$", "recorder/", route)
    own = {
        "job_id": sample[next((name for step, name in JOBS.items() if step in route), "export")],
        "object_id": _row_of(route, sample),
        "id": sample["user"],
        "cluster": "main",
        "topic": TOPIC,
        "number": 7,
        "partition": 7,
        "worker": "worker-3",
        "task_id": f"7:{sample['offset']}:0",
        "key": "duration",
        "fingerprint": sample["rows"]["failuregroup"],
    }
    return re.sub(r"<(?:\w+:)?(\w+)>", lambda name: str({**sample, **own}[name[1]]), route)


def _row_of(route: str, sample: Mapping[str, Any]) -> Any:
    """The key of a row of the model whose admin page this is."""
    model = route.split("/")[2] if route.startswith("admin/") and route.count("/") > 2 else ""
    return sample["rows"].get(model)
