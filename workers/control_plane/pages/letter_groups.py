"""``/dead-letters/by-failure``: dead letters counted by the failure that made them, with what can
be done to all of one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

from django.db import InterfaceError, OperationalError
from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import render
from django.views.decorators.http import require_safe

from domain.text_bounds import text_in
from recorder.models import FailureGroup
from sinks.letter_rows import MOST_FAILURES, MOST_GROUPED, Filters, by_failure
from sinks.models import LetterAction
from sinks.pages.dead_letters import NARROW, filter_context, filters_of

KEPT = ("worker", "stage", *(name for name in NARROW if name != "group"))
"""Filters that go along to the letters of one failure, and to what is done to them."""
ACTIONS = {
    LetterAction.SOURCE: ("Replay to the source", "open"),
    LetterAction.SINK: ("Deliver to the sink", "deliver"),
    LetterAction.RESOLVE: ("Resolve", "open"),
}
"""Title of each action, and which letters it is for."""


@require_safe
def letter_groups(request: HttpRequest) -> HttpResponse:
    """Up to 100 failures with their letters; a bad filter is named on the page, with status 400."""
    asked, error, filters = request.GET, "", Filters()
    found: list[dict[str, Any]] = []
    is_cut = False
    try:
        filters = filters_of(asked)
        found, is_cut = by_failure(filters)
    except ValueError as exc:
        error = str(exc)
    shown = found[:MOST_FAILURES]
    titles = _titles(each["failure_group"] for each in shown)
    context = {
        **filter_context(asked, filters, error),
        "rows": [_row(each, asked, titles or {}) for each in shown],
        "are_titles_away": titles is None,
        "left_out": len(found) > MOST_FAILURES,
        "is_cut": is_cut,
        "most": MOST_GROUPED,
    }
    return render(request, "dead_letters/groups.html", context, status=400 if error else 200)


def _titles(names: Iterable[str]) -> dict[str, str] | None:
    """Return the titles of the groups that are known still; None: the history is away."""
    try:
        found = FailureGroup.objects.filter(pk__in=set(filter(None, names)))
        return dict(found.values_list("fingerprint", "title"))
    except (OperationalError, InterfaceError):
        return None


def _row(group: dict[str, Any], asked: QueryDict, titles: Mapping[str, str]) -> dict[str, Any]:
    kept = {name: text for name in KEPT if (text := text_in(asked, name))}
    kept |= {"cluster": group["cluster"], "group": group["failure_group"]}
    state = text_in(asked, "state")
    is_named = bool(group["failure_group"]) and not text_in(asked, "message")
    return {
        **group,
        "title": titles.get(group["failure_group"], ""),
        "letters": urlencode({**kept, "state": state} if state else kept),
        "actions": list(_actions(group, kept)) if is_named else [],
    }


def _actions(group: Mapping[str, Any], kept: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    for action, (title, of) in ACTIONS.items():
        if group[of]:
            yield title, urlencode({**kept, "of": "all", "action": action.value})
