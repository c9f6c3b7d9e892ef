"""A browser that goes with Django, and the way in: shared by the tests and the screenshots."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page

from integration.browser import chromium

USER = "mara"
PASSWORD = "a-long-password"


@contextmanager
def browser_beside_django() -> Iterator[Browser]:
    """A Chromium; meanwhile the ORM may be used in this thread. Raises LookupError without one."""
    # Playwright runs a loop in this thread, and Django then refuses its ORM without this.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with chromium() as browser:
        yield browser
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def sign_in(page: Page, address: str) -> None:
    """Sign in by the form."""
    page.goto(f"http://{address}/")
    page.fill("input[name=username]", USER)
    page.fill("input[name=password]", PASSWORD)
    page.click("form button")
    page.wait_for_selector("nav", state="attached")
