"""``/debug/databases``: recorded runs, and exports of them. The URL holds all state."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from uuid import UUID, uuid4

from django.db.models import Model, Q, QuerySet
from django.http import (
    HttpRequest,
    HttpResponse,
    HttpResponseBase,
    HttpResponseRedirect,
    QueryDict,
)
from django.shortcuts import get_object_or_404, render
from django.urls import reverse
from django.views.decorators.http import require_POST, require_safe

from domain.paging import BadFilter
from domain.text_bounds import text_in
from recorder.export import Selection
from recorder.export_jobs import BadExport, ask_for
from recorder.formats import formats
from recorder.models import ExportJob, ExportState, Run
from recorder.pages.export_file import file_answer
from recorder.pages.history import time_of

PAGE_ROWS = 50
SHOWN_JOBS = 20
SORTS = {
    "started": "started_at",
    "cluster": "cluster",
    "worker": "worker",
    "host": "host",
    "events": "recorded_seq",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """By which column, which way, and after which row."""

    name: str
    is_down: bool
    after: tuple[Any, UUID] | None

    @property
    def field(self) -> str:
        """Field of the model."""
        return SORTS[self.name]


@require_safe
def databases(request: HttpRequest) -> HttpResponse:
    """Runs, 50 at a time, and the latest exports."""
    return _page(request, request.GET)


@require_POST
def ask(request: HttpRequest) -> HttpResponse:
    """Queue an export of the chosen runs; a bad one is named on the page, with status 400."""
    try:
        ask_for(
            selection_asked(request.POST),
            request.POST.get("format", ""),
            request.POST.get("name", "").strip() or "export",
            request.user.get_username(),
            request.POST.get("key", ""),
        )
    except (BadExport, BadFilter) as exc:
        return _page(request, request.GET, str(exc))
    query = request.GET.urlencode()
    return HttpResponseRedirect(reverse("databases") + (f"?{query}" if query else ""))


@require_safe
def download(request: HttpRequest, job_id: UUID) -> HttpResponseBase:
    """Return the file of a finished export."""
    job = get_object_or_404(ExportJob, id=job_id)
    return file_answer(request, job)


def selection_asked(asked: QueryDict) -> Selection:
    """Return the selection of a form. Raises BadExport and BadFilter."""
    try:
        runs = [UUID(text) for text in asked.getlist("run")]
    except ValueError:
        raise BadExport("run: expected ids of runs") from None
    whole = asked.get("all") == "1"
    if not runs and not whole:
        raise BadExport("run: expected at least one run, got none")
    return Selection(
        cluster=asked.get("cluster", "") if whole else "",
        worker=asked.get("worker", "") if whole else "",
        runs=runs,
        kinds=asked.getlist("kind"),
        since=time_of(asked, "since"),
        until=time_of(asked, "until"),
    )


def _page(request: HttpRequest, asked: QueryDict, error: str = "") -> HttpResponse:
    rows: list[Run] = []
    fitting: int | None = None
    order = Order(name="started", is_down=True, after=None)
    try:
        order = _order(asked)
        runs = _fitting(asked)
        rows, fitting = list(_after(runs, order)[: PAGE_ROWS + 1]), runs.count()
    except BadFilter as exc:
        error = str(exc)
    jobs = list(ExportJob.objects.order_by("-created_at")[:SHOWN_JOBS])
    context = {
        "runs": rows[:PAGE_ROWS],
        "fitting": fitting,
        "columns": [_column(order, name) for name in SORTS],
        "older": _written(order, rows[PAGE_ROWS - 1]) if len(rows) > PAGE_ROWS else "",
        "jobs": jobs,
        "most_jobs": SHOWN_JOBS,
        "formats": formats(),
        "key": uuid4().hex,
        "error": error,
        "asked": asked,
        "is_waiting": any(job.state in (ExportState.QUEUED, ExportState.RUNNING) for job in jobs),
    }
    return render(request, "databases.html", context, status=400 if error else 200)


def _fitting(asked: QueryDict) -> QuerySet[Run]:
    """Return the runs of all pages. Raises BadFilter."""
    runs = Run.objects.select_related("beat").defer(
        "config", "environment", "beat__metrics", "beat__partitions", "beat__sinks"
    )
    for name in ("cluster", "worker"):
        if chosen := text_in(asked, name):
            runs = runs.filter(**{name: chosen})
    if text := text_in(asked, "text"):
        parts = ("worker", "cluster", "host", "version")
        found = Q()
        for name in parts:
            found |= Q(**{f"{name}__icontains": text})
        runs = runs.filter(found)
    if since := time_of(asked, "since"):
        runs = runs.filter(started_at__gte=since)
    if until := time_of(asked, "until"):
        runs = runs.filter(started_at__lt=until)
    return runs


def _after(runs: QuerySet[Run], order: Order) -> QuerySet[Run]:
    """Those that come after the order's row, sorted."""
    if order.after is not None:
        side = "lt" if order.is_down else "gt"
        value, run = order.after
        runs = runs.filter(
            Q(**{f"{order.field}__{side}": value}) | Q(**{order.field: value, f"id__{side}": run})
        )
    sign = "-" if order.is_down else ""
    return runs.order_by(f"{sign}{order.field}", f"{sign}id")


def _order(asked: QueryDict) -> Order:
    name, way = asked.get("sort", "started"), asked.get("way", "down")
    if name not in SORTS:
        raise BadFilter(f"sort: expected one of {', '.join(SORTS)}, got {name[:40]}")
    if way not in ("up", "down"):
        raise BadFilter(f"way: expected up or down, got {way[:40]}")
    after = asked.get("after", "")
    try:
        key = _key(name, after) if after else None
    except (ValueError, OverflowError):
        raise BadFilter(f"after: not a place in the list: {after[:80]}") from None
    return Order(name=name, is_down=way == "down", after=key)


def _key(name: str, text: str) -> tuple[Any, UUID]:
    value, _, run = text.replace("\0", "").rpartition("_")
    if name == "started":
        return datetime.fromisoformat(value).astimezone(UTC), UUID(run)
    return int(value) if name == "events" else value, UUID(run)


def _written(order: Order, run: Model) -> str:
    value = getattr(run, order.field)
    text = value.isoformat() if isinstance(value, datetime) else value
    return f"{text}_{run.pk}"


def _column(order: Order, name: str) -> dict[str, Any]:
    is_chosen = name == order.name
    return {
        "name": name,
        "title": name.capitalize(),
        "is_number": name == "events",
        "sorted": ("descending" if order.is_down else "ascending") if is_chosen else "",
        "next": "up" if is_chosen and order.is_down else "down",
    }
