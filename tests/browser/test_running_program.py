"""A real worker runs a real program: its output moves on its page, and its last words are kept."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from django.db import connection
from playwright.sync_api import Page, expect

from integration.services.kafka_mock import RunningMock
from recorder.task_detail import task_detail
from tests.browser.conftest import Reader
from tests.support.worker_process import CLUSTER, Scene, until
from workers.models import TailChunk, TailLease

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 30_000
TOPIC = "running-program"
TASK = "0:0:0"
PAGE = f"/task/{CLUSTER}/{TASK}?topic={TOPIC}"
RENDER = """
trap 'echo "state saved at frame $i"; echo "asked to end" >&2; exit 9' TERM
i=0
while [ $i -lt 90 ]; do
  i=$((i + 1))
  echo "frame $i of 90"
  printf '{"progress": 0.%02d, "note": "frame %d of 90"}\\n' $i $i >&3
  sleep 0.5 & wait $!
done
"""


@pytest.fixture
def scene(transactional_db: None, kafka_mock: RunningMock, tmp_path: Path) -> Iterator[Scene]:
    """A topic of the mock, and workers that are recorded where the site reads."""
    for name in (TOPIC, f"{TOPIC}-out", f"{TOPIC}_dlq"):
        kafka_mock.create_topic(name, 1)
    at = connection.settings_dict
    made = Scene(
        folder=tmp_path,
        brokers=kafka_mock.brokers,
        database_url=f"postgresql://{at['USER']}@{at['HOST']}:{at['PORT']}/{at['NAME']}",
        topic=TOPIC,
        executor={"kill_grace_seconds": 10},
    )
    yield made
    made.close()


def frame_of(page: Page) -> int:
    """The newest frame that the page shows."""
    text = page.locator("#tail [data-stream=stdout] pre").text_content() or ""
    return max(map(int, re.findall(r"frame (\d+) of 90", text)), default=0)


@pytest.mark.slow
def test_output_moves_progress_fills_and_a_cancelled_program_s_last_words_are_kept(
    scene: Scene, reader: Reader
) -> None:
    page = reader.page
    scene.worker().ready()
    scene.produce(RENDER)
    until(lambda: task_detail(CLUSTER, TASK), "a start in the history")
    reader.open(PAGE)
    tail = page.locator("#tail")
    expect(tail.get_by_role("status")).to_have_text("running", timeout=WAIT_MS)
    expect(tail.locator("[data-stream=stderr]")).to_contain_text("nothing yet", timeout=WAIT_MS)
    expect(tail.locator("[data-fact=pid]")).to_have_text(re.compile(r"^\d+, slot \d$"))
    expect(tail.locator("[data-fact=rss]")).to_contain_text("process", timeout=WAIT_MS)
    expect(tail.locator("[data-fact=progress]")).to_contain_text("of 90", timeout=WAIT_MS)
    first = until(lambda: frame_of(page), "a frame on the page")
    until(lambda: frame_of(page) >= first + 3, "three more frames on the page, without a reload")
    assert TailLease.objects.count() == 1

    reader.open("/live")
    row = page.locator("#running tr", has_text=TASK)
    expect(row.locator("td.progress")).to_have_text(
        re.compile(r"\d+ %, frame \d+ of 90"), timeout=WAIT_MS
    )
    until(lambda: not TailLease.objects.exists(), "the lease's end with its reader")
    until(lambda: not TailChunk.objects.exists(), "no chunk without a reader")

    reader.open(PAGE)
    page.get_by_role("link", name="Cancel").click()
    page.select_option("select[name=decision]", "skip")
    page.get_by_role("button", name="Cancel task").click()
    reader.open(PAGE)
    recorded = page.locator("#p-runs")
    expect(recorded).to_contain_text("cancelled", timeout=WAIT_MS)
    expect(page.locator("#tail")).to_be_hidden()
    expect(recorded).to_contain_text(re.compile(r"state saved at frame \d+"))
    expect(recorded).to_contain_text("asked to end")
    expect(recorded).to_contain_text("frame 1 of 90")
