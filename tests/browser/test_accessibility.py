"""Every page in both themes: axe finds nothing serious or critical."""

from __future__ import annotations

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from playwright.sync_api import Page, expect

from recorder.models import Event, Run
from sinks.models import DeadLetter
from tests.browser.conftest import Reader
from tests.browser.sample import TOPIC, letters
from tests.browser.stage import PASSWORD

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(240)]
WAIT_MS = 20_000
GRAVE = ("serious", "critical")
THEMES = ("light", "dark")


def pages() -> list[str]:
    """The address of each page, with what the sample holds."""
    failed = Event.objects.filter(kind="task_failed").latest("ts")
    letter = DeadLetter.objects.latest("at")
    return [
        "/",
        "/workers",
        "/partitions",
        f"/partitions/main/{TOPIC}/42",
        "/sinks",
        "/live",
        "/live#arrange",
        "/live#collect",
        "/history",
        "/trace",
        f"/trace/{TOPIC}/{failed.partition}:{failed.offset}",
        f"/task/main/{failed.task_id}?topic={TOPIC}",
        "/dead-letters",
        f"/dead-letters/{letter.pk}",
        "/dead-letters/jobs",
        "/debug",
        "/debug/databases",
        "/control",
        "/control/new?action=stop&cluster=main&worker=worker-1",
        "/probe",
        "/topics",
        "/audit",
        "/config",
        "/tokens",
    ]


def violations(page: Page, path: str) -> list[str]:
    """What axe finds grave: page, rule, and the first element of each."""
    found = Axe().run(page).response["violations"]
    return [
        f"{path}: {each['id']}: {each['nodes'][0]['html'][:120]} {each['nodes'][0]['any'][:1]}"
        for each in found
        if each["impact"] in GRAVE
    ]


@pytest.mark.parametrize("theme", THEMES)
def test_no_page_has_a_grave_violation(reader: Reader, theme: str) -> None:
    letters(list(Run.objects.order_by("started_at")))
    page = reader.page
    page.evaluate(f"localStorage.setItem('theme', '{theme}')")
    found: list[str] = []
    for path in pages():
        reader.open(path)
        page.reload()  # a change of the fragment alone opens nothing
        assert page.evaluate("document.documentElement.dataset.theme") == theme
        if path.startswith("/live"):
            whole = expect(page.locator("#some"))
            whole.to_have_attribute("aria-busy", "false", timeout=WAIT_MS)
        found += violations(page, path)
    page.keyboard.press("?")
    found += violations(page, "the help")
    assert found == []


def test_the_login_page(reader: Reader) -> None:
    page = reader.page
    page.context.clear_cookies()
    reader.open("/")
    page.fill("input[name=username]", "nobody")
    page.fill("input[name=password]", PASSWORD)
    page.click("form button")
    assert violations(page, "/login") == []
