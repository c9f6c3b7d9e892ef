"""The page of one worker: now, what it was started with, its runs before."""

from __future__ import annotations

import re
from datetime import timedelta

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from recorder.models import Event, FailureGroup, Run, RunState
from tests.browser.sample import TOPIC, fleet
from tests.web.conftest import MakeRun

pytestmark = pytest.mark.django_db
MAX_QUERIES = 16
PAGE = "/workers/main/worker-1"


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


def test_the_page_of_a_live_worker_tells_all_of_it(
    reader: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    fleet(seconds=20)
    with django_assert_max_num_queries(MAX_QUERIES):
        text = text_of(reader, PAGE)
    for said in (
        "node-a",
        "8 busy",
        f"{TOPIC}/4",
        "results",
        "archive",
        "Running tasks",
        "This is its first run",
    ):
        assert said in text, said


def test_an_assignment_of_many_partitions_is_one_notable_line(reader: Client) -> None:
    fleet(seconds=20)
    page = reader.get(PAGE).content.decode()
    notable = page[page.index('id="p-notable"') :]
    lines = re.findall(r'<th scope="row" class="mono nowrap">(\w+)</th>', notable)
    assert lines[:2] == ["parked", "assigned"]
    assert lines.count("assigned") == 1
    assert "and 16 more" in notable


def test_a_failure_leads_to_its_group(reader: Client, make_run: MakeRun) -> None:
    run = make_run()
    Event.objects.create(
        ts=timezone.now(), run=run.id, seq=1, kind="task_failed", topic="t", partition=1, offset=2,
        task_id="1:2:0", data={"group": "5eed", "failure": "exit"},
    )  # fmt: skip
    FailureGroup.objects.create(
        fingerprint="5eed", cluster="main", kind="exit", title="exit 3: <i>", count=1,
        first_seen=timezone.now(), last_seen=timezone.now(),
    )  # fmt: skip
    page = reader.get(PAGE).content.decode()
    assert 'href="/failures/5eed"' in page
    assert "exit 3: &lt;i&gt;" in page


def test_a_name_that_never_ran_is_said_to_be_unknown(reader: Client) -> None:
    assert "No worker of this name ever ran" in text_of(reader, "/workers/main/nobody", 404)


def test_a_name_with_a_slash_has_its_page(reader: Client, make_run: MakeRun) -> None:
    make_run("rack/7")
    assert "rack/7" in text_of(reader, "/workers/main/rack/7")
    assert b'href="/workers/main/rack/7"' in reader.get("/workers").content


def test_keys_and_versions_that_changed_are_shown_with_old_and_new(
    reader: Client, make_run: MakeRun
) -> None:
    before = make_run()
    after = make_run()
    now = timezone.now()
    Run.objects.filter(id=before.id).update(started_at=now - timedelta(hours=1))
    Run.objects.filter(id=after.id).update(
        started_at=now,
        handler_version="v2",
        program_version="",
        deployed_by="ann",
        run_before=before.id,
        version_changes=[{"key": "handler", "old": "v1", "new": "v2"}],
        config_changes=[
            {"key": "executor.max_executors", "old": "4", "new": "8"},
            {"key": "app.gone", "old": '"<b>"', "new": None},
        ],
    )
    text = text_of(reader, PAGE)
    assert "Handler v2 Program unknown" in text
    assert "Started by ann" in text
    assert "version of handler v1 v2" in text
    assert "executor.max_executors 4 8" in text
    assert "app.gone &quot;&lt;b&gt;&quot; none" in text


def test_a_run_like_the_one_before_says_so_and_one_without_says_that(
    reader: Client, make_run: MakeRun
) -> None:
    run = make_run()
    assert "Nothing to compare it with" in text_of(reader, PAGE)
    Run.objects.filter(id=run.id).update(run_before=run.id, version_changes=[], config_changes=[])
    assert "As the run before" in text_of(reader, PAGE)


def test_runs_before_say_why_they_ended(reader: Client, make_run: MakeRun) -> None:
    now = timezone.now()
    ended = make_run(state="stopped", ended_at=now - timedelta(minutes=5))
    lost = make_run(state="lost")
    silent = make_run(state="stopped")
    for ago, run in enumerate((make_run(), silent, lost, ended)):
        begun = now - timedelta(hours=ago + 1)
        Run.objects.filter(id=run.id).update(started_at=begun, recorded_seq=9)
        RunState.objects.filter(run=run).update(beat_at=now - timedelta(minutes=5))
    Event.objects.copy_in(
        [
            {
                "ts": now - timedelta(minutes=5),
                "run": ended.id,
                "seq": 9,
                "kind": "worker_stopped",
                "data": {"clean": False, "reason": "failed: no broker"},
            }
        ]
    )
    text = text_of(reader, PAGE)
    assert "failed: no broker, not clean" in text
    assert "fell silent" in text
    assert re.search(r"stopped \S+ unknown", text)


def test_what_happened_to_it_is_listed_and_nothing_of_another(
    reader: Client, make_run: MakeRun
) -> None:
    own, other = make_run(), make_run("worker-2")
    now = timezone.now()
    row = {"ts": now, "seq": 1, "topic": TOPIC, "partition": 3}
    changed = {"changes": [{"key": "executor.nice", "old": "10", "new": None}]}
    Event.objects.copy_in(
        [
            {**row, "run": own.id, "kind": "parked", "data": {"detail": "ours"}},
            {**row, "run": own.id, "seq": 2, "kind": "config_changed", "data": changed},
            {**row, "run": own.id, "seq": 3, "kind": "committed"},
            {**row, "run": other.id, "kind": "parked", "data": {"detail": "theirs"}},
        ]
    )
    text = text_of(reader, PAGE)
    assert "ours" in text
    assert "executor.nice: 10 to none" in text
    assert "theirs" not in text
    assert "committed" not in text[text.index("Notable events") :]
