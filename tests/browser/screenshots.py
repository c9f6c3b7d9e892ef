"""``make screenshots``: a picture of each page in both themes, into ``docs/images/``.

Starts a PostgreSQL, a Kafka and a daphne of its own, fills them with a sample, and ends them.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
import sys
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import django
from confluent_kafka import Producer
from django.core.management import call_command
from playwright.sync_api import Browser, BrowserContext, Page, expect

from integration.services import kafka_mock, postgres
from integration.services.ports import free_port
from tests.browser.stage import PASSWORD, USER, browser_beside_django, sign_in

CHECKOUT = Path(__file__).resolve().parents[2]
IMAGES = CHECKOUT / "docs" / "images"
THEMES = ("light", "dark")
WIDE, NARROW = (1280, 860), (390, 844)
WAIT_MS = 20_000
TOPIC, TENANTS = "search.requests", ("acme", "gamla", "nord", "sund")
OTHER_TOPICS = (
    "search.requests_dlq", "search-results", "search-requests", "search-requests_retry",
    "search.requests_retry", "search-requests_dlq", "symbol-counts",
)  # fmt: skip
CHOSEN = "/control/partitions?action=pause_partition&cluster=main&all=1"
RECEIVERS = {
    "NIGHT__APPRISE_URL": "pagerduty://integration:key@a_service",
    "NIGHT__MIN_SEVERITY": "page",
    "TEAM__APPRISE_URL": "slack://token-a/token-b/token-c/kafka",
}
"""Environment of the site, below ``DRAKKAR_SITE__NOTIFY__RECEIVERS__``."""


@dataclass(frozen=True, slots=True)
class Shot:
    """A picture of a page. ``ready`` must be on the page before; ``is_narrow``: on a phone too."""

    name: str
    path: str
    ready: str = "main"
    is_narrow: bool = False


def shots() -> list[Shot]:
    """Every page, those with an address of their own by what the sample holds."""
    from recorder.models import Event, FailureGroup
    from sinks.models import DeadLetter

    failed = Event.objects.filter(kind="task_failed").latest("ts")
    letter = DeadLetter.objects.latest("at")
    group = FailureGroup.objects.get(title__contains="No such file")
    return [
        Shot("dashboard", "/", ".tile", is_narrow=True),
        Shot("trends", "/trends?cluster=main&range=6h", "#chart-rate canvas", is_narrow=True),
        Shot("trend", "/trends/duration?range=7d&compare=before", "#chart-duration canvas"),
        Shot("workers", "/workers", "td", is_narrow=True),
        Shot("worker", "/workers/main/worker-2", "#p-versions ins", is_narrow=True),
        Shot("versions", "/versions?cluster=main&since=24h", "ins", is_narrow=True),
        Shot("partitions", "/partitions", "td", is_narrow=True),
        Shot("partition", f"/partitions/main/{TOPIC}/42", "#trends canvas"),
        Shot("partitions-chosen", CHOSEN, "dl.facts"),
        Shot("sinks", "/sinks", "td"),
        Shot("live", "/live", "#some[aria-busy=false]", is_narrow=True),
        Shot("live-arrange", "/live#arrange", "#arranged td"),
        Shot("live-collect", "/live#collect", "#collected td"),
        Shot("history", "/history", "td", is_narrow=True),
        Shot("trace-search", "/trace?cluster=main&q=tenant%3Dnord", "td", is_narrow=True),
        Shot("trace", f"/trace/{TOPIC}/{failed.partition}:{failed.offset}", is_narrow=True),
        Shot("task", f"/task/main/{failed.task_id}?topic={TOPIC}", is_narrow=True),
        Shot("task-running", f"/task/main/{running_task()[1]}?topic={TOPIC}", ".cutout", True),
        Shot("failures", "/failures", "#groups td", is_narrow=True),
        Shot("failure", f"/failures/{group.pk}", "#h-samples", is_narrow=True),
        Shot("dead-letters", "/dead-letters", "td"),
        Shot("dead-letter", f"/dead-letters/{letter.pk}"),
        Shot("letter-edit", f"/dead-letters/{letter.pk}/edit"),
        Shot("letter-job", f"/dead-letters/jobs/new?action=source&of=chosen&letter={letter.pk}"),
        Shot("rerun", "/reruns/new?cluster=main&failure=exit&since=1h", "dl.facts"),
        Shot("databases", "/debug/databases", "td"),
        Shot("debug", "/debug", "td"),
        Shot("control", "/control", "td"),
        Shot("probe", "/probe"),
        Shot("topics", f"/topics?topic={TOPIC}&of=main", ".content", is_narrow=True),
        Shot("notifications", "/notifications", "td", is_narrow=True),
        Shot("audit", "/audit"),
        Shot("tokens", "/tokens", "td"),
        Shot("admin", "/admin/", "td", is_narrow=True),
    ]


def running_task() -> tuple[Any, str]:
    """A run of the fleet, and a task that it runs."""
    from recorder.models import RunState

    beat = RunState.objects.filter(state="ready").select_related("run").earliest("run__started_at")
    return beat.run, next(task.task_id for task in beat.pool.running or ())


@contextmanager
def printing() -> Iterator[None]:
    """The running task has printed more than is shown, and says how far it is."""
    from domain.live_tail import Piece
    from tests.support.tails import BeatingWorker
    from workers.runtime.live_tails import Tap

    worker = BeatingWorker(running_task()[0])
    frames = [f"frame {number:02d}  {40 + number * 7 % 23} ms\n" for number in range(1, 43)]
    shown, written = "".join(frames[-12:]).encode(), sum(map(len, frames))
    warned = b"texture missing: using default\n"
    worker.stands(
        pid=4711, slot=0, elapsed_seconds=38.2, cpu_seconds=36.9, rss_bytes=412 * 1024 * 1024,
        processes=3, stdout_bytes=written, stderr_bytes=len(warned), progress=42 / 90,
        note="frame 42 of 90",
    )  # fmt: skip

    def begun(tap: Tap) -> None:
        first = written - len(shown)
        tap.write(Piece(attempt=1, stream="stdout", offset=first, data=shown))
        tap.write(Piece(attempt=1, stream="stderr", offset=0, data=warned))

    worker.follower.begun = begun
    with worker.beating():
        yield


@contextmanager
def stage() -> Iterator[str]:
    """The address of a site with the sample fleet."""
    with tempfile.TemporaryDirectory(prefix="drakkar-") as name:
        folder, port = Path(name), free_port()
        os.environ["DJANGO_SETTINGS_MODULE"] = "drakkar_site.settings"
        os.chdir(CHECKOUT)
        os.environ["DRAKKAR_CONFIG"] = "drakkar.yaml"  # no picture shows where the checkout lies
        os.environ["DRAKKAR_CLUSTERS__MAIN__KAFKA__TOPIC"] = TOPIC
        for name, value in RECEIVERS.items():
            os.environ[f"DRAKKAR_SITE__NOTIFY__RECEIVERS__{name}"] = value
        os.environ["DRAKKAR_SITE__DATABASE_URL"] = postgres.database_url(port)
        with kafka_mock.running(folder / "kafka") as kafka, postgres.running(folder / "pg", port):
            for cluster in ("MAIN", "FAST"):
                os.environ[f"DRAKKAR_CLUSTERS__{cluster}__KAFKA__BROKERS"] = kafka.brokers
            _produce(kafka)
            django.setup()
            _fill()
            from tests.support.site import running_site

            with running_site(folder) as site:
                yield site.address


def _produce(kafka: kafka_mock.RunningMock) -> None:
    """The topics that the configuration names, with messages in the source topic."""
    for name in (TOPIC, *OTHER_TOPICS):
        kafka.create_topic(name, 4)
    producer = Producer({"bootstrap.servers": kafka.brokers})
    for number in range(40):
        words = ("gull", "cod", "herring", "seal")[number % 4]
        value = json.dumps({"corpus": f"c{number % 9}", "pattern": words, "request": number})
        headers: list[tuple[str, str | bytes | None]] = [("tenant", TENANTS[number % 4].encode())]
        producer.produce(TOPIC, value, f"r-{number}", partition=number % 4, headers=headers)
    assert producer.flush(20) == 0


def _fill() -> None:
    from django.contrib.auth.models import User
    from django.utils import timezone

    from recorder.partitions import create_ahead
    from tests.browser.sample import controller, failures, fleet, letters
    from tests.browser.sample_failures import failure_groups
    from tests.browser.sample_rollups import deploy, rollups
    from tests.browser.sample_site import metrics, notices, people

    call_command("migrate", verbosity=0)
    create_ahead(timezone.now())
    runs = fleet()
    rollups(runs, minutes=13 * 60, hours=15 * 24)
    deploy(runs[1])
    metrics(runs)
    letters(runs)
    failures()
    failure_groups(runs)
    controller()
    notices()
    people(User.objects.create_superuser(USER, password=PASSWORD))


def _context(browser: Browser, theme: str, size: tuple[int, int]) -> BrowserContext:
    found = browser.new_context(viewport={"width": size[0], "height": size[1]}, locale="en-GB")
    found.add_init_script(f"localStorage.setItem('theme', {theme!r})")
    return found


def _beat() -> None:
    """The fleet lives on while its pictures are taken."""
    from django.utils import timezone

    from recorder.models import RunState

    RunState.objects.filter(state="ready").update(beat_at=timezone.now())


def _take(page: Page, address: str, shot: Shot, file: Path) -> None:
    _beat()
    page.goto(f"http://{address}{shot.path}")
    page.wait_for_selector(shot.ready, timeout=WAIT_MS)
    conn = page.locator("#conn")
    if conn.count() and shot.path.split("#")[0] in ("/", "/workers", "/partitions", "/live"):
        expect(conn).to_have_text(re.compile("Live"), timeout=WAIT_MS)
    file.write_bytes(_small(page, page.screenshot()))


def _small(page: Page, picture: bytes) -> bytes:
    """The picture with a palette: a third of its size."""
    blank = page.context.new_page()
    script = (Path(__file__).parent / "palette.js").read_text()
    found = blank.evaluate(script, base64.b64encode(picture).decode())
    blank.close()
    rows = zlib.decompress(base64.b64decode(found["packed"]))
    header = struct.pack(">IIBBBBB", found["width"], found["height"], 8, 3, 0, 0, 0)
    chunks = (
        (b"IHDR", header),
        (b"PLTE", bytes(found["palette"])),
        (b"IDAT", zlib.compress(rows, 9)),
        (b"IEND", b""),
    )
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(kind, content) for kind, content in chunks)


def _chunk(kind: bytes, content: bytes) -> bytes:
    """A PNG chunk: length, kind, content, checksum."""
    body = kind + content
    return struct.pack(">I", len(content)) + body + struct.pack(">I", zlib.crc32(body))


def main() -> int:
    """Take all of them; names on the command line choose some."""
    IMAGES.mkdir(parents=True, exist_ok=True)
    asked = sys.argv[1:]
    with stage() as address, printing(), browser_beside_django() as browser:
        chosen = [shot for shot in shots() if not asked or shot.name in asked]
        for theme in THEMES:
            for size, ending in ((WIDE, ""), (NARROW, "-narrow")):
                context = _context(browser, theme, size)
                page = context.new_page()
                sign_in(page, address)
                for shot in chosen:
                    if not ending or shot.is_narrow:
                        _take(page, address, shot, IMAGES / f"{shot.name}-{theme}{ending}.png")
                context.close()
    print(f"{len(list(IMAGES.glob('*.png')))} pictures in {IMAGES.relative_to(CHECKOUT)}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
