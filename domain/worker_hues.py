"""Colour of a worker: one of twelve, by its name alone, and another where two in view would share.

``static/drakkar/worker_hues.js`` gives the same answers; a test holds both to it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable
from functools import lru_cache

HUES = 12
STEP = 5
"""Between a worker's choices; it has no divisor in common with ``HUES``, so all come by."""
_FNV_BASIS, _FNV_PRIME, _MASK = 0x811C9DC5, 0x01000193, 0xFFFFFFFF
Name = tuple[str, str]
"""Cluster and worker."""


def first_hue(name: Name) -> int:
    """Return the colour that a worker has where nobody in view has the same: 1 to 12."""
    return _hash(name) % HUES + 1


def hues(names: Iterable[Name]) -> dict[Name, int]:
    """Return the colour of each worker in view: of up to twelve, all are different.

    In the order of their hashes each takes its first choice, or the next one that fewest have.
    """
    return dict(_hues(tuple(sorted(set(names)))))


@lru_cache(64)
def _hues(names: Collection[Name]) -> tuple[tuple[Name, int], ...]:
    taken: Counter[int] = Counter()
    found = []
    for name in sorted(names, key=lambda name: (_hash(name), "/".join(name))):
        first = _hash(name)
        choices = [(first + STEP * turn) % HUES + 1 for turn in range(HUES)]
        chosen = min(choices, key=lambda hue: taken[hue])
        taken[chosen] += 1
        found.append((name, chosen))
    return tuple(found)


def _hash(name: Name) -> int:
    """FNV-1a, 32 bits, of the name's UTF-8."""
    value = _FNV_BASIS
    for byte in "/".join(name).encode(errors="replace"):
        value = (value ^ byte) * _FNV_PRIME & _MASK
    return value
