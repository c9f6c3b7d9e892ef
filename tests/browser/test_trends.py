"""Trends in a real browser: read by pointer and keyboard, zoomed, compared, taken home."""

from __future__ import annotations

import re
from typing import Any

import pytest
from playwright.sync_api import Locator, Page, expect

from recorder.models import Run
from tests.browser.conftest import Reader
from tests.browser.sample_rollups import deploy, rollups

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000


@pytest.fixture
def page(reader: Reader) -> Page:
    """Trends of the last hour, drawn."""
    runs = [Run.objects.filter(worker=f"worker-{n}").earliest("started_at") for n in (1, 2, 3)]
    rollups(runs)
    deploy(runs[1])
    reader.open("/trends")
    drawn(reader.page)
    return reader.page


def drawn(page: Page) -> None:
    """Every chart has its figures."""
    expect(page.locator("figure[aria-busy]")).to_have_count(0, timeout=WAIT_MS)


def plot(page: Page, chart: str) -> Locator:
    """Where a chart is drawn: above its axis."""
    return page.locator(f"#chart-{chart} .u-over")


def place(found: Locator, share: float) -> tuple[float, float]:
    """The place in the page that is so far to the right in it."""
    found.scroll_into_view_if_needed()
    box = found.bounding_box()
    assert box is not None
    return box["x"] + share * box["width"], box["y"] + box["height"] / 2


def said(page: Page, chart: str) -> str | None:
    """What is read to those who do not see it."""
    return page.locator(f"#chart-{chart} .plot").get_attribute("aria-valuetext")


def test_one_pointer_reads_every_chart(page: Page) -> None:
    page.mouse.move(*place(plot(page, "rate"), 0.2))
    clock = page.locator("#chart-rate .when").inner_text()
    assert re.fullmatch(r"(\d\d-\d\d )?\d\d:\d\d", clock)
    expect(page.locator("#chart-duration .when")).to_have_text(clock)
    assert re.fullmatch(
        rf"{clock}: p50 [\d.]+ m?s, p95 [\d.]+ m?s, p99 [\d.]+ m?s", said(page, "duration") or ""
    )
    read = page.locator("#chart-duration .readout b").all_inner_texts()
    assert said(page, "duration") == f"{clock}: p50 {read[0]}, p95 {read[1]}, p99 {read[2]}"
    page.mouse.move(0, 0)
    expect(page.locator("#chart-duration .when")).to_have_text("")


def walked(page: Page, chart: str) -> list[str]:
    """What each step of a chart says, walked by keyboard from the first to the last."""
    found = page.locator(f"#chart-{chart} .plot")
    found.focus()
    page.keyboard.press("Home")
    steps = int(found.get_attribute("aria-valuemax") or 0)
    told = [said(page, chart) or ""]
    for _ in range(steps):
        page.keyboard.press("ArrowRight")
        told.append(said(page, chart) or "")
    return told


def test_what_is_unknown_is_a_gap_and_the_deploy_is_told_where_it_was(page: Page) -> None:
    told = walked(page, "rate")
    assert 3 <= sum("messages unknown, tasks unknown" in each for each in told) <= 8
    assert 1 <= sum("worker-2: version changed" in each for each in told) <= 3
    assert any("sink archive away" in each for each in told)
    page.get_by_label("Versions").uncheck()
    assert not any("version changed" in each for each in walked(page, "rate"))


def test_a_brush_zooms_all_charts_and_back_goes_back(page: Page) -> None:
    before = page.url
    page.mouse.move(*place(plot(page, "duration"), 0.25))
    page.mouse.down()
    page.mouse.move(*place(plot(page, "duration"), 0.5), steps=5)
    page.mouse.up()
    expect(page).to_have_url(re.compile(r"/trends\?since=[^&]+&until=[^&]+$"))
    expect(page.locator("#p-head")).to_contain_text(" to ", timeout=WAIT_MS)
    steps = page.locator("#chart-rate .plot")
    expect(steps).to_have_attribute("aria-valuemax", re.compile(r"^1[3-7]$"), timeout=WAIT_MS)
    expect(page.get_by_role("link", name="1h", exact=True)).not_to_have_attribute(
        "aria-current", "true"
    )
    page.go_back()
    expect(page).to_have_url(before)
    expect(steps).to_have_attribute("aria-valuemax", re.compile(r"^(59|60)$"), timeout=WAIT_MS)
    expect(page.locator("#p-head")).to_contain_text("The last 1h", timeout=WAIT_MS)


