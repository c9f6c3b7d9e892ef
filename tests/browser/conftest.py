"""A site with a fleet, and a real Chromium that looks at it."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import Browser, Page, sync_playwright

from tests.browser.sample import fleet
from tests.support.services import require
from tests.support.site import Site, running_site

ARGS = (
    "--no-sandbox --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
).split()
NAMES = ("chromium", "chromium-browser", "google-chrome")
PASSWORD = "a-long-password"


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The installed Chromium, headless."""
    require("chromium")
    found = next(path for name in NAMES if (path := shutil.which(name)))
    # Playwright runs a loop in this thread, and Django then refuses its ORM without this.
    os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"] = "1"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=ARGS)
        yield browser
        browser.close()
    del os.environ["DJANGO_ALLOW_ASYNC_UNSAFE"]


@pytest.fixture
def site(transactional_db: None, tmp_path: Path) -> Iterator[Site]:
    """A site with a fleet, and mara, who may operate it."""
    User.objects.create_superuser("mara", password=PASSWORD)
    fleet()
    with running_site(tmp_path) as running:
        yield running


@dataclass
class Reader:
    """Somebody at a browser; ``complaints`` are console errors, script errors, CSP reports."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Open a page of the site."""
        self.page.goto(f"http://{self.site.address}{path}")

    def sign_in(self) -> None:
        """Sign in by the form."""
        self.open("/")
        self.page.fill("input[name=username]", "mara")
        self.page.fill("input[name=password]", PASSWORD)
        self.page.click("form button")
        self.page.wait_for_selector("nav")


@pytest.fixture
def reader(chromium: Browser, site: Site) -> Iterator[Reader]:
    """A signed-in reader; the test fails if the browser had anything to complain about."""
    context = chromium.new_context(viewport={"width": 1280, "height": 900})
    found = Reader(context.new_page(), site)
    found.page.on(
        "console", lambda said: found.complaints.append(said.text) if said.type == "error" else None
    )
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    context.add_init_script(
        "addEventListener('securitypolicyviolation',"
        " (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`));"
    )
    found.sign_in()
    yield found
    context.close()
    assert found.complaints == []
