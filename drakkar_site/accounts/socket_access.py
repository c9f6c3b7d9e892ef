"""Access to sockets: asked when one opens, then for all open ones together."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY, SESSION_KEY
from django.contrib.auth.models import User
from django.contrib.sessions.backends.db import SessionStore
from django.contrib.sessions.models import Session
from django.http import parse_cookie
from django.utils import timezone
from django.utils.crypto import constant_time_compare

from drakkar_site.accounts import sessions, throttle
from drakkar_site.accounts.addresses import address_of_socket
from drakkar_site.accounts.models import Token
from drakkar_site.accounts.roles import scopes_of
from drakkar_site.accounts.tokens import identify, is_root_active, root_fingerprint

Scope = dict[str, Any]
MAX_NAME_LENGTH = 40


@dataclass(frozen=True, slots=True, kw_only=True)
class Key:
    """Key that opened a socket: a session, a token by its number, or ``site.auth_token``.

    One of the three is set.
    """

    session: str = ""
    token: int | None = None
    root: str = ""


def key_of(scope: Scope) -> Key | None:
    """Return the key of a socket; None without one. A bad token counts against its address.

    A socket that names neither session nor token is refused without asking the database.
    """
    if secret := secret_of(scope):
        return _by_token(scope, secret)
    cookies = parse_cookie(headers_of(scope).get(b"cookie", b"").decode("latin-1"))
    name = cookies.get(settings.SESSION_COOKIE_NAME, "")
    key = Key(session=name)
    return key if _is_session_name(name) and key in still_open([key]) else None


def _is_session_name(text: str) -> bool:
    return text.isascii() and text.isalnum() and len(text) <= MAX_NAME_LENGTH


def _by_token(scope: Scope, secret: str) -> Key | None:
    identity = identify(secret)
    if identity is None:
        address = address_of_socket(scope)
        if not throttle.wait_seconds(address):
            throttle.note_failure(address)
        return None
    if "read" not in identity.scopes:
        return None
    number = identity.token_id
    return Key(root=root_fingerprint()) if number is None else Key(token=number)


def still_open(keys: Collection[Key]) -> set[Key]:
    """Those of the keys that may look on, in five queries however many they are."""
    found = _sessions({key.session for key in keys if key.session})
    named = [key.token for key in keys] + [each.get(sessions.TOKEN) for each in found.values()]
    tokens = _valid_tokens({number for number in named if number is not None})
    has_root = bool(root_fingerprint()) and is_root_active()
    users = _users(found)
    return {
        key
        for key in keys
        if (key.root and has_root and constant_time_compare(key.root, root_fingerprint()))
        or "read" in tokens.get(key.token, ())
        or (key.session in found and _may_read(found[key.session], users, tokens, has_root))
    }


def _sessions(names: set[str]) -> dict[str, Any]:
    rows = Session.objects.filter(session_key__in=names, expire_date__gt=timezone.now())
    store = SessionStore()
    return {row.session_key: store.decode(row.session_data) for row in rows} if names else {}


def _valid_tokens(numbers: Collection[int]) -> dict[int | None, list[str]]:
    now = timezone.now()
    rows = Token.objects.select_related("user").filter(pk__in=numbers) if numbers else ()
    return {row.pk: row.scopes for row in rows if row.is_valid(now) and row.user.is_active}


def _users(found: dict[str, Any]) -> dict[str, User]:
    numbers = {store[SESSION_KEY] for store in found.values() if SESSION_KEY in store}
    rows = User.objects.filter(pk__in=numbers, is_active=True).prefetch_related("groups")
    return {str(user.pk): user for user in rows} if numbers else {}


def _may_read(
    store: dict[str, Any],
    users: dict[str, User],
    tokens: dict[int | None, list[str]],
    has_root: bool,
) -> bool:
    """As the pages judge a session: its user, its password's mark, its token, its scopes."""
    user = users.get(str(store.get(SESSION_KEY)))
    if user is None:
        return False
    mark = store.get(HASH_SESSION_KEY, "")
    if not constant_time_compare(mark, user.get_session_auth_hash()):
        return False
    if sessions.TOKEN in store:
        number = store[sessions.TOKEN]
        if number is None:
            is_same = constant_time_compare(store.get(sessions.ROOT, ""), root_fingerprint())
            if not (has_root and is_same):
                return False
        elif number not in tokens:
            return False
    kept = store.get(sessions.SCOPES)
    return "read" in (kept if kept is not None else scopes_of(user))


def secret_of(scope: Scope) -> str:
    """Return the token of the query or of the header; empty without one."""
    query = parse_qs(str(scope["query_string"].decode("latin-1")))
    if query.get("token"):
        return str(query["token"][0])
    header = headers_of(scope).get(b"authorization", b"").decode("latin-1")
    kind, _, value = header.partition(" ")
    return value.strip() if kind.lower() == "bearer" else ""


def headers_of(scope: Scope) -> dict[bytes, bytes]:
    """Return the headers by their names in small letters; of a repeated one the last."""
    return dict(scope["headers"])
