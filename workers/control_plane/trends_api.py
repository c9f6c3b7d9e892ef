"""The API's part about figures over time."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django.utils import timezone
from ninja import Field, Query, Router, Schema
from ninja.errors import HttpError

from domain.paging import BadFilter
from workers.control_plane.trends.charts import CHARTS, drawn
from workers.control_plane.trends.marks import marks
from workers.control_plane.trends.view import view_of

MOST_CHARTS = 4
"""Charts of one answer at most; pages ask several times at once."""
router = Router(tags=["trends"])


class TrendsAsked(Schema):
    """Which charts, of whom, and when; empty means all, and the last hour."""

    chart: list[str] = Field(min_length=1, max_length=MOST_CHARTS)
    cluster: str = Field("", max_length=63)
    worker: str = Field("", max_length=255)
    host: str = Field("", max_length=255)
    sink: str = Field("", max_length=255)
    label: str = Field("", max_length=1000, description="name=value")
    range: str = Field("", max_length=10, description="15m, 1h, 6h, 24h, 7d, 30d or 90d, up to now")
    since: str = Field("", max_length=40, description="in place of range; UTC unless it says")
    until: str = Field("", max_length=40, description="beside since; empty: now")
    split: str = Field("", max_length=300, description="dimension, or label:<name>")
    compare: str = Field("", max_length=10, description="before: beside the time before")
    marks: bool = Field(True, description="whether to say what befell the fleet")


class SeriesOut(Schema):
    """A line: a value each step, null where it is unknown. ``before``: those of the time before,
    null where that was not asked for."""

    name: str
    status: str
    values: list[float | None]
    before: list[float | None] | None


class ChartOut(Schema):
    """Lines of one unit. ``left_out``: how many more there would be; ``kinds`` of events are behind
    its figures."""

    key: str
    title: str
    unit: str
    kinds: list[str]
    series: list[SeriesOut]
    left_out: int


class MarkOut(Schema):
    """What befell the fleet at a time, or until another (UTC epoch seconds)."""

    at: float
    until: float | None
    group: str
    kind: str
    shape: str
    status: str
    text: str


class TrendsOut(Schema):
    """Charts over the same steps. ``at``: when each begins, in UTC epoch seconds; ``is_following``:
    the time ends now, ask again after a step."""

    since: float
    until: float
    step_seconds: int
    is_following: bool
    at: list[int]
    charts: list[ChartOut]
    marks: list[MarkOut]


@router.get("/trends", response=TrendsOut, summary="Figures over time, with what befell the fleet")
def get_trends(request: HttpRequest, asked: Query[TrendsAsked]) -> dict[str, Any]:
    """At most 300 steps and nine lines a chart."""
    unknown = [key for key in asked.chart if key not in CHARTS]
    if unknown:
        known = ", ".join(CHARTS)
        raise HttpError(422, f"chart: expected some of {known}, got {unknown[0][:40]}")
    try:
        view = view_of(request.GET.dict(), timezone.now())
    except BadFilter as exc:
        raise HttpError(422, str(exc)) from None
    window, scope = view.window, view.scope
    return {
        "since": window.since.timestamp(),
        "until": window.until.timestamp(),
        "step_seconds": window.step_seconds,
        "is_following": bool(window.range),
        "at": window.starts,
        "charts": drawn((CHARTS[key] for key in dict.fromkeys(asked.chart)), view),
        "marks": marks(window, scope.cluster, scope.worker, scope.host) if asked.marks else [],
    }
