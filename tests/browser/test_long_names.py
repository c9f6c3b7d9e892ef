"""Names as long as Kafka, Kubernetes and handlers allow, and as hostile as anybody makes them."""

from __future__ import annotations

import pytest
from django.utils import timezone
from playwright.sync_api import Dialog, expect

from recorder.models import RunState
from tests.browser.conftest import Reader
from tests.browser.test_pages import WAIT_MS
from tests.web.conftest import MakeRun, make_run

__all__ = ["make_run"]
pytestmark = pytest.mark.django_db(transaction=True)
TOPIC = "x" * 249
MARKUP = "<script>alert(1)</script>" + "w" * 200
TASK = "0:5:0-" + "z" * 200


def hostile(make_run: MakeRun) -> None:
    """A worker of a cluster of its own, with nothing short about it."""
    blocker = {"offset": 5, "task_id": TASK, "age_seconds": 99.0}
    place = {"topic": TOPIC, "partition": 0, "state": "parked", "parked": {"poison": MARKUP}}
    sink = {"name": "s" * 60, "kind": "kafka", "breaker": "open", "last_error": MARKUP}
    run = make_run(
        MARKUP,
        cluster="hostile",
        partitions=[{**place, "lag": 29, "blocker": blocker}],
        pool={"slots": 4, "busy": 0, "waiting": 0, "running": []},
        sinks=[sink],
    )
    RunState.objects.filter(run=run).update(beat_at=timezone.now())


@pytest.mark.parametrize("width", [1280, 390])
def test_no_page_is_widened_by_a_name(reader: Reader, make_run: MakeRun, width: int) -> None:
    hostile(make_run)
    page, told = reader.page, list[Dialog]()
    page.on("dialog", lambda dialog: told.append(dialog))
    page.set_viewport_size({"width": width, "height": 860})
    for path in (
        "/",
        "/workers",
        "/partitions",
        f"/partitions/hostile/{TOPIC}/0",
        "/sinks",
        "/live",
    ):
        reader.open(path)
        expect(page.locator("#conn")).to_contain_text("Live", timeout=WAIT_MS)
        assert page.evaluate("document.documentElement.scrollWidth") <= width, path
    reader.open("/partitions")
    task, since = (page.locator(f".blocker:has-text('zzz') > {tag}") for tag in ("a", "span"))
    left, right = task.bounding_box(), since.bounding_box()
    assert left is not None
    assert right is not None
    assert left["x"] + left["width"] <= right["x"], "the task's name lies over how long it blocks"
    assert told == []
