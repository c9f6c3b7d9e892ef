"""``/control``: what was asked of workers, how far it got, and asking with the effect shown first.

The URL holds all state; asking is a form with a key, so that sending it twice asks once.
"""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from django.http import Http404, HttpRequest, HttpResponse, HttpResponseRedirect, QueryDict
from django.shortcuts import render
from django.urls import reverse
from django.views.decorators.http import require_http_methods, require_safe

from domain.paging import Page, page
from domain.parking import ParkingCause
from domain.text_bounds import text_in
from workers.broker.base import BrokerUnavailable
from workers.control import (
    EXPIRY_SECONDS,
    MAX_REASON,
    PARTITIONS,
    Action,
    Arguments,
    Target,
    check_arguments,
    check_target,
    target_text,
)
from workers.control_plane.cluster_requests import asked_of
from workers.control_plane.pages.cluster_effect import cluster_effect
from workers.control_plane.pages.effect import Effect, effect
from workers.control_plane.pages.move_preview import MovePreview, NoPlace, move_preview
from workers.control_plane.queries import beats, is_live, latest
from workers.control_plane.requests import Asker, NoTarget, ask, found, recent, target_of
from workers.models import ControlRequest, ControlState

FINAL = (ControlState.DONE, ControlState.FAILED, ControlState.EXPIRED)
LOOK = {
    ControlState.REQUESTED: "waiting",
    ControlState.ACCEPTED: "running",
    ControlState.DONE: "completed",
    ControlState.FAILED: "failed",
    ControlState.EXPIRED: "failed",
}
FILTERS = ("state", "action", "actor")


@require_safe
def controls(request: HttpRequest) -> HttpResponse:
    """Requests, 50 a page, youngest first; a bad key or filter is named, with status 400."""
    asked, error = request.GET, ""
    shown: Page[ControlRequest] = Page(rows=())
    try:
        rows = recent(text_in(asked, "cluster"), text_in(asked, "worker")).filter(**_filters(asked))
        shown = page(
            rows, "requested_at", older=text_in(asked, "older"), newer=text_in(asked, "newer")
        )
    except ValueError as exc:
        error = str(exc)
    context = {
        "page": shown,
        "rows": [_shown(row) for row in shown.rows],
        "is_waiting": any(row.state not in FINAL for row in shown.rows),
        "states": ControlState.values,
        "actions": list(Action),
        "asked": asked,
        "error": error,
    }
    return render(request, "control/list.html", context, status=400 if error else 200)


@require_safe
def control(request: HttpRequest, request_id: uuid.UUID) -> HttpResponse:
    """One request and how far it got."""
    row = found(request_id)
    if row is None:
        raise Http404("There is no such request")
    each_asked = list(asked_of(row))
    context = {
        **_shown(row),
        "asked": [_shown(each) for each in each_asked],
        "is_final": all(each.state in FINAL for each in (row, *each_asked)),
        "expiry_seconds": EXPIRY_SECONDS,
    }
    return render(request, "control/detail.html", context)


@require_http_methods(["GET", "HEAD", "POST"])
def control_new(request: HttpRequest) -> HttpResponse:
    """Show what an action will do, or ask for it; what is wrong is said in this place."""
    asked = request.POST if request.method == "POST" else request.GET
    try:
        action = Action.named(asked.get("action", ""))
    except ValueError as exc:
        return render(request, "control/new.html", {"error": str(exc)}, status=400)
    if request.method != "POST":
        return _confirm(request, asked, action)
    try:
        row = _ask(request, asked, action)
    except ValueError as exc:
        return _confirm(request, asked, action, str(exc), 400)
    except NoTarget as exc:
        return _confirm(request, asked, action, str(exc), 409)
    return HttpResponseRedirect(reverse("control", kwargs={"request_id": row.id}))


def _ask(request: HttpRequest, asked: QueryDict, action: Action) -> ControlRequest:
    key = asked.get("key", "")
    if len(key) != len(uuid.UUID(int=0).hex) or not key.isalnum():
        raise ValueError("key: expected the one of the form; open this page again")
    return ask(
        Asker.of(request),
        cluster=text_in(asked, "cluster"),
        worker=text_in(asked, "worker"),
        action=action,
        arguments=_arguments(asked, action),
        key=key,
        reason=text_in(asked, "reason"),
    )


@dataclass(slots=True, kw_only=True)
class Form:
    """What the confirm page shows of an action, and with which arguments it is asked for.

    ``is_open``: it may be asked for; else entries are to be filled in first, or it would be
    refused. ``error`` says what is wrong, with the page's ``status``.
    """

    cluster: str
    worker: str
    given: dict[str, str]
    shown: Effect
    is_open: bool = True
    error: str = ""
    status: int = 200

    def fail(self, error: str, status: int) -> None:
        """Note what is wrong; the first stays."""
        self.error, self.status = self.error or error, max(self.status, status)


