"""What an operator does with letters and messages, in a real browser."""

from __future__ import annotations

import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from recorder.export_jobs import ExportLimits
from recorder.models import Event, Run, RunState
from sinks.models import DeadLetter, LetterJob
from tests.browser.conftest import Reader
from tests.browser.sample import failures
from tests.browser.sample_site import metrics
from tests.browser.test_pages import WAIT_MS
from tests.web.test_dead_letters import make
from workers.control_plane.jobs import run_exports
from workers.models import RerunJob

pytestmark = pytest.mark.django_db(transaction=True)


def test_no_page_of_operating_is_wider_than_a_telephone(reader: Reader) -> None:
    make(3)
    reader.page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/debug", "/probe", "/topics?cluster=none", "/dead-letters", "/reruns/new"):
        reader.open(path)
        expect(reader.page.locator("h1")).to_be_visible()
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_letters_are_chosen_confirmed_and_queued(reader: Reader) -> None:
    DeadLetter.objects.all().delete()
    for number in (1, 2, 3):
        make(number)
    page = reader.page
    reader.open("/dead-letters")
    page.get_by_label("Letter of t 0:1", exact=True).check()
    page.get_by_label("Letter of t 0:3", exact=True).check()
    page.get_by_role("button", name="Replay to the source").click()
    expect(page.locator("main dl.facts")).to_contain_text("open letters")
    assert not LetterJob.objects.exists()
    page.get_by_role("button", name="Replay to the source: 2 letters").click()
    expect(page).to_have_url(re.compile(r"/dead-letters/jobs/[0-9a-f-]{36}"))
    expect(page.locator("#p-life")).to_contain_text("waits for the controller")
    job = LetterJob.objects.get()
    assert (job.letters_total, job.actor) == (2, "mara")


def test_failed_messages_are_counted_and_run_again(reader: Reader) -> None:
    count = failures()
    page = reader.page
    reader.open("/reruns")
    page.get_by_role("link", name="Run failed messages again").click()
    page.locator("main").get_by_label("Cluster").select_option("main")
    page.get_by_label("Failed from").fill("1d")
    page.get_by_role("button", name="Show what it means").click()
    button = page.get_by_role("button", name=re.compile(r"Run \d+ messages again"))
    shown = re.search(r"\d+", button.inner_text())
    assert shown is not None
    assert 0 < int(shown[0]) <= count
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(page.locator("main dl.facts dt").first).to_have_text(shown[0])
    assert not RerunJob.objects.exists()
    page.get_by_label("At most").fill("20")
    button.click()
    expect(page).to_have_url(re.compile(r"/reruns/[0-9a-f-]{36}"))
    expect(page.locator("#p-life")).to_contain_text("waits for the controller")
    page.get_by_role("button", name="Cancel: send no more").click()
    expect(page.locator("#p-life")).to_contain_text("cancelled")
    job = RerunJob.objects.get()
    assert (job.state, job.actor, job.rate) == ("cancelled", "mara", 20.0)


def test_a_section_of_the_debug_page_folds(reader: Reader) -> None:
    page = reader.page
    reader.open("/debug")
    box = page.get_by_placeholder("partition:offset, task id or label=value")
    expect(box).to_be_visible()
    page.get_by_text("Message trace").click()
    expect(box).to_be_hidden()


def test_a_total_follows_while_the_reader_points_at_it(reader: Reader) -> None:
    runs = list(Run.objects.filter(worker__in=["worker-1", "worker-2"]))
    metrics(runs)
    page = reader.page
    reader.open("/debug?text=drakkar_messages")
    page.evaluate("document.querySelector('[data-refresh]').dataset.refresh = '1'")
    page.get_by_text("Messages by fate").hover()
    total = page.locator("#p-metrics summary b")
    expect(total).to_have_text("159,812")
    for state in RunState.objects.filter(run__in=runs):
        assert state.metrics is not None
        for sample in state.metrics["families"][0]["samples"]:
            sample[2] *= 2
        state.beat_at = timezone.now()
        state.save()
    expect(total).to_have_text("319,624", timeout=WAIT_MS)
    assert page.locator("#p-metrics:hover").count()


@pytest.mark.parametrize(("width", "height"), [(1280, 900), (390, 844)])
def test_the_dashboard_fits(reader: Reader, width: int, height: int) -> None:
    page = reader.page
    page.set_viewport_size({"width": width, "height": height})
    for state in RunState.objects.filter(state="ready"):
        state.sinks = tuple(
            replace(sink, breaker="half-open", delivered=1_234_567, errors=12_345)
            for sink in state.sinks
        )
        state.save()
    reader.open("/")
    expect(page.locator("#p-sinks tbody tr")).to_have_count(6)
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    if width > 390:
        for panel in ("#p-sinks .scroll", "#p-workers .scroll"):
            assert page.locator(panel).evaluate("(e) => e.scrollWidth - e.clientWidth") <= 0, panel


def test_two_runs_are_merged_into_one_file_and_downloaded(
    reader: Reader, exports: Path, tmp_path: Path
) -> None:
    page = reader.page
    reader.open("/debug/databases")
    for name in ("worker-1", "worker-2"):
        page.get_by_label(f"Run of {name}", exact=True).check()
    page.get_by_label("named").fill("night")
    page.get_by_role("button", name="Export into one file").click()
    expect(page.locator("#p-exports")).to_contain_text("queued")
    assert run_exports(ExportLimits(folder=exports, ttl_hours=1, max_bytes=2**30)) == 1
    link = page.locator("#p-exports").get_by_role("link", name="night (sqlite)")
    with page.expect_download() as started:
        link.click(timeout=WAIT_MS)
    started.value.save_as(tmp_path / "night.sqlite")
    with closing(sqlite3.connect(tmp_path / "night.sqlite")) as file:
        workers = file.execute("SELECT worker FROM runs ORDER BY worker").fetchall()
        (events,) = file.execute("SELECT count(*) FROM events").fetchone()
    assert workers == [("worker-1",), ("worker-2",)]
    runs = Run.objects.filter(worker__in=["worker-1", "worker-2"])
    assert events == Event.objects.filter(run__in=runs.values("id")).count()
