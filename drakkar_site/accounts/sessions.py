"""Sessions opened by a token: each ends with its token and may no more than it."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.models import AnonymousUser, User
from django.contrib.auth.signals import user_logged_in
from django.contrib.sessions.backends.base import SessionBase
from django.dispatch import receiver
from django.http import HttpRequest
from django.utils.crypto import constant_time_compare

from drakkar_site.accounts.roles import scopes_of
from drakkar_site.accounts.tokens import Identity, is_still_valid, root_fingerprint

TOKEN, ROOT, SCOPES = "drakkar_token", "drakkar_root", "drakkar_scopes"
"""Session keys: number of its token (None for ``site.auth_token``), its fingerprint, scopes."""


def keep(session: SessionBase, identity: Identity) -> None:
    """Bind the session to the token that opened it."""
    session[TOKEN] = identity.token_id
    session[ROOT] = root_fingerprint() if identity.token_id is None else ""
    session[SCOPES] = list(identity.scopes)


def is_open(session: SessionBase) -> bool:
    """Whether the token that opened the session still opens anything; true after a password."""
    if TOKEN not in session:
        return True
    token_id = session[TOKEN]
    if token_id is not None:
        return is_still_valid(token_id)
    fingerprint = root_fingerprint()
    return bool(fingerprint) and constant_time_compare(session.get(ROOT, ""), fingerprint)


def granted(session: SessionBase, user: User | AnonymousUser) -> tuple[str, ...]:
    """Return the scopes of a session: its token's, else its user's."""
    kept = session.get(SCOPES)
    if kept is not None:
        return tuple(kept)
    return scopes_of(user) if isinstance(user, User) else ()


def opened_by(session: SessionBase) -> str:
    """Return what opened the session, in the audit's words."""
    if TOKEN not in session:
        return "session"
    token_id = session[TOKEN]
    return f"session of {'site.auth_token' if token_id is None else f'token {token_id}'}"


@receiver(user_logged_in)
def _forget(request: HttpRequest, **_: Any) -> None:
    """A login outranks the token that opened this session before, ended or not."""
    if TOKEN in request.session:  # Django keeps the key where the user stays the same
        request.session.cycle_key()
    for key in (TOKEN, ROOT, SCOPES):
        request.session.pop(key, None)
