"""Context of the frame of every page: navigation, cluster and worker choice."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.http import HttpRequest
from django.urls import reverse

from drakkar_site.accounts.roles import SCOPES_OF_ROLE
from drakkar_site.accounts.sessions import granted
from drakkar_site.links import metric_links, tool_links
from drakkar_site.scope import choice_of, keep
from workers.control_plane.queries import known_names

NAVIGATION = (
    ("dashboard", "Dashboard"),
    ("workers", "Workers"),
    ("partitions", "Partitions"),
    ("sinks", "Sinks"),
    ("live", "Live"),
    ("history", "History"),
    ("trace_search", "Trace"),
    ("dead_letters", "Dead letters"),
    ("debug", "Debug"),
    ("audit", "Audit"),
    ("admin:index", "Admin"),
)
FOR_ADMINS = frozenset({"audit", "admin:index"})
PARTS = {
    "control": "workers",
    "task": "trace_search",
    "topics": "debug",
    "probe": "debug",
    "reruns": "dead_letters",
    "config": "debug",
    "tokens": "admin:index",
}
"""Whose part the pages are that have no entry of their own, by the first step of their path."""


def frame(request: HttpRequest) -> dict[str, Any]:
    """Template variables; empty for people who are not signed in."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated or request.path.startswith("/admin/"):
        return {}
    kept = choice_of(request)
    names = known_names()
    scopes = granted(request.session, user)
    shown = [each for each in NAVIGATION if "admin" in scopes or each[0] not in FOR_ADMINS]
    return {
        "role": next((role for role, own in SCOPES_OF_ROLE.items() if own == scopes), "token"),
        "navigation": [_link(request, name, title, kept) for name, title in shown],
        "scopes": scopes,
        "choice": kept,
        "clusters": sorted({cluster for cluster, _ in names}),
        "worker_names": sorted({w for c, w in names if kept.get("cluster") in (None, c)}),
        "tool_links": tool_links(kept.get("cluster", ""), kept.get("worker", "")),
        "metric_links": metric_links(kept.get("cluster", ""), kept.get("worker", "")),
        "sampled": _sampled(kept.get("cluster", "")),
        "cluster": kept.get("cluster", ""),
        "worker": kept.get("worker", ""),
    }


def _sampled(cluster: str) -> dict[str, int]:
    """Clusters, or the chosen one, of whose messages only one in so many is stored."""
    known = settings.DRAKKAR.clusters if settings.DRAKKAR else {}
    return {
        name: config.recorder.sample.one_in
        for name, config in known.items()
        if config.recorder.sample.one_in > 1 and cluster in ("", name)
    }


def _link(request: HttpRequest, name: str, title: str, choice: dict[str, str]) -> dict[str, Any]:
    url, first = reverse(name), request.path.split("/")[1]
    is_part = PARTS.get(first) == name or (url != "/" and first == url.strip("/"))
    current = "page" if request.path == url else "true" if is_part else ""
    return {"url": keep(url, choice), "title": title, "current": current}
