"""A browser, and the way in: shared by the tests and the screenshots."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, Page, sync_playwright

ARGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome")
USER = "mara"
PASSWORD = "a-long-password"


@contextmanager
def chromium() -> Iterator[Browser]:
    """The installed Chromium, headless. Raises LookupError where there is none."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    if found is None:
        raise LookupError(f"none of {', '.join(NAMES)} found (Debian: chromium)")
    # Playwright runs a loop in this thread, and Django then refuses its ORM without this.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


def sign_in(page: Page, address: str) -> None:
    """Sign in by the form."""
    page.goto(f"http://{address}/")
    page.fill("input[name=username]", USER)
    page.fill("input[name=password]", PASSWORD)
    page.click("form button")
    page.wait_for_selector("nav", state="attached")
