"""Every page and every answer of the API over a history that holds what topics and handlers may
put there: no failure, no page without bound, nothing that a browser would obey."""

from __future__ import annotations

import re
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import fields
from html import unescape
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_type_hints

import orjson
import pytest
from django.contrib.auth.models import User
from django.db import transaction
from django.test import Client

from domain.events import KINDS, Event
from domain.letter import LetterContent
from drakkar_site.api import api
from recorder.config import RecorderConfig
from recorder.export import Selection, export
from recorder.models import Event as EventRow
from recorder.models import Run
from recorder.rows import to_row
from sinks.letter_rows import store_letters
from sinks.models import DeadLetter
from tests.support.factories import make_run
from workers.control_plane.live.payloads import FRAME_BYTES, Events, live_event, parts_of, text_of

pytestmark = pytest.mark.django_db
MARKUP = "<script>alert(1)</script>"
DEEP = ("[" * 850 + "]" * 850 + ",") * 36
TEXTS = (
    "plain", "", MARKUP, "nul \0 in it", "half \ud800 pair", "\x1b[31mred\x07\x9b",
    "turned \u202e round", "\"'&<>`=", "{% load x %}{{ y }}", "a/b", "..", "?x=1#y", "%2e%00\r\n",
    "x" * 200_000, "\N{SNOWMAN}" * 3000, f"[{DEEP[:-1]}]"[:65_536],
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31 - 1, 7)
LONG_NUMBERS = (0, 1, -1, 2**63 - 1, 1_700_000_000_000_000, 7)
FLOATS = (0.0, 1.5, -1.0, 1e300, float("inf"), float("nan"), 1e18)
LONG = frozenset({"offset", "end_offset", "letter_offset", "timestamp", "size_bytes", "committed",
                  "stdout_size", "stderr_size", "max_rss_bytes"})  # fmt: skip
WORDS_OF_OURS = {"stage": "collect", "failure": "handler", "letter_topic": "dlq"}
MOST_BYTES = 3 * 1024 * 1024
MOST_API_BYTES = 8 * 1024 * 1024
MOST_PAGES = 400
STEERING = re.compile(rb"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f]|\xc2[\x80-\x9f]|\xe2\x80[\xaa-\xae]")
NO_NUMBER = re.compile(rb"[:,\[]\s*(NaN|-?Infinity)")
LINK = re.compile(r'href="([/?][^"]*)"')


def value_of(name: str, hint: str, number: int) -> Any:
    """A strange value for a field of an event."""
    text = TEXTS[number % len(TEXTS)]
    if name == "content":
        raw = text.encode("utf-8", "replace")
        return LetterContent(
            key=raw[:100], value=raw[:65_536], headers=((text[:200], raw[:100]), ("none", None)),
            size_bytes=len(raw), is_whole=True, fingerprint="f", origin=text[:900],
        )  # fmt: skip
    if "Mapping[str, int]" in hint:
        return {"x": NUMBERS[number % 5], text[:64]: 2**40}
    if "Mapping" in hint:
        return {text[:64]: text[:256], "number": 5, "deep": [[text[:50]]]}
    if "Sequence[int]" in hint:
        return [LONG_NUMBERS[number % len(LONG_NUMBERS)]]
    if "Sequence" in hint or "tuple" in hint:
        return [text[:130_000], MARKUP, "--token", text[:100]]
    if "bytes" in hint:
        return text.encode("utf-8", "replace") + b"\xff\x00"
    if "bool" in hint:
        return bool(number % 2)
    if "float" in hint:
        return FLOATS[number % len(FLOATS)]
    if "int" in hint:
        return (LONG_NUMBERS if name in LONG else NUMBERS)[number % 5]
    return text


def strange(kind: str, number: int) -> Event:
    """An event of the kind whose every field is strange."""
    event = KINDS[kind].event
    hints = {name: str(hint) for name, hint in get_type_hints(event).items()}
    given = {each.name: value_of(each.name, hints[each.name], number) for each in fields(event)}
    given["at"] = 1_770_000_000.0 + number
    given |= {name: text for name, text in WORDS_OF_OURS.items() if name in given}
    if "topic" in given:
        given["topic"] = ("t", "t", "t" * 249)[number % 3]  # Kafka takes no strange ones
    if "task_id" in given:
        given["task_id"] = ("0:1:0", TEXTS[number % len(TEXTS)])[number % 2]
    return event(**given)


@pytest.fixture
def run(db: None) -> Run:
    """A run whose beat tells strange things, with a history of strange events."""
    config = RecorderConfig()
    made = make_run(
        worker=MARKUP, host=MARKUP, version="\u202e",
        beat__waiting_for=MARKUP * 1000,
        beat__partitions=[
            {"topic": "t", "partition": 0, "state": "parked", "parked": {"x": "\x1b" * 9000},
             "blocker": {"offset": -1, "task_id": MARKUP, "age_seconds": 1e300}, "queue": None,
             "lag": 2**63, "committed": -1001, "position": -1, "high_watermark": None,
             "watermark": None, "pending": 5, "epoch": 1},
        ],
        beat__sinks=[],
    )  # fmt: skip
    rows: list[dict[str, Any]] = []
    for number in range(len(TEXTS)):
        for kind in KINDS:
            row = to_row(strange(kind, number), len(rows) + 1, config)
            rows.append(row)
    stored = [{**{k: v for k, v in row.items() if k != "content"}, "run": made.id} for row in rows]
    with transaction.atomic():
        EventRow.objects.copy_in(stored)
        Run.objects.filter(id=made.id).update(recorded_seq=len(rows))
        store_letters("main", MARKUP, [row for row in rows if "content" in row])
    return made


