"""A page whose server cannot reach Postgres: no old figure looks live, and it heals by itself."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.db import connection
from django.utils import timezone
from playwright.sync_api import Page

from recorder.models import RunState
from tests.browser.conftest import Reader
from tests.browser.sample import fleet
from tests.browser.stage import PASSWORD, USER
from tests.support.proxy import Pass, Proxy, Stall
from tests.support.site import Site, running_site

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]
WAIT_SECONDS, BEAT_MS = 60.0, 500


@pytest.fixture
def proxy(transactional_db: None) -> Iterator[Proxy]:
    at = connection.settings_dict
    with Proxy(at["HOST"], int(at["PORT"])) as found:
        yield found


@pytest.fixture
def site(proxy: Proxy, tmp_path: Path) -> Iterator[Site]:
    """A site that reaches its database by the proxy only."""
    User.objects.create_superuser(USER, password=PASSWORD)
    fleet(seconds=10)
    with running_site(tmp_path, proxy.port) as running:
        yield running


def beat() -> None:
    """The fleet works on; ahead of the clock, so that only the page's own age counts."""
    RunState.objects.filter(state="ready").update(beat_at=timezone.now() + timedelta(hours=1))


def until(page: Page, is_so: Callable[[], bool]) -> None:
    """Beat until something is so."""
    deadline = time.monotonic() + WAIT_SECONDS
    while not is_so():
        assert time.monotonic() < deadline
        beat()
        page.wait_for_timeout(BEAT_MS)


def test_a_stopped_postgres_is_seen_and_forgotten(reader: Reader, proxy: Proxy) -> None:
    page = reader.page
    fresh, stale = (page.locator(f"main .age[data-fresh={word}]") for word in ("fresh", "stale"))
    until(page, lambda: fresh.count() > 0 and stale.count() == 0)
    proxy.set(Stall())
    until(page, lambda: fresh.count() == 0 and stale.count() > 0)
    proxy.set(Pass())
    until(page, lambda: fresh.count() > 0 and stale.count() == 0)