def test_by_keyboard_alone(page: Page) -> None:
    chart = page.locator("#chart-lag .plot")
    chart.focus()
    page.keyboard.press("Home")
    expect(chart).to_have_attribute("aria-valuenow", "0")
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowLeft")
    expect(chart).to_have_attribute("aria-valuenow", "9")
    expect(page.locator("#chart-cpu .plot")).to_have_attribute("aria-valuenow", "9")
    page.keyboard.press("+")
    expect(page).to_have_url(re.compile(r"since="))
    expect(chart).to_have_attribute("aria-valuemax", re.compile(r"^(29|30)$"), timeout=WAIT_MS)
    page.keyboard.press("Home")
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/history\?since="))


def test_a_click_leads_to_the_history_of_that_step(page: Page) -> None:
    page.mouse.click(*place(plot(page, "deliveries"), 0.3))
    expect(page).to_have_url(re.compile(r"/history\?since=[^&]+&until=[^&]+&kind=delivered$"))


def test_the_time_before_is_read_beside_it(page: Page) -> None:
    page.get_by_label("compare with the time before").check()
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page).to_have_url(re.compile(r"compare=before"))
    drawn(page)
    expect(page.locator("#chart-rate .readout b").first).to_contain_text("(before ")


def test_a_line_is_taken_away_and_a_split_has_a_line_each(page: Page) -> None:
    page.get_by_label("split by").select_option("worker")
    page.get_by_role("button", name="Show", exact=True).click()
    drawn(page)
    lines = page.locator("#chart-duration .readout button")
    expect(lines).to_have_count(3)
    assert sorted(lines.all_inner_texts()) == ["worker-1", "worker-2", "worker-3"]
    expect(page.locator("#h-duration")).to_have_text("Duration of tasks, p95 by worker")
    first = lines.first
    first.click()
    expect(first).to_have_attribute("aria-pressed", "false")
    first.click()
    expect(first).to_have_attribute("aria-pressed", "true")


def test_the_figures_can_be_taken_home(page: Page) -> None:
    with page.expect_download() as found:
        page.locator("#chart-failures").get_by_role("link", name="CSV").click()
    text = found.value.path().read_text()
    assert found.value.suggested_filename == "failures.csv"
    assert text.startswith("time,exit (per minute),timeout (per minute)\n")


def test_small_charts_lead_to_trends(page: Page, reader: Reader) -> None:
    reader.open("/workers/main/worker-2")
    drawn(page)
    expect(page.locator("#chart-cpu .readout b")).to_contain_text("cores")
    page.locator("#trends").get_by_role("link", name="CPU of tasks").click()
    expect(page).to_have_url(
        re.compile(r"/trends\?cluster=main&worker=worker-2&range=1h#chart-cpu")
    )
    drawn(page)


def test_the_server_says_why_and_what_was_drawn_stays(page: Page, reader: Reader) -> None:
    """A range that nobody offers, in the address."""
    reader.open("/trends/rate?range=2h")
    expect(page.get_by_role("alert")).to_contain_text("range: expected one of 15m")
    reader.complaints[:] = [each for each in reader.complaints if "400" not in each]


def test_it_fits_a_telephone_and_says_that_nothing_is_recorded(reader: Reader) -> None:
    page: Any = reader.page
    page.set_viewport_size({"width": 390, "height": 844})
    reader.open("/trends")
    drawn(page)
    expect(page.locator("#chart-lag .told")).to_have_text("Nothing is recorded in this time")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
