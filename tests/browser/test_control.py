"""An action in a real browser: from the button to the worker's answer."""

from __future__ import annotations

import re

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from tests.browser.conftest import Reader
from tests.browser.sample import TOPIC
from workers.models import ControlRequest, ControlState

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000


def test_a_worker_is_drained(reader: Reader) -> None:
    page = reader.page
    reader.open("/workers")
    row = page.locator("tr", has_text="worker-2").first
    row.get_by_role("link", name="Drain").click()
    expect(page.locator("main")).to_contain_text("tasks running")
    page.get_by_role("button", name="Drain").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}$"))
    expect(page.get_by_role("status").filter(has_text="requested")).to_be_visible()
    asked = ControlRequest.objects.get()
    assert (asked.worker, asked.action, asked.actor) == ("worker-2", "drain", "mara")
    now = timezone.now()
    ControlRequest.objects.update(
        state=ControlState.DONE, accepted_at=now, ended_at=now, detail="drained and left the group"
    )
    expect(page.locator("#p-life")).to_contain_text("drained and left", timeout=WAIT_MS)
    expect(page.locator("[data-waiting]")).to_have_count(0)


def test_a_partition_is_paused(reader: Reader) -> None:
    page = reader.page
    reader.open("/partitions?text=7")
    row = page.locator("#p-rows tr[data-key='main/search.requests/7']")
    row.get_by_role("link", name="Pause").click()
    facts = page.locator("main dl.facts")
    expect(facts).to_contain_text("messages")
    expect(facts.locator("dt").first).to_have_text(re.compile(r"^[\d,]+$"))
    assert not ControlRequest.objects.exists()
    page.get_by_role("button", name="Pause").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}$"))
    asked = ControlRequest.objects.get()
    assert (asked.worker, asked.action, asked.actor) == ("worker-2", "pause_partition", "mara")
    assert (asked.arguments["topic"], str(asked.arguments["partition"])) == (TOPIC, "7")
