"""``/config``: what is in force, masked, with the source of each value, and who runs otherwise.

The file and the environment are read anew: this page shows what a process would get now.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import groupby
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.views.decorators.http import require_safe

from drakkar_site.config.report import Value, effective
from drakkar_site.config.sources import State, load
from drakkar_site.config.tree import Config
from recorder.models import RunState
from workers.control_plane.queries import beats, is_live

Row = dict[str, Any]


@require_safe
def config(request: HttpRequest) -> HttpResponse:
    """Every key of the chosen cluster (default: of all) and of the site; filter by text."""
    state = load()
    cluster, text = request.GET.get("cluster", ""), request.GET.get("text", "").strip().lower()
    live = [beat for beat in beats(cluster, request.GET.get("worker", "")) if is_live(beat)]
    runs = _runs(state, live)
    context = {
        "path": state.path,
        "problems": state.problems,
        "sections": _sections(state, cluster, text),
        "runs": runs,
        "drifting": sum(row["word"] != "same" for row in runs),
        "is_restart_due": state.config is not None
        and _parts(state.config) != _parts(settings.DRAKKAR),
        "asked": request.GET,
    }
    return render(request, "config.html", context)


def _parts(config: Config | None) -> Any:
    # Each loading makes a class of its own, and models of two classes are never equal.
    return None if config is None else (config.site, config.clusters)


def _sections(state: State, cluster: str, text: str) -> list[tuple[str, list[Value]]]:
    if state.config is None:
        return []
    values = effective(state.config, state.origins, state.secrets)
    shown = [value for value in values if _fits(value, cluster, text)]
    return [(name, list(rows)) for name, rows in groupby(shown, key=_section)]


def _section(value: Value) -> str:
    parts = value.key.split(".")
    return parts[0] if parts[0] != "clusters" else ".".join(parts[:2])


def _fits(value: Value, cluster: str, text: str) -> bool:
    is_of_another = _section(value) not in ("site", f"clusters.{cluster}")
    if cluster and is_of_another:
        return False
    return text in f"{value.key} {value.value} {value.source}".lower()


def _runs(state: State, live: Iterable[RunState]) -> list[Row]:
    """Each live run with how its configuration compares to the file's now."""
    live = list(live)
    known = {} if state.config is None else state.config.clusters
    rows = []
    for beat in live:
        own = known.get(beat.run.cluster)
        wanted = own.fingerprint if own is not None else None
        rows.append(
            {
                "run": beat.run,
                "wanted": wanted,
                "word": _word(beat.run.config_hash, wanted),
            }
        )
    return rows


def _word(own: str, wanted: str | None) -> str:
    if wanted is None or not own:
        return "unknown"
    return "same" if own == wanted else "differs"
