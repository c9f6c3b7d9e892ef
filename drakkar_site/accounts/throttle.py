"""At most five failed logins or tokens a minute from one address, over all web processes."""

from __future__ import annotations

import math
from datetime import datetime, timedelta

from django.http import HttpRequest
from django.utils import timezone

from drakkar_site.accounts.models import FailedAccess

LIMIT = 5
WINDOW_SECONDS = 60


def address_of(request: HttpRequest) -> str:
    """The peer's address. Proxies are not trusted to name another."""
    return str(request.META.get("REMOTE_ADDR") or "unknown")


def note_failure(address: str, now: datetime | None = None) -> None:
    """Count one failed attempt; what no window holds any more is deleted with it."""
    now = now or timezone.now()
    FailedAccess.objects.filter(at__lt=now - timedelta(seconds=WINDOW_SECONDS)).delete()
    FailedAccess.objects.create(address=address[:64], at=now)


def wait_seconds(address: str, now: datetime | None = None) -> int:
    """Seconds until this address may try again; 0: now."""
    now = now or timezone.now()
    since = now - timedelta(seconds=WINDOW_SECONDS)
    failures = FailedAccess.objects.filter(address=address[:64], at__gt=since)
    latest = list(failures.order_by("-at").values_list("at", flat=True)[:LIMIT])
    return math.ceil((latest[-1] - since).total_seconds()) if len(latest) == LIMIT else 0
