"""Tasks before and after a version, and what was changed by whom."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from recorder import writer
from recorder.config import RecorderConfig
from recorder.rollups.projection import project_rollups
from recorder.rollups.sums import Tally
from recorder.rows import to_row
from recorder.runs import RunDescription, uuid7
from tests.contract.test_recorder_postgres import description
from tests.contract.test_rollups_postgres import ended

pytestmark = pytest.mark.django_db
CONFIG = {"executor": {"max_executors": 4}}


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def text_of(client: Client, path: str, status: int = 200) -> str:
    """The page without its markup."""
    answer = client.get(path)
    assert answer.status_code == status
    page = answer.content.decode()
    return re.sub(r"\s+", " ", re.sub(r"<[^>]*>", " ", page[page.index("<main") :]))


def ran(
    ago: float, version: str, duration_ms: float, failures: int = 0, **given: Any
) -> RunDescription:
    """A run that began so many seconds ago and ran a hundred tasks a minute later."""
    wall = time.time() - ago
    run = replace(
        description(wall), id=uuid7(wall), started_at=wall, handler_version=version,
        **({"config": CONFIG, "config_hash": "aa"} | given),
    )  # fmt: skip
    events = [
        ended(n, wall + 60, duration_ms=duration_ms, failure="exit" if n <= failures else "")
        for n in range(1, 101)
    ]
    tally, config = Tally(()), RecorderConfig()
    rows = [
        {**to_row(event, n, config), "tally": tally.observe_all([event])}
        for n, event in enumerate(events, 1)
    ]
    writer.ensure_run(run)
    writer.flush(run, rows, 0, project_rollups)
    return run


def test_the_newest_version_is_compared_with_the_one_before(reader: Client) -> None:
    ran(7200, "v1", 100.0)
    ran(3600, "v2", 400.0, failures=20)
    text = text_of(reader, "/versions?since=1d")
    assert re.search(r"p50 3\d\d% slower, p95 3\d\d% slower, 20.0% fail, against 0.0%", text)
    assert "100 against 100 tasks" in text
    table = text[text.index("Tasks by handler version") :]
    assert table.index("v2") < table.index("v1")


def test_one_version_alone_is_compared_with_nothing(reader: Client) -> None:
    ran(3600, "v1", 100.0)
    assert "One version only" in text_of(reader, "/versions?since=1d")


def test_a_change_says_what_by_whom_and_on_which_workers(reader: Client) -> None:
    ran(7200, "v1", 100.0)
    config = {"executor": {"max_executors": 8}}
    new: dict[str, Any] = {
        "config": config,
        "config_hash": "bb",
        "deployed_by": "ann",
        "worker": "w",
    }
    ran(3600, "v2", 100.0, **new)
    text = text_of(reader, "/versions")
    changed = text[text.index("What changed") :]
    assert "by ann" in changed
    assert "version of handler v1 v2" in changed
    assert "executor.max_executors 4 8" in changed


def test_workers_that_changed_alike_are_one_change(reader: Client) -> None:
    for worker in ("a", "b"):
        ran(7200, "v1", 100.0, worker=worker)
    for worker in ("a", "b"):
        ran(3600, "v2", 100.0, worker=worker)
    text = text_of(reader, "/versions")
    assert text.count("version of handler") == 1
    (found,) = reader.get("/api/v1/deployments").json()["deployments"]
    assert sorted(found["workers"]) == ["a", "b"]
    assert found["versions"] == [{"key": "handler", "old": "v1", "new": "v2"}]
    assert found["config"] == []


def test_a_bad_time_is_refused_with_what_to_write(reader: Client) -> None:
    assert "since: expected an age like 7d" in text_of(reader, "/versions?since=soon", 400)
    assert reader.get("/api/v1/deployments?since=soon").status_code == 422


def test_nothing_that_ran_is_said(reader: Client) -> None:
    text = text_of(reader, "/versions")
    assert "No task ended in this time" in text
    assert "Nothing changed" in text


def test_the_slowest_host_is_named_first(reader: Client) -> None:
    ran(600, "v1", 100.0, host="quick", worker="a")
    ran(500, "v1", 900.0, host="slow", worker="b", failures=3)
    text = text_of(reader, "/workers")
    table = text[text.index("Tasks by host") : text.index("Tasks by worker")]
    assert table.index(" slow 100 3 ") < table.index(" quick 100 0 ")
