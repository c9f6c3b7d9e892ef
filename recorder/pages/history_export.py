"""``/history/export``: the newest events that fit the history's filters, as CSV or JSON."""

from __future__ import annotations

import csv
import io
from typing import Any

from django.http import HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

from domain.masking import mask_args
from recorder.formats import BYTES_COLUMNS, COLUMNS, cell, json_bytes
from recorder.pages.history import EXPORTED_ROWS, BadFilter, filters_of
from recorder.queries import matching, names_of_runs

SHOWN = tuple(name for name in COLUMNS if name not in BYTES_COLUMNS)
NAMES = ("cluster", "worker", *SHOWN)


@require_safe
def export_history(request: HttpRequest) -> HttpResponse:
    """At most 10,000 events, newest first, without output; ``X-Is-Cut`` says that more fit."""
    name = request.GET.get("format", "csv")
    try:
        if name not in ("csv", "json"):
            raise BadFilter(f"format: expected csv or json, got {name[:40]}")
        found = list(
            matching(filters_of(request.GET))
            .order_by("-ts", "-id")
            .values_list(*SHOWN)[: EXPORTED_ROWS + 1]
        )
    except BadFilter as exc:
        return HttpResponse(f"{exc}\n", status=400, content_type="text/plain; charset=utf-8")
    rows = _named(found[:EXPORTED_ROWS])
    body, kind = (_csv(rows), "text/csv") if name == "csv" else (_json(rows), "application/json")
    answer = HttpResponse(body, content_type=f"{kind}; charset=utf-8")
    answer["Content-Disposition"] = f'attachment; filename="history.{name}"'
    answer["X-Is-Cut"] = "true" if len(found) > EXPORTED_ROWS else "false"
    return answer


def _named(found: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    run = SHOWN.index("run")
    names = names_of_runs({row[run] for row in found})
    rows = []
    for values in found:
        cluster, worker = names.get(values[run], ("", "unknown"))
        row = {"cluster": cluster, "worker": worker, **dict(zip(SHOWN, values, strict=True))}
        if row["args"]:
            row["args"] = mask_args([str(each) for each in row["args"]])
        rows.append(row)
    return rows


def _csv(rows: list[dict[str, Any]]) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(NAMES)
    writer.writerows([cell(name, row[name]) for name in NAMES] for row in rows)
    return text.getvalue().encode()


def _json(rows: list[dict[str, Any]]) -> bytes:
    return json_bytes({"events": rows})
