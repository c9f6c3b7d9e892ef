"""Times from outside: as people write them, and as numbers that may be anything."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime, timedelta
from typing import Any

from django.utils.dateparse import parse_datetime

from domain.age import age_seconds

EXPECTED = "a time like 2026-03-14T03:10 (UTC unless it says) or an age like 90m, 2h, 7d"


def moment_of(text: str, now: datetime) -> datetime | None:
    """A time like 2026-03-14T03:10, UTC unless it says, or an age before ``now`` like 90m (``s``,
    ``m``, ``h``, ``d``); None where it is neither."""
    if (age := age_seconds(text)) is not None:
        return now - timedelta(seconds=age)
    try:
        found = parse_datetime(text)
        if found is None or found.tzinfo is None:
            return found and found.replace(tzinfo=UTC)
        return found.astimezone(UTC)
    except (ValueError, OverflowError):  # a zone may lead out of the years that there are
        return None


def utc_at(seconds: Any) -> datetime | None:
    """Return the time of so many seconds since 1970 in UTC; None for what is no time, or beyond the
    years 1 to 9999."""
    try:
        return datetime.fromtimestamp(float(seconds), UTC)
    except (TypeError, ValueError, OverflowError, OSError):
        return None


def shifted(at: datetime, ms: Any) -> datetime:
    """Return the time so many milliseconds later; the same where that is no number, or leads out of
    the years that there are."""
    try:
        return at + timedelta(milliseconds=float(ms or 0.0))
    except (TypeError, ValueError, OverflowError):
        return at


def utc_argument(text: str) -> datetime:
    """Read a time or an age as argparse's ``type``. Raises ArgumentTypeError."""
    found = moment_of(text, datetime.now(UTC))
    if found is None:
        raise ArgumentTypeError(f"expected {EXPECTED}, got {text[:40]}")
    return found
