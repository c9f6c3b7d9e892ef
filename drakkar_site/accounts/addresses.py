"""Whose request it is, where proxies stand before the site.

``site.trusted_proxies`` names the networks of proxies whose ``X-Forwarded-For`` counts. Each proxy
appends the address it was asked from, so the list is read from its end: the first address that is
no trusted proxy's is the client's, and what stands before it is only what that client wrote.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from typing import Any

from django.conf import settings
from django.http import HttpRequest, HttpResponse

Address = IPv4Address | IPv6Address
UNKNOWN = "unknown"
MAX_HOPS = 20
PROTO = "HTTP_X_FORWARDED_PROTO"


def address_of(request: HttpRequest) -> str:
    """Return the client's address; the peer's where it is no trusted proxy."""
    peer = str(request.META.get("REMOTE_ADDR") or UNKNOWN)
    return client_of(peer, request.META.get("HTTP_X_FORWARDED_FOR", ""), _trusted())


def address_of_socket(scope: dict[str, Any]) -> str:
    """Return the address of the client of an ASGI scope."""
    named = b",".join(value for name, value in scope["headers"] if name == b"x-forwarded-for")
    peer = str((scope.get("client") or [UNKNOWN])[0])
    return client_of(peer, named.decode("latin-1"), _trusted())


def client_of(peer: str, forwarded_for: str, trusted: Sequence[str]) -> str:
    """Return the last address of the way from the client to us that is no trusted proxy's.

    What cannot be read as an address ends the way: the proxy that wrote it down is taken then.
    """
    at = _address(peer)
    if at is None or not is_in(at, trusted):
        return peer
    for hop in reversed(forwarded_for.split(",")[-MAX_HOPS:]):
        named = _address(_without_port(hop.strip()))
        if named is None:
            break
        at = named
        if not is_in(at, trusted):
            break
    return str(at)


def is_in(address: Address, networks: Sequence[str]) -> bool:
    """Whether one of the networks holds the address."""
    return any(address in network for network in _networks(tuple(networks)))


class TrustProxies:
    """Middleware that leaves ``X-Forwarded-Proto`` to trusted proxies.

    Without any named it counts whoever sends it, as it always did: it matters only for a site
    whose ``public_url`` is https, and to the one who sends it.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer the request without what its sender may not say."""
        trusted, peer = _trusted(), _address(str(request.META.get("REMOTE_ADDR") or ""))
        if trusted and not (peer is not None and is_in(peer, trusted)):
            request.META.pop(PROTO, None)
        return self._get_response(request)


def _trusted() -> Sequence[str]:
    found: Sequence[str] = settings.DRAKKAR_STATE.site.trusted_proxies
    return found


@lru_cache(maxsize=16)
def _networks(texts: tuple[str, ...]) -> tuple[IPv4Network | IPv6Network, ...]:
    return tuple(ip_network(text, strict=False) for text in texts)


def _address(text: str) -> Address | None:
    """An address; of an IPv4 one that is written as IPv6, the IPv4 one."""
    try:
        found = ip_address(text)
    except ValueError:
        return None
    mapped = found.ipv4_mapped if isinstance(found, IPv6Address) else None
    return mapped or found


def _without_port(hop: str) -> str:
    """``1.2.3.4:5`` and ``[::1]:5`` are written by some proxies."""
    if hop.startswith("["):
        return hop[1:].partition("]")[0]
    return hop.partition(":")[0] if hop.count(":") == 1 else hop
