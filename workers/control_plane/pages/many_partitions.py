"""``/control/partitions``: pause or resume chosen partitions of a cluster, or all that match the
filter of ``/partitions``; in numbers first, then one request each."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Sequence
from typing import Any

from django.http import HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods

from domain.text_bounds import text_in
from domain.unknown import total
from workers.control import EXPIRY_SECONDS, MAX_REASON, Action
from workers.control_plane.pages.partitions import Row, fits, name_of, owned_rows
from workers.control_plane.queries import beats, is_live, oldest_age
from workers.control_plane.requests import MAX_PARTITIONS, Asker, NoTarget, ask_partitions

ACTIONS = (Action.PAUSE_PARTITION, Action.RESUME_PARTITION)
TITLES = {Action.PAUSE_PARTITION: "Pause partitions", Action.RESUME_PARTITION: "Resume partitions"}


@require_http_methods(["GET", "HEAD", "POST"])
def many_partitions(request: HttpRequest) -> HttpResponse:
    """Show what it will do to how many, or ask for it; what is wrong is said in this place."""
    asked = request.POST if request.method == "POST" else request.GET
    try:
        action = _action(asked)
        if request.method == "POST":
            row = _ask(request, asked, action)
            return HttpResponseRedirect(reverse("control", kwargs={"request_id": row.id}))
        return _preview(request, asked, action)
    except ValueError as exc:
        context, status = {"error": str(exc)}, 400
    except NoTarget as exc:
        context, status = {"error": str(exc)}, 409
    return render(request, "control/partitions.html", context, status=status)


def _action(asked: QueryDict) -> Action:
    action = Action.named(text_in(asked, "action"))
    if action not in ACTIONS:
        raise ValueError(f"action: expected one of {', '.join(ACTIONS)}, got {action}")
    return action


def _ask(request: HttpRequest, asked: QueryDict, action: Action) -> Any:
    key = asked.get("key", "")
    if len(key) != len(uuid.UUID(int=0).hex) or not key.isalnum():
        raise ValueError("key: expected the one of the form; open this page again")
    return ask_partitions(
        Asker.of(request),
        cluster=text_in(asked, "of"),
        action=action,
        places=[_place(name) for name in _names(asked)],
        key=key,
        reason=text_in(asked, "reason"),
    )


def _names(asked: QueryDict) -> list[str]:
    names = list(dict.fromkeys(asked.getlist("place")))
    if not 1 <= len(names) <= MAX_PARTITIONS:
        raise ValueError(f"place: expected 1 to {MAX_PARTITIONS} partitions, got {len(names)}")
    return names


def _place(name: str) -> tuple[str, int]:
    """Return topic and number out of ``cluster/topic/number``. Raises ValueError."""
    *_, topic, number = ["", *name.split("/")]
    if not (topic and number.isascii() and number.isdigit() and len(number) < 11):
        raise ValueError(f"place: expected cluster/topic/number, got {name[:80]}")
    return topic, int(number)


def _preview(request: HttpRequest, asked: QueryDict, action: Action) -> HttpResponse:
    live = [beat for beat in beats(text_in(asked, "cluster")) if is_live(beat)]
    owned = {name_of(row): row for row in owned_rows(live)}
    if asked.get("all"):
        names = [name for name, row in owned.items() if _matches(row, asked)]
    else:
        names = _names(asked)
    clusters = sorted({name.split("/")[0] for name in names})
    if len(clusters) > 1:
        raise ValueError(
            f"cluster: expected partitions of one, got those of {', '.join(clusters)[:200]}; choose"
            " it at the top of the page"
        )
    rows = [owned[name] for name in names if name in owned]
    wanted = [row for row in rows if bool(row["is_paused"]) is (action is ACTIONS[1])]
    if len(wanted) > MAX_PARTITIONS:
        raise ValueError(
            f"place: expected at most {MAX_PARTITIONS} partitions at once, got {len(wanted)}:"
            " narrow the filter"
        )
    context = {
        "action": action,
        "title": TITLES[action],
        "meaning": action.spec.meaning,
        "of": clusters[0] if clusters else "",
        "figures": _figures(wanted),
        "names": [name_of(row) for row in wanted],
        "left_out": len(rows) - len(wanted),
        "unowned": len(names) - len(rows),
        "key": uuid.uuid4().hex,
        "max_reason": MAX_REASON,
        "expiry_seconds": EXPIRY_SECONDS,
        "age": oldest_age(live),
    }
    return render(request, "control/partitions.html", context)


def _matches(row: Row, asked: QueryDict) -> bool:
    is_of = asked.get("worker", "") in ("", row["owner"])
    return is_of and fits(row, asked.get("state"), asked.get("text"))


def _figures(rows: Sequence[Row]) -> list[tuple[str, int | None]]:
    def over(name: str, of: Iterable[Row] = rows) -> int | None:
        return total(row[name] for row in of) if rows else 0

    return [
        ("partitions that are asked for", len(rows)),
        ("workers that have them", len({row["owner"] for row in rows})),
        ("messages without a fate", over("pending")),
        ("tasks that wait to run", over("queue")),
        ("messages of lag", over("lag")),
    ]
