"""Whose request it is behind proxies."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from django.http import HttpResponse
from django.test import RequestFactory
from hypothesis import given
from hypothesis import strategies as st
from pytest_django import Settings

from drakkar_site.accounts.addresses import (
    TrustProxies,
    address_of,
    address_of_socket,
    client_of,
)

PROXIES = ("10.0.0.0/8", "fd00::/8", "127.0.0.1")


@pytest.mark.parametrize(
    ("peer", "forwarded", "client"),
    [
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),  # a stranger names nobody
        ("10.0.0.1", "", "10.0.0.1"),
        ("10.0.0.1", "198.51.100.1", "198.51.100.1"),
        ("10.0.0.1", "1.1.1.1, 198.51.100.1", "198.51.100.1"),  # the first one is made up
        ("10.0.0.1", "1.1.1.1, 198.51.100.1, 10.0.0.7", "198.51.100.1"),
        ("10.0.0.1", "10.0.0.3, 10.0.0.2", "10.0.0.3"),
        ("10.0.0.1", "198.51.100.1, nonsense, 10.0.0.2", "10.0.0.2"),
        ("10.0.0.1", "198.51.100.1:4711", "198.51.100.1"),
        ("10.0.0.1", "[2001:db8::1]:4711", "2001:db8::1"),
        ("10.0.0.1", "2001:db8::1", "2001:db8::1"),
        ("::ffff:10.0.0.1", "::ffff:198.51.100.1", "198.51.100.1"),
        ("unknown", "198.51.100.1", "unknown"),
        ("10.0.0.1", "unix:", "10.0.0.1"),
    ],
)
def test_the_client_is_the_last_who_is_no_proxy(peer: str, forwarded: str, client: str) -> None:
    assert client_of(peer, forwarded, PROXIES) == client


def test_without_proxies_nobody_names_another() -> None:
    assert client_of("127.0.0.1", "198.51.100.1", ()) == "127.0.0.1"


@given(forwarded=st.text(max_size=200))
def test_no_header_breaks_it_or_moves_a_stranger(forwarded: str) -> None:
    assert client_of("203.0.113.9", forwarded, PROXIES) == "203.0.113.9"
    assert client_of("10.0.0.1", f"{forwarded}, 198.51.100.1", PROXIES) == "198.51.100.1"
    assert client_of("10.0.0.1", forwarded, PROXIES)


def behind(settings: Settings, *proxies: str) -> None:
    site = settings.DRAKKAR_STATE.site.model_copy(update={"trusted_proxies": proxies})
    settings.DRAKKAR_STATE = replace(settings.DRAKKAR_STATE, site=site)


def test_requests_and_sockets_are_judged_alike(settings: Settings) -> None:
    behind(settings, "10.0.0.0/8")
    request = RequestFactory().get(
        "/", REMOTE_ADDR="10.0.0.1", HTTP_X_FORWARDED_FOR="1.1.1.1, 198.51.100.1"
    )
    scope: dict[str, Any] = {
        "client": ["10.0.0.1", 4711],
        "headers": [(b"x-forwarded-for", b"1.1.1.1"), (b"x-forwarded-for", b"198.51.100.1")],
    }
    assert address_of(request) == address_of_socket(scope) == "198.51.100.1"
    assert address_of_socket({"client": None, "headers": []}) == "unknown"


@pytest.mark.parametrize(
    ("proxies", "peer", "is_secure"),
    [
        ((), "203.0.113.9", True),
        (("10.0.0.0/8",), "203.0.113.9", False),
        (("10.0.0.0/8",), "10.0.0.1", True),
    ],
)
def test_the_scheme_counts_from_proxies_only(
    settings: Settings, proxies: tuple[str, ...], peer: str, is_secure: bool
) -> None:
    behind(settings, *proxies)
    settings.SECURE_PROXY_SSL_HEADER = ("HTTP_X_FORWARDED_PROTO", "https")
    answer = TrustProxies(lambda request: HttpResponse(str(request.is_secure())))
    request = RequestFactory().get("/", REMOTE_ADDR=peer, HTTP_X_FORWARDED_PROTO="https")
    assert answer(request).content.decode() == str(is_secure)
