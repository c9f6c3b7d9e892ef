"""``/versions``: tasks before and after a version, and what changed, when and by whom."""

from __future__ import annotations

from datetime import timedelta

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone

from domain.text_bounds import text_in
from recorder.timestamps import moment_of
from workers.control_plane.deployments import KINDS, comparison, deployments
from workers.control_plane.queries import known_names

MOST_CLUSTERS = 10
LONGEST = timedelta(days=400)
DEFAULT = "7d"
AGES = ("1h", "6h", "1d", "7d", "30d", "90d")


def versions(request: HttpRequest) -> HttpResponse:
    """Return the comparison of each cluster in view, and its changes; 400 for a bad ``since``."""
    now = timezone.now()
    cluster, worker = text_in(request.GET, "cluster"), text_in(request.GET, "worker")
    asked = text_in(request.GET, "since") or DEFAULT
    since, error = moment_of(asked, now), ""
    if since is None or since >= now:
        error = f"since: expected an age like 7d or a past time like 2026-03-14T03:10, got {asked}"
        since = now - timedelta(days=7)
    since = max(since, now - LONGEST)
    names = [cluster] if cluster else sorted({name for name, _ in known_names()})
    context = {
        "ages": AGES,
        "asked_since": asked,
        "since": since,
        "error": error,
        "comparisons": [
            found
            for name in names[:MOST_CLUSTERS]
            for kind in KINDS
            if (found := comparison(name, kind, since, now, worker)).versions
        ],
        "deployments": deployments(cluster, since),
        "left_out": max(0, len(names) - MOST_CLUSTERS),
    }
    return render(request, "versions.html", context, status=400 if error else 200)
