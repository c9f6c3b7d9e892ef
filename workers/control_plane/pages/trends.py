"""``/trends``: figures of the fleet over time; each chart also as a table and as CSV."""

from __future__ import annotations

import csv
import io
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlencode

from django.http import Http404, HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils import timezone
from django.views.decorators.http import require_safe

from domain.paging import BadFilter
from recorder.formats import cell
from workers.control_plane.trends.charts import CHARTS, Drawn, drawn
from workers.control_plane.trends.choices import choices
from workers.control_plane.trends.marks import GROUPS, marks
from workers.control_plane.trends.view import View, view_of
from workers.control_plane.trends.window import DEFAULT_RANGE, RANGES

PARAMETERS = (
    "cluster", "worker", "host", "sink", "label", "range", "since", "until", "split", "compare",
)  # fmt: skip
SHOWN_MARKS = 50


@require_safe
def trends(request: HttpRequest) -> HttpResponse:
    """Return the page of all charts; a bad filter is named on it, with status 400."""
    view, error = _view(request)
    context = {"charts": CHARTS.values(), **_frame(request, view, error)}
    context["marks"] = _marks(view)[:SHOWN_MARKS]
    return render(request, "trends.html", context, status=400 if error else 200)


@require_safe
def trend(request: HttpRequest, key: str) -> HttpResponse:
    """Return one chart with its figures as a table, which needs no script."""
    if key not in CHARTS:
        raise Http404(f"There is no chart {key}: expected one of {', '.join(CHARTS)}")
    view, error = _view(request)
    context: dict[str, Any] = {"chart": CHARTS[key], **_frame(request, view, error)}
    if view is not None:
        (chart,) = drawn([CHARTS[key]], view)
        context |= {"drawn": chart, "rows": _rows(view, chart)[::-1], "marks": _marks(view)}
    return render(request, "trend.html", context, status=400 if error else 200)


@require_safe
def trend_csv(request: HttpRequest, key: str) -> HttpResponse:
    """Return the figures of a chart, oldest first; unknown is an empty cell."""
    if key not in CHARTS:
        raise Http404(f"There is no chart {key}: expected one of {', '.join(CHARTS)}")
    view, error = _view(request)
    if view is None:
        return HttpResponse(f"{error}\n", status=400, content_type="text/plain; charset=utf-8")
    (chart,) = drawn([CHARTS[key]], view)
    file = io.StringIO()
    lines = csv.writer(file)
    names = [each.name for each in chart.series]
    before = [f"{each.name} before" for each in chart.series if each.before is not None]
    lines.writerow(["time", *(cell("", f"{name} ({chart.unit})") for name in (*names, *before))])
    for at, values in _rows(view, chart):
        lines.writerow([at.isoformat(), *("" if each is None else each for each in values)])
    answer = HttpResponse(file.getvalue(), content_type="text/csv; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="{key}.csv"'
    return answer


def _view(request: HttpRequest) -> tuple[View | None, str]:
    try:
        return view_of(request.GET.dict(), timezone.now()), ""
    except BadFilter as exc:
        return None, str(exc)


def _marks(view: View | None) -> list[dict[str, Any]]:
    """Return the marks of a view, newest first, with the time of each."""
    if view is None:
        return []
    found = marks(view.window, view.scope.cluster, view.scope.worker, view.scope.host)
    return [
        {
            "since": datetime.fromtimestamp(mark.at, UTC),
            "until": mark.until and datetime.fromtimestamp(mark.until, UTC),
            "mark": mark,
        }
        for mark in reversed(found)
    ]


def _frame(request: HttpRequest, view: View | None, error: str) -> dict[str, Any]:
    asked = request.GET
    named = "" if asked.get("since") else asked.get("range") or DEFAULT_RANGE
    return {
        "view": view,
        "error": error,
        "asked": asked,
        "query": urlencode({name: asked[name] for name in PARAMETERS if asked.get(name)}),
        "ranges": [(name, name == named) for name in RANGES],
        "choices": choices(view),
        "mark_groups": GROUPS.items(),
    }


def _rows(view: View, chart: Drawn) -> list[tuple[datetime, list[float | None]]]:
    """Return the figures of each step: all lines, then those of the time before."""
    columns = [each.values for each in chart.series]
    columns += [each.before for each in chart.series if each.before is not None]
    return [
        (datetime.fromtimestamp(at, UTC), [column[n] for column in columns])
        for n, at in enumerate(view.window.starts)
    ]
