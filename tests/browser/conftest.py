"""A site with a fleet, and a real Chromium that looks at it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from django.contrib.auth.models import User
from django.db import connection
from playwright.sync_api import Browser, Page

from tests.browser.sample import TOPIC, fleet
from tests.browser.stage import PASSWORD, USER, browser_beside_django, sign_in
from tests.support.proxy import Pass, Proxy
from tests.support.services import require
from tests.support.site import Mould, Site, mould


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """The installed Chromium, headless; no longer than the package: its driver keeps a loop
    running, and other tests need to start loops of their own."""
    require("chromium")
    with browser_beside_django() as found:
        yield found


@pytest.fixture(scope="package")
def proxy(django_db_setup: None) -> Iterator[Proxy]:
    """Stands between the sites and their PostgreSQL."""
    at = connection.settings_dict
    with Proxy(at["HOST"], int(at["PORT"])) as made:
        yield made


@pytest.fixture
def database(proxy: Proxy) -> Iterator[Proxy]:
    """What stands between the site and its PostgreSQL; it passes all to begin with."""
    yield proxy
    proxy.set(Pass())


@pytest.fixture(scope="package")
def exports(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the sites' exports lie."""
    return tmp_path_factory.mktemp("exports")


@pytest.fixture(scope="package")
def site_mould(
    proxy: Proxy, exports: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Mould]:
    """Has imported the site."""
    folder = tmp_path_factory.mktemp("mould")
    environment = {
        "DRAKKAR_SITE__EXPORT_DIR": str(exports),
        "DRAKKAR_CLUSTERS__MAIN__KAFKA__TOPIC": TOPIC,
        "DRAKKAR_SITE__NOTIFY__RECEIVERS__NIGHT__APPRISE_URL": "json://127.0.0.1:9/night",
    }
    with mould(folder, proxy.address, **environment) as made:
        yield made


@pytest.fixture
def site(
    transactional_db: None, tmp_path: Path, site_mould: Mould, database: Proxy
) -> Iterator[Site]:
    """A site with a fleet, and mara, who may operate it."""
    User.objects.create_superuser(USER, password=PASSWORD)
    fleet()
    with site_mould.site(tmp_path) as running:
        yield running


@dataclass
class Reader:
    """Somebody at a browser; ``complaints`` are console errors, script errors, CSP reports, and
    requests that would leave the site (they get nowhere)."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)

    def open(self, path: str) -> None:
        """Open a page of the site."""
        self.page.goto(f"http://{self.site.address}{path}")

    def sign_in(self) -> None:
        """Sign in by the form."""
        sign_in(self.page, self.site.address)


def _elsewhere(url: str, site: Site) -> list[str]:
    """The complaint about a request that would leave the site; the browser sends it nowhere."""
    is_own = urlsplit(url).netloc in (site.address, "")
    return [] if is_own else [f"asks another host: {url}"]


@pytest.fixture
def reader(browser: Browser, site: Site) -> Iterator[Reader]:
    """A signed-in reader; the test fails if the browser had anything to complain about."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    found = Reader(context.new_page(), site)
    found.page.on(
        "console", lambda said: found.complaints.append(said.text) if said.type == "error" else None
    )
    found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
    found.page.on("request", lambda asked: found.complaints.extend(_elsewhere(asked.url, site)))
    context.add_init_script(
        "addEventListener('securitypolicyviolation',"
        " (e) => console.error(`CSP: ${e.violatedDirective} ${e.blockedURI}`));"
    )
    found.sign_in()
    yield found
    context.close()
    assert found.complaints == []
