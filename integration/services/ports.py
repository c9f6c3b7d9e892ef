"""Ports on the loopback interface."""

from __future__ import annotations

import errno
import socket
import sys

LOOPBACK = "127.0.0.1"
_RESERVED: set[int] = set()
"""Ports that this process holds until it ends."""


def is_free(port: int) -> bool:
    """Whether a server could listen on this loopback port now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((LOOPBACK, port))
        except OSError:
            return False
        return not is_open(port)


def is_open(port: int) -> bool:
    """Whether something accepts connections on this loopback port."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        return probe.connect_ex((LOOPBACK, port)) == 0


def free_ports(count: int) -> list[int]:
    """``count`` different free ports, chosen by the kernel."""
    held = [socket.socket(socket.AF_INET, socket.SOCK_STREAM) for _ in range(count)]
    try:
        for one in held:
            one.bind((LOOPBACK, 0))
        return [int(one.getsockname()[1]) for one in held]
    finally:
        for one in held:
            one.close()


def free_port() -> int:
    """One free port, chosen by the kernel."""
    return free_ports(1)[0]


def reserve(port: int) -> bool:
    """Whether this port is this process's to give to a server, until this process ends.

    Between launchers that use this function, on Linux: an abstract socket has its name for one
    process at a time, needs no file, and goes with the process however that ends.
    """
    if port in _RESERVED:
        return False
    held = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        if sys.platform == "linux":
            held.bind(f"\0drakkar-port-{port}")
    except OSError as exc:
        held.close()
        if exc.errno != errno.EADDRINUSE:
            raise
        return False
    if not is_free(port):
        held.close()
        return False
    _RESERVED.add(port)
    held.detach()  # nobody closes it but the end of the process
    return True


def prefer(port: int) -> int:
    """``port`` where it is free, else a free one; reserved until this process ends."""
    while not reserve(port):
        port = free_port()
    return port
