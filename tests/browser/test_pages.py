"""The pages in a real browser: live, quiet, and usable."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import transaction
from django.utils import timezone
from playwright.sync_api import Page, Response, expect

from recorder.models import Event, Run, RunState
from sinks.models import DeadLetter
from tests.browser.conftest import Reader
from tests.browser.sample import SLOTS, TOPIC, letters
from workers.control_plane.live.payloads import SHOWN_EVENTS

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000
ONCE, TWICE = "1\N{MULTIPLICATION SIGN}", "2\N{MULTIPLICATION SIGN}"


def tell(run: Run, kind: str, **columns: object) -> None:
    """One more event of a run."""
    run.refresh_from_db()
    run.recorded_seq += 1
    at = {"ts": timezone.now(), "topic": TOPIC}
    Event.objects.create(run=run.id, seq=run.recorded_seq, kind=kind, **{**at, **columns})
    run.save()


def test_the_dashboard_follows_the_workers(reader: Reader) -> None:
    page = reader.page
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    expect(page.locator(".tile")).to_have_count(50)
    beat = RunState.objects.filter(run__worker="worker-1").order_by("-run__started_at").first()
    assert beat is not None
    beat.counters = replace(beat.counters, consumed=12_345_678)
    beat.beat_at = timezone.now()
    beat.save()
    expect(page.locator("#p-counters")).to_contain_text("12,5", timeout=WAIT_MS)


def test_an_end_told_after_it_was_missed_is_one_line(reader: Reader) -> None:
    page = reader.page
    reader.open("/live")
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    RunState.objects.filter(state="ready").update(beat_at=timezone.now())
    run = Run.objects.get(worker="worker-2")
    task = {"partition": 1, "offset": 77, "task_id": "1:77:0", "attempt": 1}
    tell(run, "task_started", slot=None, ts=timezone.now() - timedelta(seconds=30), **task)
    line = page.locator("#finished tr", has_text="1:77:0")
    expect(line).to_contain_text("end not told", timeout=WAIT_MS)
    tell(run, "task_failed", slot=None, duration_ms=9.0, data={"failure": "oom"}, **task)
    expect(line.filter(has_text="oom")).to_be_visible(timeout=WAIT_MS)
    expect(line).to_have_count(1)


@pytest.mark.slow
def test_what_is_wrong_is_told_under_a_resting_pointer_and_keeps_the_focus(reader: Reader) -> None:
    page, wrong = reader.page, reader.page.locator("#p-wrong")
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    page.hover("#p-wrong h2")
    RunState.objects.filter(run__worker="worker-3", state="ready").update(state="lost")
    expect(wrong).to_contain_text("worker-3: lost", timeout=WAIT_MS)
    link = wrong.locator("a[href*='/48:']")
    link.focus()
    address = link.get_attribute("href")
    RunState.objects.filter(run__worker="worker-2", state="ready").update(state="lost")
    expect(wrong).to_contain_text("worker-2: lost", timeout=WAIT_MS)
    assert page.evaluate("document.activeElement.getAttribute('href')") == address


def test_the_live_page(reader: Reader) -> None:
    page = reader.page
    reader.open("/live")
    canvas = page.locator("#canvas")
    expect(canvas).to_have_attribute("data-rows", str(3 * SLOTS), timeout=WAIT_MS)
    expect(canvas).to_have_attribute("data-bars", re.compile(r"\d{3,}"), timeout=WAIT_MS)
    expect(page.locator("#pool")).to_contain_text(f"of {3 * SLOTS} slots")
    run = Run.objects.get(worker="worker-2")
    task = {"partition": 1, "offset": 99, "task_id": "1:99:0", "attempt": 1}
    labels = {"tenant": "nobody-else"}
    tell(run, "task_started", slot=None, queue_ms=5.0, labels=labels, **task)
    running = page.locator("#running").get_by_text("tenant=nobody-else")
    expect(running).to_be_visible(timeout=WAIT_MS)
    tell(run, "task_failed", duration_ms=9.0, data={"failure": "oom"}, **task)
    finished = page.locator("#finished tr", has_text="1:99:0")
    expect(finished).to_contain_text("oom", timeout=WAIT_MS)
    page.keyboard.press("p")
    expect(page.locator("#frozen")).to_contain_text("Frozen at")
    page.keyboard.press("+")
    expect(page.locator("#level")).to_contain_text("2")
    page.click("#tab-collect")
    expect(page.locator("#collected tbody tr").first).to_be_visible()
    assert page.url.endswith("#collect")


def test_no_live_page_is_wider_than_a_telephone(reader: Reader) -> None:
    reader.page.set_viewport_size({"width": 390, "height": 844})
    for path in ("/workers", "/partitions", f"/partitions/main/{TOPIC}/7", "/sinks"):
        reader.open(path)
        expect(reader.page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= 390, path


def test_long_words_do_not_widen_a_page(reader: Reader) -> None:
    reader.page.set_viewport_size({"width": 390, "height": 844})
    run, word = Run.objects.get(worker="worker-2"), "z" * 900
    same = {"partition": 1, "offset": 99, "task_id": "1:99:0", "attempt": 1, "args": [word * 9]}
    tell(run, "task_started", **same)
    output = {"stdout": b"a\0b\n" * 9000, "stdout_size": 36_000}
    tell(run, "task_failed", duration_ms=9.0, data={"failure": "exit"}, **output, **same)
    letters([run])
    DeadLetter.objects.update(reason=word, stage="deliver")
    letter = DeadLetter.objects.latest("pk").pk
    for path in (
        f"/task/main/1:99:0?topic={TOPIC}", f"/dead-letters/{letter}",
        f"/dead-letters/{letter}/edit", f"/history?partition={word}",
        f"/dead-letters/jobs/new?action=source&of=chosen&letter={letter}",
    ):  # fmt: skip
        reader.open(path)
        assert reader.page.evaluate("document.documentElement.scrollWidth") <= 390, path
        inner = reader.page.locator(".told, p.st").evaluate_all(
            "all => all.map(e => e.scrollWidth)"
        )
        assert max(inner, default=0) <= 390, path
    reader.complaints = [said for said in reader.complaints if "status of 400" not in said]
    reader.open(f"/task/main/1:99:0?topic={TOPIC}")
    output_box = reader.page.locator("pre.out").first
    expect(output_box).to_contain_text("a\N{SYMBOL FOR NULL}b")
    assert output_box.evaluate("e => e.clientHeight") <= 844 * 0.6


def test_long_labels_leave_room_for_the_rest_of_a_row(reader: Reader) -> None:
    labels = {name: name * 300 for name in "abcd"}
    tell(Run.objects.get(worker="worker-2"), "hook_slow", labels=labels, data={"hook": "arrange"})
    reader.open("/history?kind=hook_slow")
    row = reader.page.locator("#events tr")
    expect(row.locator(".label").last).to_have_attribute("title", f"d={labels['d']}")
    assert row.locator("td.clip").evaluate("e => e.getBoundingClientRect().right") <= 1280
    assert row.locator("td.clip").evaluate("e => e.clientWidth") >= 120


def bar(page: Page) -> tuple[float, float]:
    """A point of the canvas where a bar is: the hover says so."""
    box = page.locator("#canvas").bounding_box()
    assert box is not None
    for row in range(SLOTS):
        for x in range(int(box["width"]) - 200, 200, -7):
            at = box["x"] + x, box["y"] + 56 + 22 + 16 * row + 8
            page.mouse.move(*at)
            if page.locator("#canvas.pointing").count():
                return at
    raise AssertionError("no bar is drawn")


def open_live(reader: Reader) -> Page:
    """The live page with all its bars."""
    reader.open("/live")
    expect(reader.page.locator("#some")).to_have_attribute("aria-busy", "false", timeout=WAIT_MS)
    return reader.page


def test_the_lists_show_the_newest_of_all_workers(reader: Reader) -> None:
    page = open_live(reader)
    for name in ("arrange", "collect"):
        page.click(f"#tab-{name}")
        shown = page.locator(f"#{name} tbody .who")
        expect(shown).to_have_count(50, timeout=WAIT_MS)
        assert set(shown.all_inner_texts()) == {"worker-1", "worker-2", "worker-3"}


def test_the_timeline_by_pointer(reader: Reader) -> None:
    page = open_live(reader)
    page.click("#freeze")
    expect(page.locator("#freeze")).to_have_text("Go on")
    at = bar(page)
    tip = page.locator("#tip")
    expect(tip).to_contain_text("queue wait")
    expect(tip).to_contain_text("tenant=")
    name = tip.locator("b.mono").inner_text()
    page.click("#in")
    expect(page.locator("#level")).to_have_text(TWICE)
    page.click("#out")
    expect(page.locator("#level")).to_have_text(ONCE)
    page.mouse.move(*at)
    page.mouse.wheel(0, -300)
    expect(page.locator("#level")).not_to_have_text(ONCE)
    page.click("#level")
    expect(page.locator("#level")).to_have_text(ONCE)
    expect(page.locator("#frozen")).to_be_hidden()
    page.click("#freeze")
    page.mouse.click(*bar(page))
    page.wait_for_url(re.compile(r"/task/main/"))
    assert re.fullmatch(r"\d+:\d+:0", name)
    expect(page.locator("h1")).to_contain_text("Task")


def test_who_looks_back_further_gets_it_from_the_history(reader: Reader) -> None:
    run = Run.objects.get(worker="worker-2")
    at = timezone.now() - timedelta(minutes=14)
    task = {"partition": 1, "offset": 5, "task_id": "1:5:0", "attempt": 1, "slot": 0}
    tell(run, "task_failed", ts=at, duration_ms=20_000.0, data={"failure": "oom"}, **task)
    page = open_live(reader)
    canvas = page.locator("#canvas")
    expect(canvas).to_have_attribute("data-begin", "earlier not loaded")
    page.focus("#canvas")
    answers: list[Response] = []
    page.on("response", lambda got: answers.append(got) if "live/earlier" in got.url else None)
    for _ in range(20):
        for _ in range(10):
            page.keyboard.press("Shift+ArrowLeft")
        expect(canvas).not_to_have_attribute("data-begin", re.compile("loading"), timeout=WAIT_MS)
        if canvas.get_attribute("data-begin") == "the history begins here":
            break
    expect(canvas).to_have_attribute("data-begin", "the history begins here")
    told = {event["task_id"] for answer in answers for event in answer.json()["events"]}
    assert "1:5:0" in told
    page.keyboard.press("0")
    expect(canvas).to_have_attribute("data-begin", "earlier not loaded", timeout=WAIT_MS)


def test_what_comes_too_fast_to_be_drawn_is_counted(reader: Reader) -> None:
    page = open_live(reader)
    expect(page.locator("#missing")).to_be_hidden()
    run = Run.objects.get(worker="worker-2")
    with transaction.atomic():
        for number in range(SHOWN_EVENTS + 20):
            task = {"task_id": f"1:{number}:0", "offset": number, "partition": 1}
            tell(run, "task_completed", duration_ms=900.0 + number, slot=0, attempt=1, **task)
    expect(page.locator("#missing")).to_contain_text("20 events", timeout=WAIT_MS)


def test_the_timeline_by_keyboard_alone(reader: Reader) -> None:
    page = open_live(reader)
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.id") == "canvas":
            break
    assert page.evaluate("document.activeElement.id") == "canvas"
    page.keyboard.press("Space")
    expect(page.locator("#frozen")).to_contain_text("Frozen at")
    page.keyboard.press("+")
    expect(page.locator("#level")).to_have_text(TWICE)
    page.keyboard.press("-")
    page.keyboard.press("0")
    expect(page.locator("#frozen")).to_be_hidden()
    page.keyboard.press("p")
    expect(page.locator("#frozen")).to_contain_text("Frozen at")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("ArrowDown")
    chosen = page.locator("#tip b.mono")
    expect(chosen).to_be_visible()
    name = chosen.inner_text()
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile(r"/task/main/"))
    expect(page.locator("h1")).to_contain_text(name)


def test_the_keys_of_every_page(reader: Reader) -> None:
    page = open_live(reader)
    page.keyboard.press("?")
    expect(page.locator("#help")).to_be_visible()
    page.keyboard.press("Escape")
    expect(page.locator("#help")).to_be_hidden()
    page.keyboard.press("f")
    expect(page.locator("#find")).to_be_focused()
    reader.open("/partitions")
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    page.keyboard.press("p")
    expect(page.locator("#conn")).to_contain_text("Paused")
    page.keyboard.press("p")
    expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
    page.keyboard.press("f")
    assert page.evaluate("document.activeElement.name") == "text"


def test_the_palette_leads_anywhere_by_keyboard(reader: Reader) -> None:
    page = reader.page
    reader.open("/topics")
    page.keyboard.press("/")
    field = page.get_by_role("combobox", name="Page, partition:offset")
    places = page.locator("#places [role=option]")
    expect(field).to_be_focused()
    expect(places.first).to_contain_text("Dashboard", timeout=WAIT_MS)
    field.fill("worker-2")
    expect(places.first).to_contain_text("cluster main", timeout=WAIT_MS)
    field.fill("7")
    expect(places.first).to_contain_text("Partition 7", timeout=WAIT_MS)
    field.fill("audi")
    audit = places.and_(page.locator("[aria-selected=true]")).filter(has_text="Audit")
    expect(audit).to_be_visible(timeout=WAIT_MS)
    page.keyboard.press("Enter")
    page.wait_for_url(re.compile("/audit$"))
    page.keyboard.press("Control+k")
    field.fill("what nobody knows")
    expect(places).to_have_count(3, timeout=WAIT_MS)
    page.keyboard.press("ArrowDown")
    expect(places.and_(page.locator("[aria-selected=true]"))).to_contain_text("in the traces")
    page.keyboard.press("Escape")
    expect(page.locator("#palette")).to_be_hidden()


def test_a_time_of_another_day_has_its_date(reader: Reader) -> None:
    page = reader.page
    Run.objects.update(started_at="2026-03-14T10:30:00Z")
    devtools = page.context.new_cdp_session(page)
    devtools.send("Emulation.setTimezoneOverride", {"timezoneId": "Pacific/Auckland"})
    started = page.locator("main time[datetime]").first
    page.clock.set_fixed_time("2027-01-01T00:00:00Z")
    reader.open("/debug/databases")
    expect(started).to_have_text("2026-03-14 10:30:00.000", timeout=WAIT_MS)
    page.clock.set_fixed_time("2026-03-15T00:00:00Z")
    reader.open("/debug/databases")
    expect(started).to_have_text("03-14 10:30:00.000", timeout=WAIT_MS)
    page.clock.set_fixed_time("2026-03-14T13:00:00Z")
    reader.open("/debug/databases")
    expect(started).to_have_text("10:30:00.000", timeout=WAIT_MS)
    page.click("#clock")
    expect(page.locator("#clock")).to_have_text("Local")
    expect(started).to_have_text("03-14 23:30:00.000", timeout=WAIT_MS)


def test_the_page_of_an_open_task_follows_it(reader: Reader) -> None:
    run = Run.objects.get(worker="worker-2")
    task = {"partition": 1, "offset": 99, "task_id": "1:99:0", "attempt": 1}
    tell(run, "task_started", slot=None, queue_ms=5.0, **task)
    reader.open("/task/main/1:99:0")
    expect(reader.page.locator("#p-head")).to_contain_text("running")
    tell(run, "task_failed", duration_ms=9.0, data={"failure": "oom"}, **task)
    expect(reader.page.locator("#p-runs")).to_contain_text("oom", timeout=WAIT_MS)


def test_a_trace_follows_what_runs(reader: Reader) -> None:
    run = Run.objects.get(worker="worker-2")
    task = {"partition": 1, "offset": 99, "task_id": "1:99:0", "attempt": 1}
    tell(run, "task_started", slot=None, queue_ms=5.0, **task)
    reader.open(f"/trace/{TOPIC}/1:99")
    expect(reader.page.locator("#p-head")).to_contain_text("so far")
    tell(run, "task_failed", duration_ms=9.0, data={"failure": "oom"}, **task)
    expect(reader.page.locator("#p-raw")).to_contain_text("task_failed", timeout=WAIT_MS)
    expect(reader.page.locator("#p-water")).to_contain_text("oom")


def test_a_text_is_copied_or_where_that_is_forbidden_selected(reader: Reader) -> None:
    page = reader.page
    reader.open(f"/partitions/main/{TOPIC}/42")
    copy = page.get_by_role("button", name=f"Copy {TOPIC}/42")
    page.evaluate("() => { navigator.clipboard.writeText = async (t) => { window.copied = t; }; }")
    copy.click()
    page.wait_for_function("() => window.copied", timeout=WAIT_MS)
    assert page.evaluate("window.copied") == f"{TOPIC}/42"
    page.evaluate("() => { navigator.clipboard.writeText = () => Promise.reject(new Error()); }")
    copy.click()
    expect(page.locator("h1")).to_contain_text("press Ctrl-C", timeout=WAIT_MS)
    assert page.evaluate("getSelection().toString().trim()") == f"{TOPIC}/42"


def test_times_of_filters_follow_the_clock_and_are_sent_in_utc(reader: Reader) -> None:
    page = reader.page
    devtools = page.context.new_cdp_session(page)
    devtools.send("Emulation.setTimezoneOverride", {"timezoneId": "Pacific/Auckland"})
    reader.open("/audit?since=2026-03-14T03:10")
    since = page.get_by_label("from", exact=True)
    expect(since).to_have_value("2026-03-14T03:10")
    page.locator("#clock").click()
    expect(since).to_have_value("2026-03-14T16:10")
    expect(page.locator(".zone")).to_have_text("local time")
    since.fill("2026-03-15T01:30")
    page.get_by_role("button", name="Show").click()
    page.wait_for_url(re.compile("since=2026-03-14T12%3A30"))
    expect(since).to_have_value("2026-03-15T01:30")