def _confirm(
    request: HttpRequest, asked: QueryDict, action: Action, error: str = "", status: int = 200
) -> HttpResponse:
    # A link names its target apart from the page's choice; without one the choice is the target.
    to = "to_" if "to_cluster" in asked else ""
    cluster, worker = text_in(asked, f"{to}cluster"), text_in(asked, f"{to}worker")
    given, kind = _arguments(asked, action), action.spec.arguments
    is_of_cluster = action.spec.target is not Target.WORKER
    form = Form(
        cluster=cluster,
        worker="" if is_of_cluster else worker,
        given=given,
        shown=effect(action, {}, None),
        error=error,
        status=status,
    )
    (_fill_cluster if is_of_cluster else _fill)(form, action)
    context = {
        "effect": form.shown,
        "action": action,
        "to_cluster": cluster,
        "to_worker": form.worker,
        "is_of_cluster": is_of_cluster,
        "entries": _entries(kind, given) if form.worker or is_of_cluster else [],
        "target": [(n, given[n]) for n in kind.target().model_fields if n in given],
        "is_open": form.is_open and bool(form.worker or is_of_cluster),
        "given": [(name, text) for name, text in form.given.items() if name not in kind.CHOICES],
        "choices": _choices(action, given, form.shown),
        "key": uuid.uuid4().hex,
        "reason": text_in(asked, "reason"),
        "max_reason": MAX_REASON,
        "error": form.error,
        "expiry_seconds": EXPIRY_SECONDS,
    }
    return render(request, "control/new.html", context, status=form.status)


def _fill(form: Form, action: Action) -> None:
    """Fill in what the action would do on one worker."""
    known: dict[str, Any] = {}
    try:
        checked = _known(action, form.given)
        known = checked.model_dump(exclude_none=True)
        form.worker = form.worker or target_of(form.cluster, action, checked)
    except ValueError as exc:
        form.fail(str(exc), 400)
    except NoTarget as exc:
        form.fail(str(exc), 409)
    place = form.cluster, form.worker
    beat = latest(beats(*place)).get(place) if form.worker else None
    form.shown = effect(action, known, beat)
    if action.spec.arguments.ENTRIES and form.worker:
        _fill_move(form, action)


def _fill_move(form: Form, action: Action) -> None:
    """Fill in where a move leads, and pin that place."""
    try:
        preview = move_preview(action, form.cluster, form.given, form.shown.row)
    except (NoPlace, BrokerUnavailable) as exc:
        preview = MovePreview(problem=str(exc))
    if preview.problem:
        form.fail(preview.problem, 409)
    form.shown = replace(form.shown, figures=preview.figures or form.shown.figures)
    form.is_open = bool(preview.given) and not preview.problem
    form.given = dict(preview.given) if form.is_open else form.given


def _fill_cluster(form: Form, action: Action) -> None:
    """Fill in what the action would do on a whole cluster."""
    live = [beat for beat in beats(form.cluster) if is_live(beat)] if form.cluster else []
    kind = action.spec.arguments
    is_filled = not kind.ENTRIES or any(name in form.given for name in kind.ENTRIES)
    form.is_open = is_filled and bool(form.cluster)
    try:
        form.shown = cluster_effect(action, form.given, live)
    except ValueError as exc:
        form.fail(str(exc), 400)
        form.is_open = False
    if not form.cluster:
        form.fail("cluster: expected one, choose it at the top of the page", 400)


def _entries(kind: type[Arguments], given: Mapping[str, str]) -> list[dict[str, str]]:
    """Return the fields that are filled in before the effect is shown."""
    return [
        {"name": name, "label": label, "value": given.get(name, "")}
        for name, label in kind.ENTRIES.items()
    ]


def _choices(action: Action, given: Mapping[str, str], shown: Effect) -> list[dict[str, Any]]:
    """Return what is still to be chosen; what an unpark asks only for the cause that asks."""
    cause_of = {cause.handling.choice: cause for cause in ParkingCause if cause.handling.choice}
    return [
        {"name": name, "options": list(options.items()), "chosen": given.get(name, "")}
        for name, options in action.spec.arguments.CHOICES.items()
        if name not in cause_of or cause_of[name] in shown.causes
    ]


def _known(action: Action, given: Mapping[str, str]) -> Arguments:
    """Check the arguments; a choice that is needed and not made yet stands for any, and so do
    entries. Raises ValueError."""
    kind = action.spec.arguments
    if kind.ENTRIES:
        return check_target(action, given)
    open_yet = {
        name: next(iter(options))
        for name, options in kind.CHOICES.items()
        if kind.model_fields[name].is_required()
    }
    return check_arguments(action, {**open_yet, **given})[1]


def _arguments(asked: QueryDict, action: Action) -> dict[str, str]:
    names = action.spec.arguments.model_fields
    return {name: text for name in names if (text := text_in(asked, name))}


def _filters(asked: QueryDict) -> dict[str, str]:
    return {name: text for name in FILTERS if (text := text_in(asked, name))}


def _shown(row: ControlRequest) -> dict[str, Any]:
    of = "owners" if PARTITIONS in row.arguments else "all"
    shown = {"row": row, "status": LOOK[ControlState(row.state)], "of": of}
    try:
        action = Action.named(row.action)
    except ValueError:  # another release's
        return shown | {"title": row.action, "target": "", "meaning": ""}
    spec, target = action.spec, target_text(action, row.arguments)
    return shown | {"title": spec.title, "target": target, "meaning": spec.meaning}
