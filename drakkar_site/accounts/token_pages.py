"""``/tokens``: issue a token (its secret is shown once), list them, revoke one. For admins."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import uuid4

from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.shortcuts import render
from django.urls import reverse
from django.utils import timezone
from django.views.decorators.http import require_http_methods, require_POST

from domain.paging import Page, page
from drakkar_site.accounts.models import MAX_KEY_LENGTH, SCOPES, Token
from drakkar_site.accounts.tokens import AlreadyIssued, issue

MAX_DAYS = 3650
DEFAULT_DAYS = 90
LOST = "If nobody kept it, revoke that token and issue another."


class BadToken(ValueError):
    """Raised for a token that cannot be issued; the text names the field."""


@require_http_methods(["GET", "HEAD", "POST"])
def tokens(request: HttpRequest) -> HttpResponse:
    """Show the list; a POST issues one and shows its secret on this answer only.

    A form sent again, by a reload or a second click, issues nothing: 409.
    """
    if request.method != "POST":
        return _page(request)
    try:
        token, secret = issue(*_asked(request))
    except BadToken as exc:
        return _page(request, error=str(exc), status=400)
    except AlreadyIssued as exc:
        return _page(request, error=f"{exc}, and showed its secret then. {LOST}", status=409)
    return _page(request, token=token, secret=secret)


@require_POST
def revoke(request: HttpRequest, token_id: int) -> HttpResponse:
    """Revoke a token; sessions and sockets that it opened end within a second."""
    Token.objects.filter(pk=token_id, revoked_at=None).update(revoked_at=timezone.now())
    return HttpResponseRedirect(reverse("tokens"))


def _asked(request: HttpRequest) -> tuple[User, list[str], datetime | None, str]:
    name = request.POST.get("user", "").replace("\0", "")
    user = User.objects.filter(username=name, is_active=True).first()
    if user is None:
        raise BadToken(f"user: expected an active one, got {name[:80]!r}")
    scopes = request.POST.getlist("scopes")
    if not scopes or not set(scopes) <= set(SCOPES):
        raise BadToken(f"scopes: expected some of {', '.join(SCOPES)}, got {scopes or 'none'}")
    days = request.POST.get("days", "")
    if not (days.isascii() and days.isdecimal() and int(days[:6]) <= MAX_DAYS):
        raise BadToken(f"days: expected 0 (never expires) to {MAX_DAYS}, got {days[:20]!r}")
    key = request.POST.get("key", "")
    if len(key) > MAX_KEY_LENGTH or not key.isprintable():
        raise BadToken(f"key: expected at most {MAX_KEY_LENGTH} characters, got {key[:80]!r}")
    expires_at = timezone.now() + timedelta(days=int(days)) if int(days) else None
    return user, scopes, expires_at, key


def _page(
    request: HttpRequest,
    *,
    error: str = "",
    status: int = 200,
    token: Token | None = None,
    secret: str = "",
) -> HttpResponse:
    asked = request.GET
    found: Page[Token] = Page(rows=())
    rows = Token.objects.select_related("user")
    try:
        found = page(rows, "created_at", older=asked.get("older", ""), newer=asked.get("newer", ""))
    except ValueError as exc:
        error, status = error or str(exc), 400
    now = timezone.now()
    context = {
        "page": found,
        "rows": [(each, _word(each, now)) for each in found.rows],
        "users": User.objects.filter(is_active=True).order_by("username")[:500],
        "known_scopes": SCOPES,
        "days": DEFAULT_DAYS,
        "max_days": MAX_DAYS,
        "key": uuid4().hex,
        "error": error,
        "issued": token,
        "secret": secret,
    }
    return render(request, "tokens.html", context, status=status)


def _word(token: Token, now: datetime) -> str:
    if token.revoked_at is not None:
        return "revoked"
    return "valid" if token.is_valid(now) else "expired"
