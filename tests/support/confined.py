"""``python -m tests.support.confined ARGV...``: a program that may not make namespaces.

Refused are, of what a container's profile RuntimeDefault refuses a process without CAP_SYS_ADMIN,
the calls that make or enter namespaces, or mount. Standard library only.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import sys

_CALLS = {
    "x86_64": (0xC000003E, 56, (165, 166, 272, 308)),
    "aarch64": (0xC00000B7, 220, (40, 39, 97, 268)),
}
"""The architecture, and the numbers of clone, and of mount, umount2, unshare and setns."""

_CLONE3 = 435

_NAMESPACES = 0x7E020000
_PR_SET_NO_NEW_PRIVS, _PR_SET_SECCOMP, _FILTER = 38, 22, 2
_LOAD, _EQUALS, _HAS_BIT, _RETURN = 0x20, 0x15, 0x45, 0x06
_NUMBER, _ARCHITECTURE, _FIRST_ARGUMENT = 0, 4, 16
_ALLOW, _ERRNO = 0x7FFF0000, 0x00050000


class _Step(ctypes.Structure):
    _fields_ = (
        ("code", ctypes.c_ushort),
        ("if_true", ctypes.c_ubyte),
        ("if_false", ctypes.c_ubyte),
        ("value", ctypes.c_uint),
    )


class _Program(ctypes.Structure):
    _fields_ = (("length", ctypes.c_ushort), ("steps", ctypes.POINTER(_Step)))


def missing() -> str | None:
    """Why the filter cannot be made here; None when it can."""
    known = platform.machine() in _CALLS and sys.platform == "linux"
    return None if known else f"numbers of system calls of {platform.machine()} are not known"


def _filter() -> list[tuple[int, int, int, int]]:
    architecture, clone, refused = _CALLS[platform.machine()]
    refuse = (_RETURN, 0, 0, _ERRNO | errno.EPERM)
    steps = [
        (_LOAD, 0, 0, _ARCHITECTURE), (_EQUALS, 1, 0, architecture), (_RETURN, 0, 0, _ALLOW),
        (_LOAD, 0, 0, _NUMBER),
    ]  # fmt: skip
    for number in refused:
        steps += [(_EQUALS, 0, 1, number), refuse]
    # As the profiles do: a caller takes clone, whose flags a filter can read, in its place.
    steps += [(_EQUALS, 0, 1, _CLONE3), (_RETURN, 0, 0, _ERRNO | errno.ENOSYS)]
    steps += [(_EQUALS, 0, 3, clone), (_LOAD, 0, 0, _FIRST_ARGUMENT)]
    steps += [(_HAS_BIT, 0, 1, _NAMESPACES), refuse, (_RETURN, 0, 0, _ALLOW)]
    return steps


def confine() -> None:
    """Refuse these calls to this process and all that it starts. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    steps = [_Step(*step) for step in _filter()]
    program = _Program(len(steps), (_Step * len(steps))(*steps))
    for call in (
        (_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0),
        (_PR_SET_SECCOMP, _FILTER, ctypes.byref(program), 0, 0),
    ):
        if libc.prctl(*call) != 0:
            raise OSError(ctypes.get_errno(), f"prctl({call[0]})")


if __name__ == "__main__":
    confine()
    os.execvp(sys.argv[1], sys.argv[1:])
