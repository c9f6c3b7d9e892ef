"""Every page in both themes: axe finds nothing, no request leaves the site, no page is wider than a
phone, and the browser complains of nothing."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from axe_playwright_python.sync_playwright import Axe  # type: ignore[import-untyped]
from django.contrib.auth.models import User
from django.urls import URLPattern, resolve
from playwright.sync_api import Page, expect

from drakkar_site.accounts.models import SavedView
from drakkar_site.urls import urlpatterns
from recorder.models import Event, FailureGroup, Run
from sinks.models import DeadLetter
from tests.browser.conftest import Reader
from tests.browser.sample import TOPIC, letters
from tests.browser.sample_failures import failure_groups
from tests.browser.sample_rollups import deploy, rollups
from tests.browser.sample_site import notices
from tests.browser.stage import PASSWORD

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(480)]
WAIT_MS = 20_000
WIDE, PHONE = {"width": 1280, "height": 900}, {"width": 390, "height": 844}


def pages() -> list[str]:
    """The address of each page, with what the sample holds."""
    failed = Event.objects.filter(kind="task_failed").latest("ts")
    letter = DeadLetter.objects.latest("at")
    return [
        "/",
        "/trends",
        "/trends/duration?compare=before",
        "/workers",
        "/workers/main/worker-2",
        "/versions",
        "/partitions",
        f"/partitions/main/{TOPIC}/42",
        "/sinks",
        "/live",
        "/live#arrange",
        "/live#collect",
        "/history",
        "/history/views",
        "/trace",
        f"/trace/{TOPIC}/{failed.partition}:{failed.offset}",
        f"/task/main/{failed.task_id}?topic={TOPIC}",
        "/failures",
        f"/failures/{FailureGroup.objects.latest('last_seen').pk}",
        "/dead-letters",
        "/dead-letters/by-failure",
        f"/dead-letters/{letter.pk}",
        f"/dead-letters/{letter.pk}/edit",
        f"/dead-letters/jobs/new?action=source&of=chosen&letter={letter.pk}",
        "/dead-letters/jobs",
        "/reruns",
        "/reruns/new?cluster=main&failure=exit",
        "/debug",
        "/debug/databases",
        "/control",
        "/control/new?action=stop&cluster=main&worker=worker-1",
        "/control/partitions?action=pause_partition&cluster=main&all=1",
        "/probe",
        "/topics",
        "/go?q=7",
        "/audit",
        "/config",
        "/tokens",
        "/notifications",
        "/api/v1/docs",
    ]


NOT_WALKED = (
    "export_history trend_csv ask_export download_export control letter_job rerun cancel_rerun "
    "change_failure revoke_token mark_finding unmark_finding test_notification login logout "
    "healthz saved_view"
).split()
"""Routes without a page of their own, and rows that only an action makes."""


def violations(page: Page, path: str, rules: Sequence[str] = ()) -> list[str]:
    """What axe finds by these rules (none: by all): page, rule, the first element."""
    options = {"resultTypes": ["violations"], "preload": False}
    options |= {"runOnly": list(rules)} if rules else {}
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate("(options) => axe.run(document, options)", options)["violations"]
    return [
        f"{path}: {each['id']}: {each['nodes'][0]['html'][:120]} {each['nodes'][0]['any'][:1]}"
        for each in found
    ]


def missed(paths: Sequence[str]) -> set[str]:
    """Routes that none of these is of."""
    walked = {resolve(path.split("?")[0].split("#")[0]).url_name for path in paths}
    routes = {each.name for each in urlpatterns if isinstance(each, URLPattern) and each.name}
    return routes - walked


def in_both_themes(page: Page, path: str) -> list[str]:
    """By all rules in the light, and by those of colour in the dark, which nothing else changes."""
    found = []
    page.emulate_media(reduced_motion="reduce")  # no colour is caught half-way
    for theme, rules in (("light", ()), ("dark", ("color-contrast",))):
        page.evaluate(f"document.documentElement.dataset.theme = '{theme}'")
        found += violations(page, f"{path} in the {theme}", rules)
    return found


def sideways(page: Page, path: str) -> list[str]:
    """What of a page is wider than a phone, but for what stands in a box that scrolls by itself."""
    page.set_viewport_size(PHONE)  # type: ignore[arg-type]
    wide = page.evaluate(
        "async () => { for (const _ of [1, 2]) await new Promise(requestAnimationFrame);"
        " const { scrollWidth } = document.documentElement;"
        " return scrollWidth <= innerWidth ? [] : [`all of it: ${scrollWidth} px`,"
        " ...[...document.querySelectorAll('body *')]"
        ".filter((one) => one.getBoundingClientRect().right > innerWidth + 1"
        " && !one.parentElement.closest('.scroll'))"
        ".map((one) => one.outerHTML.slice(0, 100)).slice(0, 3)]; }"
    )
    page.set_viewport_size(WIDE)  # type: ignore[arg-type]
    return [f"{path}: wider than a phone: {each}" for each in wide]


@pytest.mark.slow
def test_no_page_has_a_violation_or_is_wider_than_a_phone(reader: Reader) -> None:
    runs = list(Run.objects.filter(beat__state="ready").order_by("worker"))
    letters(runs)
    failure_groups(runs)
    rollups(runs)
    deploy(runs[1])
    notices()
    for owner in (*User.objects.all(), User.objects.create_user("theo")):
        SavedView.objects.create(
            owner=owner, name="failed", query="kind=task_failed", is_shared=True
        )
    page = reader.page
    assert missed(pages()) == set(NOT_WALKED)
    found: list[str] = []
    for path in pages():
        if "#" in path:
            page.goto("about:blank")  # a change of the fragment alone opens nothing
        reader.open(path)
        if path.startswith("/live"):
            whole = expect(page.locator("#some"))
            whole.to_have_attribute("aria-busy", "false", timeout=WAIT_MS)
        found += in_both_themes(page, path)
        found += sideways(page, path)
    page.keyboard.press("?")
    found += in_both_themes(page, "the help")
    page.keyboard.press("Escape")
    page.keyboard.press("/")
    expect(page.locator("#places [role=option]").first).to_be_visible(timeout=WAIT_MS)
    found += in_both_themes(page, "the palette")
    assert found == []


def test_the_login_page(reader: Reader) -> None:
    page = reader.page
    page.goto(
        "about:blank"
    )  # else its socket may connect as nobody, of which the browser complains
    page.context.clear_cookies()
    reader.open("/")
    page.fill("input[name=username]", "nobody")
    page.fill("input[name=password]", PASSWORD)
    page.click("form button")
    assert violations(page, "/login") == []
