"""Live output on a task's page in a real browser: it moves, it stands still, it ends."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
from django.utils import timezone
from playwright.sync_api import expect

from domain.live_tail import TailState
from recorder.models import Run, RunState
from tests.browser.conftest import Reader
from tests.browser.sample import SLOTS, TOPIC
from tests.browser.test_accessibility import in_both_themes
from tests.browser.test_pages import tell
from tests.support.proxy import Away, Pass, Proxy
from tests.support.tails import BeatingWorker

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000
TASK = "1:99:0"
FREE = SLOTS
"""A slot that no task of the fleet was in."""
PAGE = f"/task/main/{TASK}?topic={TOPIC}"


@pytest.fixture
def worker(reader: Reader) -> Iterator[BeatingWorker]:
    """A worker that says it runs the task."""
    run = Run.objects.get(worker="worker-2")
    began = timezone.now() - timedelta(seconds=60)
    task = {"partition": 1, "offset": 99, "task_id": TASK, "attempt": 1, "slot": FREE}
    tell(run, "task_started", ts=began, queue_ms=1.0, **task)
    beat = RunState.objects.get(run=run)
    running = [{"task_id": TASK, "slot": FREE, "topic": TOPIC, "partition": 1, "offset": 99}]
    RunState.objects.filter(run=run).update(
        pool={"slots": 4, "busy": 1, "waiting": 0, "running": running},
        partitions=beat.partitions,
        beat_at=timezone.now(),
    )
    made = BeatingWorker(run)
    made.stands(pid=4711, stdout_bytes=0, stderr_bytes=0)
    with made.beating():
        yield made


def test_a_running_task_s_output_moves_and_becomes_the_recorded_one(
    reader: Reader, worker: BeatingWorker
) -> None:
    page = reader.page
    reader.open(PAGE)
    tail = page.locator("#tail")
    out, err = tail.locator("[data-stream=stdout]"), tail.locator("[data-stream=stderr]")
    expect(tail.get_by_role("status")).to_have_text("running", timeout=WAIT_MS)
    expect(out).to_contain_text("nothing yet")
    expect(err).to_contain_text("nothing yet")
    worker.stands(
        pid=4711, slot=0, stdout_bytes=21, stderr_bytes=0, elapsed_seconds=3.25, cpu_seconds=2.5,
        rss_bytes=64 * 1024 * 1024, processes=2, progress=0.42, note="frame 42 of <b>100</b>",
    )  # fmt: skip
    worker.prints(b"\x1b[31mframe 1\x1b[0m <i>\n", task_id=TASK)
    box = out.locator("pre")
    expect(box).to_contain_text("␛[31mframe 1␛[0m <i>", timeout=WAIT_MS)
    expect(out).to_contain_text("21 bytes so far")
    expect(err).to_contain_text("nothing yet")
    expect(tail).to_contain_text("4711, slot 0")
    expect(tail).to_contain_text("64 MiB in 2 processes")
    expect(tail).to_contain_text("42 %, frame 42 of <b>100</b>")
    assert tail.locator("progress").evaluate("e => e.value") == pytest.approx(0.42)
    worker.prints(b"frame 9\n", offset=1021, task_id=TASK)
    expect(box.locator(".cutout")).to_have_text("1,000 bytes left out", timeout=WAIT_MS)
    expect(box).to_contain_text("frame 9")
    assert in_both_themes(page, PAGE) == []
    box.focus()
    assert box.evaluate("e => e === document.activeElement"), "it can be scrolled by keyboard"
    worker.stands(state=TailState.ABSENT)
    tell(
        worker.run, "task_completed", partition=1, offset=99, task_id=TASK, attempt=1, slot=0,
        duration_ms=900.0, exit_code=0, stdout=b"all of it", stdout_size=9, stderr=b"",
        stderr_size=0,
    )  # fmt: skip
    expect(tail).to_be_hidden(timeout=WAIT_MS)
    expect(page.locator("#p-runs")).to_contain_text("all of it")
    expect(page.locator("#p-head")).to_contain_text("completed")


@pytest.mark.slow
def test_the_dom_stays_small_and_the_reader_s_place_is_kept(
    reader: Reader, worker: BeatingWorker
) -> None:
    page = reader.page
    page.set_viewport_size({"width": 390, "height": 844})
    reader.open(PAGE)
    tail = page.locator("#tail")
    expect(tail.get_by_role("status")).to_have_text("running", timeout=WAIT_MS)
    box = tail.locator("[data-stream=stdout] pre")
    lines = [f"line {number:06d} {'x' * 200}\n".encode() for number in range(2000)]
    offset = 0
    for first in range(0, len(lines), 200):
        block = b"".join(lines[first : first + 200])
        worker.stands(stdout_bytes=offset + len(block), stderr_bytes=0)
        worker.prints(block, offset, task_id=TASK)
        offset += len(block)
        mark = f"line {first + 199:06d}"
        expect(box).to_contain_text(mark, timeout=WAIT_MS)
    assert box.evaluate("e => e.textContent.length") < 260_000
    expect(box.locator(".cutout").first).to_have_text("earlier output is no longer here")
    # Who is at the end follows it; who scrolled up is left where they are.
    assert box.evaluate("e => e.scrollHeight - e.scrollTop - e.clientHeight") < 24
    box.evaluate("e => { e.scrollTop = 1000; }")
    page.wait_for_function("document.querySelector('#tail pre').scrollTop === 1000")
    worker.prints(b"the end\n", offset, task_id=TASK)
    expect(box).to_contain_text("the end", timeout=WAIT_MS)
    assert box.evaluate("e => e.scrollTop") == 1000
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_worker_and_a_database_that_go_away_are_named(
    reader: Reader, worker: BeatingWorker, database: Proxy
) -> None:
    page = reader.page
    reader.open(PAGE)
    status = page.locator("#tail").get_by_role("status")
    expect(status).to_have_text("running", timeout=WAIT_MS)
    worker.stands(state=TailState.REFUSED, detail="the worker shows 8 tasks already")
    expect(status).to_contain_text("refused: the worker shows 8 tasks already", timeout=WAIT_MS)
    worker.stands(stdout_bytes=8, stderr_bytes=0)
    worker.prints(b"the last", task_id=TASK)
    output = page.locator("[data-stream=stdout] pre")
    expect(output).to_contain_text("the last", timeout=WAIT_MS)
    database.set(Away())
    expect(status).to_contain_text("database away", timeout=WAIT_MS)
    expect(page.locator("#cut")).to_be_visible()
    database.set(Pass())
    expect(status).to_have_text("running", timeout=WAIT_MS)
    expect(page.locator("#cut")).to_be_hidden()
    reader.complaints.clear()  # each attempt to come back says that it failed
    worker.prints(b"the last", task_id=TASK)
    expect(output).to_contain_text("the last", timeout=WAIT_MS)
    RunState.objects.filter(run=worker.run).update(state="lost")
    expect(status).to_contain_text("worker lost: worker-2 fell silent", timeout=WAIT_MS)
    expect(output).to_contain_text("the last")
    expect(page.locator("#p-runs")).to_contain_text("cut short")


def running_pixels(reader: Reader) -> int:
    """Pixels of the timeline in the colour in which progress is drawn."""
    found = reader.page.evaluate(
        """() => {
          const canvas = document.getElementById("canvas"), probe = document.createElement("i");
          probe.style.color = "var(--running-t)";
          document.body.append(probe);
          const [r, g, b] = getComputedStyle(probe).color.match(/\\d+/g).map(Number);
          probe.remove();
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          let count = 0;
          for (let i = 0; i < data.length; i += 4)
            if (data[i] === r && data[i + 1] === g && data[i + 2] === b) count++;
          return count;
        }"""
    )
    assert isinstance(found, int)
    return found


def test_progress_fills_its_bar_and_stands_in_the_running_table(
    reader: Reader, worker: BeatingWorker
) -> None:
    page = reader.page
    started = (timezone.now() - timedelta(seconds=60)).timestamp()
    task = {
        "task_id": TASK, "slot": FREE, "topic": TOPIC, "partition": 1, "offset": 99, "attempt": 1,
        "started_at": started,
    }  # fmt: skip

    def says(progress: float | None, note: str = "") -> None:
        running = [{**task, "progress": progress, "note": note}]
        pool = {"slots": 4, "busy": 1, "waiting": 0, "running": running}
        RunState.objects.filter(run=worker.run).update(pool=pool, beat_at=timezone.now())

    reader.open("/live")
    row = page.locator("#running tr", has_text=TASK)
    says(0.1, "frame 10 of <b>100</b>")
    expect(row.locator("td.progress")).to_have_text("10 %, frame 10 of <b>100</b>", timeout=WAIT_MS)
    little = running_pixels(reader)
    says(0.9)
    expect(row.locator("td.progress")).to_have_text("90 %", timeout=WAIT_MS)
    assert row.locator("progress").evaluate("e => e.value") == pytest.approx(0.9)
    page.wait_for_function("new Promise(done => requestAnimationFrame(() => done(true)))")
    assert running_pixels(reader) > little + 500
    page.set_viewport_size({"width": 390, "height": 844})
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
