"""Check of what must not be served to others than this machine."""

from __future__ import annotations

from ipaddress import ip_address
from urllib.parse import urlsplit

from domain.problem import Problem
from drakkar_site.config.tree import SiteConfig

SHIPPED_KEYS = ("development-only", "replace-me", "only-for-a-measurement")
"""Starts of the secret keys in files of ours: everybody can sign sessions with them."""


def has_shipped_key(site: SiteConfig) -> bool:
    """Whether the secret key is one that everybody has."""
    return site.secret_key.startswith(SHIPPED_KEYS)


def exposed_key(site: SiteConfig) -> Problem | None:
    """Return the error of a site for others than this machine whose key everybody has; None if
    well."""
    if not has_shipped_key(site) or is_loopback(site.url):
        return None
    return Problem(
        id="drakkar.E040",
        key="site.secret_key",
        expected=f"one of your own, because people open {site.url}",
        got="one that ships with Drakkar",
        hint="50 or more random characters, from ${NAME} or ${file:/path}; whoever knows the key "
        "signs sessions of any user",
    )


def is_loopback(url: str) -> bool:
    """Whether only this machine can open the address."""
    try:
        host = urlsplit(url).hostname or ""
    except ValueError:
        return False
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
