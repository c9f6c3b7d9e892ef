"""Issue tokens and tell who a secret is."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.conf import settings
from django.contrib.auth.models import User
from django.utils import timezone
from django.utils.crypto import salted_hmac

from drakkar_site.accounts.models import SCOPES, Token

TOKEN_BYTES = 32
PREFIX_LENGTH = 8
LAST_USE_PRECISION = timedelta(minutes=1)
ROOT_TOKEN_USER = "token"


@dataclass(frozen=True, slots=True)
class Identity:
    """Identity that a secret acts as; ``token_id`` is None for ``site.auth_token``."""

    user: User
    scopes: tuple[str, ...]
    token_id: int | None


class AlreadyIssued(Exception):
    """Raised for a key that has its token already, whose secret is known to nobody here."""

    def __init__(self, token: Token) -> None:
        super().__init__(f"this form issued {token.prefix}… of {token.user} before")


def digest_of(secret: str) -> str:
    """SHA-256 of a secret, in hex."""
    return hashlib.sha256(secret.encode()).hexdigest()


def issue(
    user: User, scopes: Sequence[str], expires_at: datetime | None, key: str = ""
) -> tuple[Token, str]:
    """A new token and its secret, which cannot be had again.

    Raises AlreadyIssued for a ``key`` that was used before; without one each call issues another.
    """
    secret = secrets.token_urlsafe(TOKEN_BYTES)
    new = {
        "user": user,
        "prefix": secret[:PREFIX_LENGTH],
        "digest": digest_of(secret),
        "scopes": list(scopes),
        "expires_at": expires_at,
    }
    if not key:
        return Token.objects.create(**new), secret
    token, is_new = Token.objects.get_or_create(key=key, defaults=new)
    if not is_new:
        raise AlreadyIssued(token)
    return token, secret


def identify(secret: str) -> Identity | None:
    """Return whom a secret acts as; None if unknown, expired, revoked or of an inactive user."""
    if _is_root(secret):
        root = _root_user()
        return Identity(root, SCOPES, None) if root.is_active else None
    now = timezone.now()
    token = Token.objects.select_related("user").filter(digest=digest_of(secret)).first()
    if token is None or not token.is_valid(now) or not token.user.is_active:
        return None
    if token.last_used_at is None or now - token.last_used_at > LAST_USE_PRECISION:
        Token.objects.filter(pk=token.pk).update(last_used_at=now)
    return Identity(token.user, tuple(token.scopes), token.pk)


def is_still_valid(token_id: int) -> bool:
    """Whether a token that was identified before still opens anything."""
    token = Token.objects.select_related("user").filter(pk=token_id).first()
    return token is not None and token.is_valid(timezone.now()) and token.user.is_active


def root_fingerprint() -> str:
    """Tells one ``site.auth_token`` from the next without revealing it; empty without one."""
    root = settings.DRAKKAR_STATE.site.auth_token
    return salted_hmac("drakkar.root_token", root, algorithm="sha256").hexdigest() if root else ""


def is_root_active() -> bool:
    """Whether the user that ``site.auth_token`` acts as is active."""
    return _root_user().is_active


def _is_root(secret: str) -> bool:
    root = settings.DRAKKAR_STATE.site.auth_token
    return bool(root) and hmac.compare_digest(root.encode(), secret.encode())


def _root_user() -> User:
    name = settings.DRAKKAR_STATE.site.admin_user or ROOT_TOKEN_USER
    user, is_new = User.objects.get_or_create(
        username=name, defaults={"is_staff": True, "is_superuser": True}
    )
    if is_new:
        user.set_unusable_password()
        user.save(update_fields=["password"])
    return user
