"""What somebody asks who is paged at three: each answer from the dashboard, in so many clicks.

The table of docs/pages.md is what is asked here.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from django.contrib.auth.models import User
from django.utils import timezone
from playwright.sync_api import Locator, Page, expect

from recorder.models import Run, RunState, RunTrack
from tests.browser.conftest import Reader
from tests.browser.sample import TOPIC, controller, failures
from tests.browser.sample_rollups import deploy, rollups
from tests.browser.sample_site import people
from tests.browser.stage import USER
from tests.web.test_failures import fail
from workers.models import ControlRequest, RerunJob

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000
PAGES = Path(__file__).resolve().parents[2] / "docs" / "pages.md"
REASON = "waits for the mended index"


class Night:
    """A reader on the dashboard, whose clicks are counted."""

    def __init__(self, reader: Reader) -> None:
        self._reader = reader
        self._clicks = 0
        self.page: Page = reader.page
        self.answers: list[tuple[str, int]] = []

    @contextmanager
    def asks(self, question: str) -> Iterator[Page]:
        """Begin at the dashboard; the clicks to the answer are noted."""
        live_on()
        self._reader.open("/")
        self._clicks = 0
        yield self.page
        self.answers.append((question, self._clicks))

    def click(self, found: Locator) -> None:
        """Click, and count it."""
        found.click()
        self._clicks += 1

    def go(self, title: str) -> None:
        """Open a page by the bar at the top."""
        link = self.page.locator(f"#nav a:text-is('{title}')")
        if not link.is_visible():
            self.click(self.page.locator("#nav summary"))
        self.click(link)
        expect(link).to_have_attribute("aria-current", re.compile("page|true"))


def live_on() -> None:
    """The fleet lives, and lags more and more."""
    now = timezone.now()
    RunState.objects.filter(state="ready").update(beat_at=now)
    for track in RunTrack.objects.all():
        for number, sample in enumerate(track.samples):
            sample[0] = now.timestamp() - 10 * (len(track.samples) - 1 - number)
            sample[2] = 500 + 40 * number
        track.written_at = now
        track.save()


@pytest.fixture
def night(reader: Reader) -> Night:
    """Lag grows, a program was deployed, some failed from 02:00 on, and a partition is paused."""
    runs = list(Run.objects.filter(beat__state="ready").order_by("worker"))
    rollups(runs)
    deploy(runs[1])
    controller()
    fail(runs[0], 9, topic=TOPIC, labels={"tenant": "acme"})
    fail(runs[1], 4, topic=TOPIC, labels={"tenant": "gamla"})
    failures()
    people(User.objects.get(username=USER))
    paused = ControlRequest.objects.filter(action="pause_partition")
    assert paused.update(reason=REASON)
    Run.objects.filter(id=runs[1].id).update(
        config_changes=[{"key": "executor.max_executors", "old": "4", "new": "8"}],
        deployed_by="anna",
    )
    return Night(reader)


def documented() -> list[tuple[str, int]]:
    """Questions and clicks of the table in docs/pages.md."""
    rows = re.findall(r"^\| (.+\?) \| .+ \| (\d+) \|$", PAGES.read_text(), re.MULTILINE)
    return [(question, int(clicks)) for question, clicks in rows]


@pytest.mark.timeout(300)
def test_each_question_is_answered_in_as_many_clicks_as_the_table_says(night: Night) -> None:
    wrong = night.page.locator("#p-wrong")
    with night.asks("Why is lag growing?"):
        line = wrong.locator("li", has_text="Cluster main: lag grows")
        expect(line).to_contain_text(re.compile(r"messages wait, [\d.,]+ more each second"))
        expect(line).to_contain_text(re.compile("archive|pool|program|worker", re.IGNORECASE))
    with night.asks("What blocks partition 17, and what does its program do?") as page:
        night.click(page.locator(f".tile[href*='/{TOPIC}/17']"))
        expect(page.locator("#p-block")).to_contain_text("17:48397:0")
    with night.asks("Which tenant fails most since 02:00?") as page:
        night.go("Failures")
        page.fill("[name=since]", "2h")
        night.click(page.get_by_role("button", name="Show", exact=True))
        most = page.locator("section[aria-labelledby=h-labels] p", has_text="tenant").locator("a")
        expect(most.first).to_contain_text("acme")
        expect(most.first).to_contain_text("9")
    with night.asks("Did the last deploy make it slower?") as page:
        night.go("Versions")
        night.click(page.locator("main").get_by_role("link", name="1h", exact=True))
        expect(page.locator("main")).to_contain_text("rg 15.0.0")
        expect(page.locator("main")).to_contain_text(re.compile("slower|faster|as fast"))
    with night.asks("How long until it is drained?") as page:
        expect(page.locator("#p-head")).to_contain_text(re.compile("drain"))
        expect(page.locator("#p-head")).not_to_contain_text("0 ms")
    with night.asks("What failed from 02:00 to 03:00 runs again with the mended program?") as page:
        night.go("Failures")
        night.click(page.locator("#groups th a").first)
        page.fill("[name=since]", "2h")
        page.fill("[name=until]", "0m")
        night.click(page.get_by_role("button", name="Run again what failed"))
        expect(page.locator("main")).to_contain_text(re.compile(r"\b9\b"))
        before = RerunJob.objects.count()
        night.click(page.locator("main form[method=post] button").last)
        expect(page).to_have_url(re.compile(r"/reruns/[0-9a-f-]{36}"))
        assert RerunJob.objects.count() == before + 1
    with night.asks("All with one label: cancelled, or run again?") as page:
        night.click(page.locator("#go"))
        page.fill("#palette input", "tenant=acme")
        again = page.locator("#places").get_by_text("Run again what failed with tenant=acme")
        expect(again).to_be_visible(timeout=WAIT_MS)
        night.click(page.locator("#places").get_by_text("Cancel tasks with tenant=acme").first)
        expect(page.locator("main")).to_contain_text(re.compile("tenant.?=.?acme"))
    with night.asks("Which host is slow?") as page:
        night.go("Workers")
        expect(page.locator("#p-by-host tbody tr").first).to_contain_text("node-")
    with night.asks("How much CPU and memory do tasks take over time?") as page:
        night.go("Trends")
        for chart in ("cpu", "memory"):
            expect(page.locator(f"#chart-{chart} canvas")).to_be_visible(timeout=WAIT_MS)
    with night.asks("What changed in the configuration, when, by whom?") as page:
        night.go("Versions")
        for said in ("executor.max_executors", "anna"):
            expect(page.locator("main")).to_contain_text(said)
    with night.asks("Who paused this, and why?"):
        line = wrong.locator("li", has_text="partition 23 paused")
        expect(line).to_contain_text("mara")
        expect(line).to_contain_text(REASON)
    with night.asks("Is somebody told in Slack?") as page:
        night.go("Notifications")
        expect(page.locator("#p-receivers")).to_contain_text("night")
    assert night.answers == documented()
