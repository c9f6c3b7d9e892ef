"""Open pages while Postgres is away: they say so, and heal by themselves."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.contrib.sessions.models import Session
from django.utils import timezone
from playwright.sync_api import Browser, Page, expect

from recorder.models import RunState
from tests.browser.stage import sign_in
from tests.browser.test_pages import WAIT_MS
from tests.support.proxy import Away, Pass, Proxy
from tests.support.site import Site
from workers.models import ControlRequest

pytestmark = pytest.mark.django_db(transaction=True)
PATHS = ("/", "/workers", "/live", "/history")
ALL_LOST = """[...document.querySelectorAll('.age')].filter((age) => age.checkVisibility())
  .every((age) => age.dataset.fresh === 'lost')"""


@pytest.fixture
def tabs(browser: Browser, site: Site) -> Iterator[list[Page]]:
    """A page each, open together; what the browser says of failed requests is expected here."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    sign_in(context.new_page(), site.address)
    pages = [context.new_page() for _ in PATHS]
    for page, path in zip(pages, PATHS, strict=True):
        page.goto(f"http://{site.address}{path}")
    yield pages
    context.close()


def test_pages_say_disconnected_and_heal(tabs: list[Page], database: Proxy) -> None:
    for page in tabs:
        expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    database.set(Away())
    for page in tabs:
        expect(page.locator("#conn")).to_contain_text("Disconnected", timeout=WAIT_MS)
        page.wait_for_function(ALL_LOST, timeout=WAIT_MS)
    expect(tabs[2].locator("#frozen")).to_contain_text("Disconnected: last seen")
    database.set(Pass())
    RunState.objects.update(beat_at=timezone.now(), rss_bytes=777 * 1024 * 1024)
    for page in tabs:
        expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    expect(tabs[1].locator("#p-workers")).to_contain_text("777", timeout=WAIT_MS)


def test_a_request_followed_meanwhile_says_so_and_gets_its_end(
    tabs: list[Page], database: Proxy
) -> None:
    page = tabs[0]
    asked = {"cluster": "main", "worker": "worker-1", "action": "stop", "actor": "mara"}
    row = ControlRequest.objects.create(key="k", **asked)
    page.goto(f"{page.url.rstrip('/')}/control/{row.id}")
    expect(page.locator("#p-life")).to_contain_text("requested")
    database.set(Away())
    expect(page.locator("#cut")).to_contain_text("Disconnected at", timeout=WAIT_MS)
    database.set(Pass())
    ControlRequest.objects.update(state="done", ended_at=timezone.now(), detail="it exits")
    expect(page.locator("#p-life")).to_contain_text("it exits", timeout=WAIT_MS)
    expect(page.locator("#cut")).to_be_hidden()


def test_who_was_signed_out_is_not_told_to_wait(tabs: list[Page]) -> None:
    for page in tabs:
        expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    Session.objects.all().delete()
    for page in tabs:
        expect(page.get_by_label("Password")).to_be_visible(timeout=WAIT_MS)


def show(page: Page, *, is_hidden: bool) -> None:
    """What the browser tells a page whose tab goes away or comes back."""
    page.evaluate(
        "(is) => {"
        " Object.defineProperty(document, 'hidden', { get: () => is, configurable: true });"
        " document.dispatchEvent(new Event('visibilitychange')); }",
        is_hidden,
    )


def test_a_tab_that_comes_back_shows_nothing_old_as_live(tabs: list[Page], database: Proxy) -> None:
    page = tabs[PATHS.index("/live")]
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    expect(page.locator("#frozen")).to_be_hidden()
    show(page, is_hidden=True)
    database.set(Away())
    show(page, is_hidden=False)
    expect(page.locator("#frozen")).to_contain_text("Disconnected: last seen", timeout=500)
    assert "Live" not in page.locator("#conn").inner_text()
    expect(page.locator("#conn")).to_contain_text("Disconnected", timeout=WAIT_MS)
    database.set(Pass())
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    expect(page.locator("#frozen")).to_be_hidden()
    page.keyboard.press("p")
    show(page, is_hidden=True)
    show(page, is_hidden=False)
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    expect(page.locator("#frozen")).to_contain_text("Frozen at")


def test_a_machine_that_slept_shows_nothing_old_as_live(tabs: list[Page]) -> None:
    page = tabs[PATHS.index("/live")]
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    page.evaluate(
        "() => { window.said = new Promise((done) => document.addEventListener('connchange',"
        " () => { if (document.body.dataset.conn === 'lost') done(true); }));"
        " const now = Date.now; Date.now = () => now() + 3600_000; }"
    )
    assert page.evaluate("() => window.said")
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)


def test_a_page_opened_meanwhile_comes_by_itself(tabs: list[Page], database: Proxy) -> None:
    page = tabs[0]
    database.set(Away())
    page.goto(page.url.rstrip("/") + "/workers")
    expect(page.locator("h1")).to_have_text("Disconnected")
    answer = page.request.get(page.url.replace("/workers", "/api/v1/dashboard"))
    assert (answer.status, answer.json()["title"]) == (503, "Service Unavailable")
    assert answer.headers["content-type"] == "application/problem+json"
    database.set(Pass())
    expect(page.locator("h1")).to_have_text("Workers", timeout=WAIT_MS)
