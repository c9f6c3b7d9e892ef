"""Groups of failures in a real browser: found from the dashboard, and dealt with."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from recorder.models import FailureGroup, Run
from tests.browser.conftest import Reader
from tests.browser.sample import failures
from tests.browser.sample_failures import failure_groups

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def groups(reader: Reader) -> FailureGroup:
    """The group of what the fleet's tasks failed of, among others."""
    failures()
    failure_groups(list(Run.objects.filter(beat__state="ready").order_by("worker")))
    return FailureGroup.objects.get(title="exit 3: <path>: No such file or directory")


def test_the_tenant_that_fails_most_is_two_clicks_away(
    reader: Reader, groups: FailureGroup
) -> None:
    page = reader.page
    reader.open("/")
    page.get_by_role("navigation").get_by_role("link", name="Failures", exact=True).click()
    expect(page.locator("#groups tr")).to_have_count(4)
    first = (
        page.locator("section[aria-labelledby=h-labels] p", has_text="tenant").locator("a").first
    )
    expect(first).to_contain_text("acme")
    first.click()
    expect(page).to_have_url(re.compile("label=tenant%3Dacme"))
    expect(page.locator("#groups tr").first).to_be_visible()


def test_a_group_is_run_again_from_its_page_and_dealt_with(
    reader: Reader, groups: FailureGroup
) -> None:
    page = reader.page
    reader.open("/failures")
    page.get_by_role("link", name=groups.title).click()
    expect(page.locator("pre.command")).to_contain_text("corpus/c7/0188.txt")
    page.get_by_label("Note").fill("the corpus moved")
    page.get_by_role("button", name="Acknowledge").click()
    expect(page.locator(".head .pill")).to_contain_text("acknowledged")
    expect(page.get_by_text("the corpus moved").last).to_be_visible()
    page.get_by_role("button", name="Run again what failed").click()
    expect(page).to_have_url(re.compile(f"failure={groups.pk}"))
    again = re.compile(r"Run [1-9]\d* messages again")
    expect(page.get_by_role("button", name=again)).to_be_visible()
