"""Audit: who changed what, when, from where, and what came of it, a row for every such request.

Written too when the view raises. People without a session or a valid token change nothing: of
them only failed logins and tokens are kept, which the throttle bounds.
"""

from __future__ import annotations

import json
import logging
import re
import uuid
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from django.contrib.auth.models import User
from django.contrib.auth.signals import user_logged_in, user_logged_out, user_login_failed
from django.core.exceptions import SuspiciousOperation
from django.db import Error
from django.dispatch import receiver
from django.http import HttpRequest, HttpResponse
from django.http.multipartparser import MultiPartParserError
from django.http.request import RawPostDataException, UnreadablePostError

from domain.masking import mask_args, mask_text
from drakkar_site.accounts.addresses import address_of
from drakkar_site.accounts.masking import masked
from drakkar_site.accounts.models import AuditEntry, Outcome
from drakkar_site.accounts.sessions import opened_by
from workers.control import SHOWN_ARGUMENTS

SAFE = frozenset({"GET", "HEAD", "OPTIONS", "TRACE"})
FIELDS = (
    *("action", "cluster", "worker"),
    *SHOWN_ARGUMENTS,
    *("username", "user", "scopes", "name", "format", "id", "step", "of", "stage", "rate"),
    *("matching", "owner", "note"),
    *("failure", "exit_code", "since", "until", "message", "task", "again", "tasks"),
    *("identity", "all_tasks", "new_identity", "up_to", "days", "reason", "_selected_action"),
    *("letter", "run", "runs"),
    *("finding", "mark", "hours", "receiver", "shared", "query"),
)
"""Fields of a form or document that say on what it acts, long lists last; others are left out."""
MADE = re.compile(r"/(?:control|dead-letters/jobs|reruns)/([0-9a-f-]{36})$")
"""Address of the request or job that an answer made."""
MAX_BODY_BYTES = 64 * 1024
DOCUMENT = "application/json"
UNREADABLE = (
    RawPostDataException, UnreadablePostError, SuspiciousOperation, MultiPartParserError,
    ValueError, RecursionError,
)  # fmt: skip
"""Errors of reading what was sent; too many fields are suspicious, too."""
NOTE, REQUEST_ID, TOKEN = "drakkar.audit", "drakkar.request_id", "drakkar.token"
"""Keys of ``request.META``."""
logger = logging.getLogger("drakkar.audit")


class Audit:
    """Middleware; stands after authentication and before the scopes are judged."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Give the request an id, have it answered, and write what it was."""
        request.META[REQUEST_ID] = uuid.uuid4().hex
        before = "" if request.method in SAFE else _name(request)
        status, made = 500, ""
        try:
            response = self._get_response(request)
            status, made = response.status_code, _made(response)
            response["X-Request-ID"] = request.META[REQUEST_ID]
            return response
        finally:
            actor = _name(request) if before or request.method not in SAFE else ""
            _write(request, before or actor, status, made)


def note(request: HttpRequest, outcome: Outcome, actor: str, target: str) -> None:
    """Have this request written whatever its method and whoever sent it."""
    request.META[NOTE] = outcome, actor, target


def _write(request: HttpRequest, actor: str, status: int, made: str) -> None:
    outcome, named, target = request.META.get(NOTE, ("", "", ""))
    if not outcome and not actor:
        return
    entry = AuditEntry(
        actor=(named or actor)[:255],
        via=_via(request),
        address=address_of(request)[:64],
        method=str(request.method)[:8],
        path=_safe(request.get_full_path()),
        target=_safe(target or " ".join(filter(None, [made, *_targets(request)]))),
        status=status,
        outcome=outcome or _outcome(status),
        request_id=request.META[REQUEST_ID],
    )
    try:
        entry.save()
    except Error as exc:
        logger.error("audit: not stored (%s): %s", type(exc).__name__, entry.line)


def _made(response: HttpResponse) -> str:
    found = MADE.search(response.get("Location", "").partition("?")[0])
    return f"made={found[1]}" if found else ""


def _outcome(status: int) -> Outcome:
    if status >= 500:
        return Outcome.FAILED
    return Outcome.REFUSED if status >= 400 else Outcome.DONE


def _name(request: HttpRequest) -> str:
    return request.user.get_username() if request.user.is_authenticated else ""


def _via(request: HttpRequest) -> str:
    if TOKEN in request.META:
        token_id = request.META[TOKEN]
        return "site.auth_token" if token_id is None else f"token {token_id}"
    return opened_by(request.session)


def _targets(request: HttpRequest) -> Iterator[str]:
    match = request.resolver_match
    for name, value in (match.kwargs if match is not None else {}).items():
        if name != "url":
            yield f"{name}={value}"
    yield from mask_args([f"{name}={value}" for name, value in _named(_sent(request))])


def _named(sent: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    for name in FIELDS:
        if sent.get(name) not in (None, "", []):
            value = sent[name]
            yield name, ",".join(map(_words, value)) if isinstance(value, list) else _words(value)
    if isinstance(sent.get("arguments"), Mapping):
        yield from _named({**sent["arguments"], "arguments": None})


def _words(value: Any) -> str:
    """A value as text; one that is too deep for that is not told."""
    try:
        return str(value)
    except RecursionError:
        return "..."


def _sent(request: HttpRequest) -> Mapping[str, Any]:
    """Return the form or document; empty where it cannot be read or is too long to look into.

    The API reads a document whatever the request calls it; nothing that is sent loses the row.
    """
    try:
        if not (request.path_info.startswith("/api/") or request.content_type == DOCUMENT):
            return {k: v if len(v) > 1 else v[0] for k, v in request.POST.lists() if v}
        body = request.body
        found = json.loads(body) if len(body) <= MAX_BODY_BYTES else {}
    except UNREADABLE:
        return {}
    return found if isinstance(found, Mapping) else {}


def _safe(text: str) -> str:
    """Masked, short, and of characters that Postgres can hold."""
    sound = text.replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode()
    return mask_text(masked(sound))[:500]


@receiver(user_logged_in)
def _signed_in(request: HttpRequest, user: User, **_: Any) -> None:
    note(request, Outcome.DONE, user.get_username(), "signed in")


@receiver(user_logged_out)
def _signed_out(request: HttpRequest, user: User | None, **_: Any) -> None:
    if user is not None:
        note(request, Outcome.DONE, user.get_username(), "signed out")


@receiver(user_login_failed)
def _login_failed(
    credentials: Mapping[str, Any], request: HttpRequest | None = None, **_: Any
) -> None:
    if request is None:
        return
    # What was typed as a name may be a password: it is kept only where it is a name.
    name = str(credentials.get("username", "")).replace("\0", "")[:150]
    is_name = User.objects.filter(username=name).exists()
    note(request, Outcome.REFUSED, name if is_name else "unknown", "failed login")
