"""At most five failed logins or tokens a minute from one address."""

from __future__ import annotations

import time

from django.core.cache import cache

LIMIT = 5
WINDOW_SECONDS = 60


def _key(address: str, now: float) -> str:
    return f"failed-access:{address}:{int(now // WINDOW_SECONDS)}"


def note_failure(address: str, now: float | None = None) -> None:
    """Count one failed attempt."""
    key = _key(address, time.time() if now is None else now)
    cache.add(key, 0, WINDOW_SECONDS)
    cache.incr(key)


def wait_seconds(address: str, now: float | None = None) -> int:
    """Seconds until this address may try again; 0: now."""
    now = time.time() if now is None else now
    if cache.get(_key(address, now), 0) < LIMIT:
        return 0
    return WINDOW_SECONDS - int(now % WINDOW_SECONDS)