@pytest.fixture
def root(client: Client) -> Client:
    """Somebody who may see everything."""
    client.force_login(User.objects.create_superuser("root"))
    return client


def faults(where: str, answer: Any) -> Iterator[str]:
    """What is wrong with an answer."""
    content = b"".join(answer) if answer.streaming else answer.content
    if answer.status_code >= 500:
        yield f"{where}: {answer.status_code}"
    if len(content) > (MOST_API_BYTES if where.startswith("/api/") else MOST_BYTES):
        yield f"{where}: {len(content)} bytes"
    if "json" in answer.get("Content-Type", "") and (number := NO_NUMBER.search(content)):
        yield f"{where}: no JSON: {number[0]!r}"
    if "html" in answer.get("Content-Type", ""):
        if MARKUP.encode() in content:
            yield f"{where}: markup of the data's"
        if found := STEERING.search(content):
            yield f"{where}: {content[max(0, found.start() - 30) : found.end()]!r}"


STARTS = (
    "/", "/workers", "/partitions", "/sinks", "/live", "/history", "/trace", "/debug",
    "/debug/databases", "/control", "/probe", "/topics", "/dead-letters", "/dead-letters/jobs",
    "/audit", "/config", "/tokens", "/trace?q=0:1:0", "/trace?q=plain", "/trace?q=t/0:1",
    *(f"/history?kind={kind}" for kind in KINDS),
    "/admin/recorder/event/", "/admin/recorder/run/", "/admin/sinks/deadletter/",
)  # fmt: skip


def test_every_page_that_a_strange_history_leads_to_is_sound(
    run: Run, root: Client, settings: Any
) -> None:
    settings.DRAKKAR = SimpleNamespace(
        clusters={}, site=settings.DRAKKAR.site if settings.DRAKKAR else None
    )
    seen: set[str] = set()
    waiting = list(STARTS)
    bad: list[str] = []
    while waiting and len(seen) < MOST_PAGES:
        where = waiting.pop(0)
        if where in seen or where.startswith(("/logout", "/static", "/history/export")):
            continue
        seen.add(where)
        answer = root.get(where)
        bad += faults(where, answer)
        if "html" in answer.get("Content-Type", "") and not where.startswith("/admin/"):
            path = where.partition("?")[0]
            for link in LINK.findall(answer.content.decode()):
                target = unescape(link).partition("#")[0]
                waiting.append(path + target if target.startswith("?") else target)
    assert bad == []
    assert len(seen) > 100


def api_addresses(run: Run) -> Iterator[str]:
    """Every address of the API that is read, with things of the history in its path."""
    places: Mapping[str, tuple[str, ...]] = {
        "topic": ("t", MARKUP.replace("/", "")), "partition": ("0", "1"), "offset": ("1", "0", "7"),
        "cluster": ("main",), "task_id": ("0:1:0", "plain", MARKUP.replace("/", "")),
        "letter_id": ("1",),
    }  # fmt: skip
    for path, routes in api.get_openapi_schema()["paths"].items():
        if "get" not in routes:
            continue
        addresses = [path]
        for name in re.findall(r"{(\w+)}", path):
            values = places.get(name, (str(uuid.UUID(int=1)),))
            addresses = [a.replace(f"{{{name}}}", v) for a in addresses for v in values]
        yield from addresses
    yield from (f"/api/v1/events?kind={kind}" for kind in KINDS)
    yield from (f"/api/v1/trace?q={text}" for text in ("plain", "0:1:0", "t/0:1", "0:1"))


def test_every_answer_of_the_api_over_a_strange_history_is_sound(run: Run, root: Client) -> None:
    bad = [fault for where in api_addresses(run) for fault in faults(where, root.get(where))]
    assert bad == []


@pytest.mark.parametrize("form", ["csv", "json"])
def test_exports_of_a_strange_history_end(run: Run, root: Client, form: str) -> None:
    answer = root.get(f"/history/export?format={form}")
    assert answer.status_code == 200
    assert len(b"".join(answer) if answer.streaming else answer.content) > 10_000


def test_the_live_view_takes_every_row_of_a_strange_history(run: Run) -> None:
    events = [live_event(row, ("main", "worker")) for row in EventRow.objects.all()]
    parts = list(parts_of(events))
    assert sum(map(len, parts)) == len(events)
    for part in parts:
        frame = text_of(Events(n=1, cursor={}, events=part))
        assert len(orjson.loads(frame)["events"]) == len(part)
        assert len(frame) < 2 * FRAME_BYTES


@pytest.mark.parametrize("form", ["jsonl", "csv", "sqlite"])
def test_a_dump_of_a_strange_history_is_whole(run: Run, form: str, tmp_path: Path) -> None:
    summary = export(Selection(), tmp_path / "dump", form)
    assert summary.events == len(TEXTS) * len(KINDS)


def test_the_admin_shows_every_row_of_a_strange_history(run: Run, root: Client) -> None:
    rows = [f"recorder/event/{pk}" for pk in EventRow.objects.values_list("pk", flat=True)[::7]]
    rows += [f"sinks/deadletter/{pk}" for pk in DeadLetter.objects.values_list("pk", flat=True)]
    rows += [f"recorder/run/{run.pk}", f"recorder/runstate/{run.pk}"]
    bad: list[str] = []
    for row in rows:
        where = f"/admin/{row}/change/"
        answer = root.get(where)
        bad += faults(where, answer)
        if answer.status_code != 200:
            bad.append(f"{where}: {answer.status_code}")
    assert bad == []
