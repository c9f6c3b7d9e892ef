"""``/dead-letters``: what could not be processed, by keyset, and one letter in full."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django.http import HttpRequest, HttpResponse, QueryDict
from django.shortcuts import get_object_or_404, render
from django.utils import timezone
from django.utils.dateparse import parse_datetime

from domain.age import age_seconds
from domain.failure import FailureKind, Stage
from domain.fingerprint import FINGERPRINT
from domain.json_layout import laid_out
from domain.paging import BadFilter, Page, page
from domain.text_bounds import MAX_NAME, MAX_VALUE, text_in
from sinks.letter_rows import Filters, family, has_unknown_labels, headers_of, matching
from sinks.models import DeadLetter, LetterState

SHOWN_KIN = 50
NARROW = ("failure", "group", "sink", "label", "matching", "since", "until")
"""Filters of the list that go along to a job over all that match."""
MAX_PARTITION, MAX_OFFSET = 2**31 - 1, 2**63 - 1
_MESSAGE = re.compile(r"([A-Za-z0-9._-]{1,249})/([0-9]{1,10}):([0-9]{1,19})")


def dead_letters(request: HttpRequest) -> HttpResponse:
    """One page of 50 letters; a bad filter is named on the page, with status 400."""
    asked, error, filters = request.GET, "", Filters()
    found: Page[DeadLetter] = Page(rows=())
    try:
        ends = {name: asked.get(name, "") for name in ("older", "newer")}
        filters = filters_of(asked)
        found = page(matching(filters), "at", **ends)
    except ValueError as exc:
        error = str(exc)
    context = {
        "page": found,
        **filter_context(asked, filters, error),
        "narrow": [(name, text_in(asked, name)) for name in NARROW],
    }
    return render(request, "dead_letters/list.html", context, status=400 if error else 200)


def filter_context(asked: QueryDict, filters: Filters, error: str) -> dict[str, Any]:
    """Return what ``dead_letters/filters.html`` shows; ``error`` is what is wrong with them."""
    return {
        "error": error,
        "stages": [stage.value for stage in Stage],
        "states": LetterState.values,
        "kinds": [kind.value for kind in FailureKind],
        "asked": asked,
        "has_unknown_labels": bool(filters.label) and has_unknown_labels(filters),
    }


def dead_letter(request: HttpRequest, letter_id: int) -> HttpResponse:
    """One letter with its content, its replays and its kin."""
    letter = get_object_or_404(DeadLetter, pk=letter_id)
    context = {
        "letter": letter,
        "labels": sorted((letter.labels or {}).items()),
        "key": shown(letter.key),
        "value": shown(letter.value),
        "headers": [(name, shown(value)) for name, value in headers_of(letter)],
        "replays": letter.replays.order_by("-asked_at", "-id")[:SHOWN_KIN],
        "kin": family(letter)[:SHOWN_KIN],
    }
    return render(request, "dead_letters/detail.html", context)


def filters_of(asked: QueryDict) -> Filters:
    """Return the filters of a query. Raises BadFilter naming what is known."""
    return Filters(
        cluster=text_in(asked, "cluster"),
        worker=text_in(asked, "worker"),
        stage=_one_of(asked, "stage", [stage.value for stage in Stage]),
        state=_one_of(asked, "state", LetterState.values),
        failure=_one_of(asked, "failure", [kind.value for kind in FailureKind]),
        group=_group(text_in(asked, "group")),
        sink=text_in(asked, "sink"),
        label=_label(text_in(asked, "label")),
        reason=text_in(asked, "matching")[:MAX_VALUE],
        since=_time(asked, "since"),
        until=_time(asked, "until"),
        message=_message(asked.get("message", "").strip()),
    )


def _group(text: str) -> str:
    if text and FINGERPRINT.fullmatch(text) is None:
        raise BadFilter(f"group: expected a failure group's 20 digits, got {text[:40]}")
    return text


def _label(text: str) -> str:
    name, sign, value = (part.strip() for part in text.partition("="))
    if text and not (name and sign and len(name) <= MAX_NAME and len(value) <= MAX_VALUE):
        raise BadFilter(f"label: expected name=value, got {text[:40]}")
    return f"{name}={value}" if text else ""


def _time(asked: QueryDict, name: str) -> datetime | None:
    text = text_in(asked, name)
    if (age := age_seconds(text)) is not None:
        return timezone.now() - timedelta(seconds=age)
    try:
        found = parse_datetime(text) if text else None
        if found is not None:
            return found if found.tzinfo else found.replace(tzinfo=UTC)
    except ValueError:
        pass
    if text:
        raise BadFilter(f"{name}: expected a time (UTC) or an age like 90m, got {text[:40]}")
    return None


def _message(text: str) -> tuple[str, int, int] | None:
    if not text:
        return None
    found = _MESSAGE.fullmatch(text)
    if found is None or int(found[2]) > MAX_PARTITION or int(found[3]) > MAX_OFFSET:
        raise BadFilter(f"message: expected topic/partition:offset, got {text[:80]}")
    return found[1], int(found[2]), int(found[3])


def _one_of(asked: QueryDict, name: str, known: list[str]) -> str:
    text = asked.get(name, "").strip()
    if text and text not in known:
        raise BadFilter(f"{name}: expected one of {', '.join(known)}, got {text[:40]}")
    return text


def shown(content: Any) -> str | None:
    """Bytes as text: JSON is laid out, undecodable bytes are replaced; None stays none."""
    return None if content is None else laid_out(bytes(content).decode("utf-8", "replace"))
