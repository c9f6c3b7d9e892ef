"""API's part about dead letters."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from django.http import HttpRequest
from django.shortcuts import get_object_or_404
from ninja import Router, Schema
from ninja.errors import HttpError

from domain.paging import page
from sinks.letter_rows import matching
from sinks.models import DeadLetter
from sinks.pages.dead_letters import filters_of

router = Router(tags=["dead letters"])


class LetterOut(Schema):
    """A letter without its content; ``labels`` are those of its task, null: unknown."""

    id: int
    cluster: str
    letter_topic: str
    letter_partition: int
    letter_offset: int
    at: datetime
    topic: str
    partition: int
    offset: int
    origin: str
    stage: str
    failure: str
    reason: str
    attempts: int
    task_id: str
    sink: str
    labels: dict[str, str] | None
    worker: str
    delivery_id: str
    size_bytes: int
    is_whole: bool
    fingerprint: str
    state: str


class LettersOut(Schema):
    """Up to 50 letters, newest first; ``older`` asks for the next ones, null at the end."""

    letters: list[LetterOut]
    older: str | None


class ReplayOut(Schema):
    """One time a letter was sent again; without ``confirmed_at`` and ``error`` it is not known
    whether it arrived."""

    actor: str
    target_topic: str
    target_partition: int | None
    target_offset: int | None
    asked_at: datetime
    confirmed_at: datetime | None
    error: str


class LetterDetailOut(LetterOut):
    """A letter with the first 64 KiB of its content, in base64, and the traceback of the handler's
    error, empty where none raised."""

    traceback: str
    key: str | None
    value: str | None
    headers: list[tuple[str, str | None]]
    replays: list[ReplayOut]

    @staticmethod
    def resolve_key(letter: DeadLetter) -> str | None:
        """Bytes as base64."""
        return _base64(letter.key)

    @staticmethod
    def resolve_value(letter: DeadLetter) -> str | None:
        """Bytes as base64."""
        return _base64(letter.value)

    @staticmethod
    def resolve_replays(letter: DeadLetter) -> list[Any]:
        """Newest first."""
        return list(letter.replays.order_by("-asked_at", "-id")[:50])


def _base64(content: Any) -> str | None:
    return None if content is None else base64.b64encode(bytes(content)).decode()


@router.get("/dead-letters", response=LettersOut, summary="Dead letters, newest first")
def list_letters(
    request: HttpRequest,
    cluster: str = "",
    stage: str = "",
    state: str = "",
    message: str = "",
    label: str = "",
    older: str = "",
) -> Any:
    """By keyset: repeat with ``older`` of the answer for the next 50. ``message``:
    ``topic/partition:offset`` of the message that the letters are of; ``label``: ``name=value`` of
    their task."""
    try:
        found = page(matching(filters_of(request.GET)), "at", older=older)
    except ValueError as exc:
        raise HttpError(422, str(exc)) from None
    return {"letters": found.rows, "older": found.older or None}


@router.get("/dead-letters/{int:letter_id}", response=LetterDetailOut, summary="One dead letter")
def get_letter(request: HttpRequest, letter_id: int) -> Any:
    """With its content and its replays."""
    return get_object_or_404(DeadLetter, pk=letter_id)
