"""At most five failed logins or tokens a minute from one address, over all web processes."""

from __future__ import annotations

import ipaddress
import math
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.utils import timezone

from drakkar_site.accounts.models import FailedAccess

LIMIT = 5
WINDOW_SECONDS = 60
LOCK = "SELECT pg_advisory_xact_lock(hashtext('drakkar.throttle'), hashtext(%s))"


def note_failure(address: str, now: datetime | None = None) -> int:
    """Count one failed attempt; what no window holds any more is deleted with it. Its number."""
    now = now or timezone.now()
    FailedAccess.objects.filter(at__lt=now - timedelta(seconds=WINDOW_SECONDS)).delete()
    return FailedAccess.objects.create(address=_counted(address), at=now).pk


def wait_seconds(address: str, now: datetime | None = None) -> int:
    """Seconds until this address may try again; 0: now."""
    now = now or timezone.now()
    since = now - timedelta(seconds=WINDOW_SECONDS)
    failures = FailedAccess.objects.filter(address=_counted(address), at__gt=since)
    latest = list(failures.order_by("-at").values_list("at", flat=True)[:LIMIT])
    return math.ceil((latest[-1] - since).total_seconds()) if len(latest) == LIMIT else 0


@dataclass(frozen=True, slots=True)
class Attempt:
    """A login that is tried, or has to wait; ``number`` is what ``forgive`` takes."""

    number: int | None
    wait_seconds: int


def begin(address: str) -> Attempt:
    """Count an attempt before its slow check: those that come meanwhile have to see it."""
    with transaction.atomic(), connection.cursor() as cursor:
        cursor.execute(LOCK, [_counted(address)])
        seconds = wait_seconds(address)
        return Attempt(None if seconds else note_failure(address), seconds)


def forgive(number: int | None) -> None:
    """Take an attempt back that did not fail; None: there was none."""
    if number is not None:
        FailedAccess.objects.filter(pk=number).delete()


def _counted(address: str) -> str:
    """Return what counts as one address: of IPv6 the /64, all of which anybody has."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if isinstance(known, ipaddress.IPv4Address):
        return address
    mapped = known.ipv4_mapped
    return str(mapped or ipaddress.IPv6Network((int(known), 64), strict=False))
