"""An action in a real browser: from the button to the worker's answer."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from recorder.models import RunState
from tests.browser.conftest import Reader
from tests.browser.sample import TOPIC
from workers.models import ControlRequest, ControlState

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000

ELSEWHERE = "archive.requests"
"""Topic of no configuration here, so that no Kafka is asked where it begins and ends."""


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
    page.get_by_label("Reason").fill("the deploy of v12")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}$"))
    asked = ControlRequest.objects.get()
    assert (asked.worker, asked.action, asked.actor) == ("worker-2", "pause_partition", "mara")
    assert (asked.arguments["topic"], str(asked.arguments["partition"])) == (TOPIC, "7")


def test_who_paused_a_partition_and_why_is_said_where_it_is_paused(reader: Reader) -> None:
    page = reader.page
    reader.open(f"/partitions/main/{TOPIC}/7")
    page.locator(".head").get_by_role("link", name="Pause").click()
    page.get_by_label("Reason").fill("the deploy of v12")
    page.get_by_role("button", name="Pause").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}$"))
    expect(page.locator("#p-life")).to_contain_text("the deploy of v12")
    _obeyed()
    why = re.compile(r"^by mara .* ago:\s+the deploy of v12\s*$")
    reader.open("/")
    page.locator(".tile", has_text=re.compile(r"^7")).click()
    expect(page.locator(".head .by")).to_have_text(why)
    reader.open("/partitions?text=7")
    row = page.locator("#p-rows tr[data-key='main/search.requests/7']")
    expect(row.locator(".by")).to_have_text(why)
    row.locator(".by").click()
    expect(page.locator("#p-life")).to_contain_text("the deploy of v12")


def _obeyed() -> None:
    """The worker has paused the partition, and its beat says so."""
    now = timezone.now()
    ControlRequest.objects.update(state=ControlState.DONE, accepted_at=now, ended_at=now)
    for state in RunState.objects.filter(run__worker="worker-2"):
        state.partitions = tuple(
            replace(row, state="paused", is_paused=True) if row.partition == 7 else row
            for row in state.partitions
        )
        state.save()


def test_a_paused_partition_is_rewound_once_its_numbers_were_seen(reader: Reader) -> None:
    page = reader.page
    for state in RunState.objects.filter(run__worker="worker-2"):
        state.partitions = tuple(
            replace(row, topic=ELSEWHERE, state="paused", pending=0, committed=48_000)
            if row.partition == 7
            else row
            for row in state.partitions
        )
        state.save()
    reader.open(f"/partitions/main/{ELSEWHERE}/7")
    page.get_by_role("link", name="Rewind").click()
    expect(page.locator("main dl.facts")).to_contain_text("committed offset now")
    expect(page.get_by_role("button", name="Rewind partition")).to_have_count(0)
    page.get_by_label("offset", exact=True).fill("47500")
    page.get_by_role("button", name="Show what it would do").click()
    facts = page.locator("main dl.facts")
    expect(facts).to_contain_text("offsets run again")
    expect(facts.locator("dt").first).to_have_text("500")
    assert not ControlRequest.objects.exists()
    page.get_by_role("button", name="Rewind partition").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}$"))
    asked = ControlRequest.objects.get()
    assert (asked.worker, asked.action) == ("worker-2", "rewind_partition")
    assert (asked.arguments["offset"], asked.arguments["expected"]) == (47_500, 48_000)


def test_a_cluster_is_paused_and_resumed_from_where_that_is_shown(reader: Reader) -> None:
    page = reader.page
    reader.open("/workers?cluster=main")
    page.get_by_role("link", name="Pause cluster").click()
    expect(page.locator("main dl.facts")).to_contain_text("live workers")
    page.get_by_role("button", name="Pause cluster").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}"))
    expect(page.locator("#p-life")).to_contain_text("rest with their next heartbeat")
    reader.open("/")
    expect(page.locator("#p-wrong")).to_contain_text("Cluster main: paused on all workers")
    page.locator("#p-wrong li", has_text="paused on all workers").get_by_role(
        "link", name="Resume"
    ).click()
    page.get_by_role("button", name="Resume cluster").click()
    page.wait_for_url(re.compile("/control/[0-9a-f-]{36}"))
    reader.open("/workers?cluster=main")
    expect(page.locator("#p-head")).not_to_contain_text("paused on all workers")
