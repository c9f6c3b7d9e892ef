"""Network addresses that a sink may connect to. Pure: what a name resolves to is passed in."""

from __future__ import annotations

import ipaddress

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

METADATA = frozenset(
    ipaddress.ip_address(text)
    for text in (
        "100.100.100.200",  # Alibaba Cloud
        "168.63.129.16",  # Azure's wire server
        "192.0.0.192",  # Oracle Cloud
        "fd00:ec2::254",  # AWS
        "fd20:ce::254",  # Google Cloud
    )
)
"""Metadata services outside 169.254.0.0/16, which is link-local as a whole."""

NAT64 = ipaddress.ip_network("64:ff9b::/96")


def refusal(text: str, *, allow_private: bool) -> str | None:
    """Why this resolved address may not be connected to, None when it may.

    Metadata, link-local, multicast, reserved and unspecified addresses never may; private and
    loopback ones where ``allow_private``. An IPv4 address inside an IPv6 one is judged itself.
    """
    address = _inner(ipaddress.ip_address(text.partition("%")[0]))
    if address in METADATA:
        return f"{text} is a metadata service"
    if address.is_link_local:
        return f"{text} is a link-local address"
    if address.is_multicast or address.is_unspecified or _is_reserved(address):
        return f"{text} is a multicast, reserved or unspecified address"
    if not allow_private and not address.is_global:
        return f"{text} is a private address; allow_private permits it"
    return None


def _is_reserved(address: Address) -> bool:
    """::1 counts as reserved in the standard library, and as loopback here."""
    return address.is_reserved and not address.is_loopback


def _inner(address: Address) -> Address:
    if isinstance(address, ipaddress.IPv4Address):
        return address
    if address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    return address.ipv4_mapped or address.sixtofour or address
