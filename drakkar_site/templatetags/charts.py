"""Charts on pages: each asks the API for its figures, and leads to Trends with the same scope."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Any
from urllib.parse import urlencode

from django import template

from drakkar_site.templatetags.figures import dur, mib, rate
from workers.control_plane.trends.charts import CHARTS
from workers.control_plane.trends.window import DEFAULT_RANGE, RANGES

register = template.Library()


@register.inclusion_tag("trends_panel.html", takes_context=True)
def trends_panel(context: dict[str, Any], keys: str, title: str, **scope: str) -> dict[str, Any]:
    """Return a panel of small charts, named by their keys, of a scope: parameters of ``/trends``
    (``cluster``, ``worker``, ``host``, ``sink``, ``label``), empty ones left out. The page's own
    ``range`` chooses the time. The page includes ``charts_head.html``.

    Raises KeyError for a chart that there is not.
    """
    request = context["request"]
    named = request.GET.get("range", "")
    chosen = named if named in RANGES else DEFAULT_RANGE
    given = {name: value for name, value in scope.items() if value}
    query = urlencode({**given, "range": chosen})
    return {
        "charts": [_figure(context, key, query, is_small=True) for key in keys.split()],
        "title": title,
        "link": f"?{query}",
        "ranges": [(name, name == chosen) for name in RANGES],
        "request": request,
        "choice": context.get("choice", {}),
    }


@register.inclusion_tag("chart.html", takes_context=True)
def wide_chart(context: dict[str, Any], key: str, query: str) -> dict[str, Any]:
    """Return a chart of the page of trends itself, with the page's query."""
    return _figure(context, key, query, is_small=False)


def _figure(context: dict[str, Any], key: str, query: str, *, is_small: bool) -> dict[str, Any]:
    return {
        "chart": CHARTS[key],
        "query": query,
        "link": f"?{query}" if query else "",
        "is_small": is_small,
        "choice": context.get("choice", {}),
    }


@register.filter
def in_unit(value: float | None, unit: str) -> str:
    """A figure of a chart, with its unit where a table's head does not say it."""
    if value is None:
        return "unknown"
    if unit == "ms":
        return dur(value)
    return mib(round(value)) if unit.startswith("bytes") else rate(value)


@register.filter
def just_after(at: datetime) -> str:
    """The next second, as filters take a time: what happened at ``at`` lies before it."""
    return (at + timedelta(seconds=1)).strftime("%Y-%m-%dT%H:%M:%S")
