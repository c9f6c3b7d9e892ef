"""A time as people write it."""

from __future__ import annotations

from argparse import ArgumentTypeError
from datetime import UTC, datetime

from django.utils.dateparse import parse_datetime


def moment_of(text: str) -> datetime | None:
    """A time like 2026-03-14T03:10, UTC unless it says; None where it is none."""
    try:
        found = parse_datetime(text)
        if found is None or found.tzinfo is None:
            return found and found.replace(tzinfo=UTC)
        return found.astimezone(UTC)
    except (ValueError, OverflowError):  # a zone may lead out of the years that there are
        return None


def utc_argument(text: str) -> datetime:
    """The same for argparse's ``type``. Raises ArgumentTypeError."""
    found = moment_of(text)
    if found is None:
        raise ArgumentTypeError(f"expected a time like 2026-03-14T03:10, got {text}")
    return found
