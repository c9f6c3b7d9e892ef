"""Context of the frame of every page: navigation, cluster and worker choice."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.conf import settings
from django.http import HttpRequest

from domain.worker_hues import hues
from drakkar_site.accounts.roles import SCOPES_OF_ROLE
from drakkar_site.accounts.sessions import granted
from drakkar_site.links import metric_links, tool_links
from drakkar_site.navigation import current, entries
from drakkar_site.scope import choice_of, keep
from workers.control_plane.queries import known_names, names_in_view


def frame(request: HttpRequest) -> dict[str, Any]:
    """Template variables; empty for people who are not signed in."""
    user = getattr(request, "user", None)
    if user is None or not user.is_authenticated:
        return {}
    kept = choice_of(request)
    names = known_names()
    fleet = names_in_view(names)
    scopes = granted(request.session, user)
    return {
        "role": next((role for role, own in SCOPES_OF_ROLE.items() if own == scopes), "token"),
        "navigation": _links(request.path, scopes, kept),
        "scopes": scopes,
        "choice": kept,
        "clusters": sorted({cluster for cluster, _ in names}),
        "worker_names": sorted({w for c, w in names if kept.get("cluster") in (None, c)}),
        "tool_links": tool_links(kept.get("cluster", ""), kept.get("worker", "")),
        "metric_links": metric_links(kept.get("cluster", ""), kept.get("worker", "")),
        "hues": hues(fleet),
        "names_in_view": ["/".join(name) for name in fleet],
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


def _links(path: str, scopes: Collection[str], choice: dict[str, str]) -> list[dict[str, Any]]:
    found = entries(scopes)
    here = current(path, found)
    return [
        {
            "url": keep(url, choice),
            "title": each.title,
            "is_more": each.is_more,
            "current": "" if each is not here else "page" if path == url else "true",
        }
        for each, url in found
    ]
