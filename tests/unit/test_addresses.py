"""Which addresses the http sink may connect to."""

from __future__ import annotations

import pytest

from sinks.addresses import refusal

NEVER = """
169.254.169.254 169.254.0.1 ::ffff:169.254.169.254 64:ff9b::a9fe:a9fe 2002:a9fe:a9fe:: fe80::1
fe80::1%eth0 100.100.100.200 168.63.129.16 192.0.0.192 fd00:ec2::254 fd20:ce::254 0.0.0.0 ::
224.0.0.1 ff02::1 255.255.255.255 240.0.0.1
""".split()
PRIVATE = """
127.0.0.1 127.8.8.8 ::1 ::ffff:127.0.0.1 10.0.0.1 172.16.0.1 192.168.1.1 100.64.0.1 fd12::1
64:ff9b::7f00:1
""".split()
PUBLIC = ["93.184.215.14", "1.1.1.1", "2606:4700:4700::1111", "::ffff:1.1.1.1"]


@pytest.mark.parametrize("address", NEVER)
@pytest.mark.parametrize("allow_private", [True, False])
def test_some_addresses_are_always_refused(address: str, allow_private: bool) -> None:
    assert address in (refusal(address, allow_private=allow_private) or "")


@pytest.mark.parametrize("address", PRIVATE)
def test_private_addresses_need_permission(address: str) -> None:
    assert "allow_private permits it" in (refusal(address, allow_private=False) or "")
    assert refusal(address, allow_private=True) is None


@pytest.mark.parametrize("address", PUBLIC)
def test_public_addresses_are_free(address: str) -> None:
    assert refusal(address, allow_private=False) is None
