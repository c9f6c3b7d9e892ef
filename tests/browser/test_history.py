"""The history in a real browser: filters that the URL holds, the way back, and what is new."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from recorder.models import Run
from tests.browser.conftest import Reader
from tests.browser.test_pages import WAIT_MS, tell

pytestmark = pytest.mark.django_db(transaction=True)


def test_filters_are_in_the_url_and_back_brings_the_former_result(reader: Reader) -> None:
    page = reader.page
    reader.open("/history")
    kinds = page.locator("#events th")
    expect(kinds).to_have_count(50)
    first = page.locator("#events tr").first.inner_text()
    page.get_by_text("Kinds", exact=True).click()
    page.get_by_label("task_failed", exact=True).check()
    page.fill("input[name=partition]", "7")
    page.get_by_role("button", name="Show", exact=True).click()
    expect(page).to_have_url(re.compile(r"partition=7&.*kind=task_failed"))
    expect(page.locator("input[name=partition]")).to_have_value("7")
    assert set(kinds.all_inner_texts()) <= {"task_failed"}
    page.get_by_label("task_failed", exact=True).uncheck()
    page.get_by_role("button", name="Show", exact=True).click()
    expect(kinds.filter(has_text="arranged")).not_to_have_count(0)
    page.go_back()
    expect(page.get_by_label("task_failed", exact=True)).to_be_checked()
    expect(kinds.filter(has_text="arranged")).to_have_count(0)
    page.go_back()
    expect(kinds).to_have_count(50)
    assert page.locator("#events tr").first.inner_text() == first


def test_what_is_new_is_counted_and_shown_when_asked_for(reader: Reader) -> None:
    page = reader.page
    reader.open("/history?kind=paused")
    news = page.locator("#news")
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    expect(news).to_be_hidden()
    run = Run.objects.get(worker="worker-2")
    tell(run, "resumed", partition=7)
    tell(run, "paused", partition=7)
    expect(news).to_have_text("1 new event: show", timeout=WAIT_MS)
    expect(page.locator("#events")).to_have_count(0)
    news.click()
    expect(page.locator("#events tr")).to_have_count(1)


def test_a_view_is_saved_where_it_is_seen_and_opened_again(reader: Reader) -> None:
    page = reader.page
    reader.open("/history?kind=task_failed&partition=7")
    page.get_by_text("Save this view").click()
    page.get_by_label("Name", exact=True).fill("failures of 7")
    page.get_by_role("button", name="Save", exact=True).click()
    views = page.get_by_role("navigation", name="Saved views")
    saved = views.get_by_role("link", name="failures of 7")
    expect(saved).to_have_attribute("aria-current", "true")
    expect(page).to_have_url(re.compile(r"/history\?kind=task_failed&partition=7$"))
    reader.open("/history")
    expect(saved).not_to_have_attribute("aria-current", "true")
    saved.click()
    expect(page.locator("input[name=partition]")).to_have_value("7")
    views.get_by_role("link", name="Manage views").click()
    page.get_by_label("Name of failures of 7").fill("seven")
    page.get_by_role("button", name="Change failures of 7").click()
    expect(page.get_by_role("link", name="seven")).to_have_count(1)
    page.get_by_role("button", name="Delete seven").click()
    expect(page.get_by_text("No view of your own")).to_be_visible()
