"""The page of a task: where it ran, with what, why it waits, and what became of its failures."""

from __future__ import annotations

import re

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from recorder.models import FailureGroup
from sinks.models import DeadLetter
from tests.support.factories import TOPIC, Story, at
from tests.support.factories import make_run as run_of_story
from tests.web.conftest import MakeRun

pytestmark = pytest.mark.django_db
GROUP = "5eed0123456789abcdef"


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


def main_of(client: Client, path: str, status: int = 200) -> str:
    """The page without its frame, white space as one blank."""
    answer = client.get(path)
    assert answer.status_code == status
    page = answer.content.decode()
    return re.sub(r"\s+", " ", page[page.index("<main") :])


def waiting_for_a_key(make_run: MakeRun) -> None:
    blocker = {"offset": 9, "task_id": "3:9:0", "age_seconds": 90.0, "waits_for": "key gamla"}
    row = {"topic": TOPIC, "partition": 3, "state": "running", "pending": 4, "blocker": blocker}
    pool = {"slots": 4, "busy": 1, "waiting": 0, "running": []}
    make_run("worker-1", partitions=[row], pool=pool)


def test_a_task_that_has_not_started_says_why_it_waits(reader: Client, make_run: MakeRun) -> None:
    waiting_for_a_key(make_run)
    page = main_of(reader, "/task/main/3:9:0")
    for said in (
        "It waits for key gamla.", f'href="/partitions/main/{TOPIC}/3"',
        'href="/workers/main/worker-1"', "4 messages have no fate yet",
    ):  # fmt: skip
        assert said in page, said
    assert "No event names this task" in main_of(reader, "/task/main/3:8:0", 404)
    assert "No event names this task" in main_of(reader, "/task/other/3:9:0", 404)


def test_a_task_that_waits_for_another_attempt_says_until_when(
    reader: Client, make_run: MakeRun
) -> None:
    waiting_for_a_key(make_run)
    story = Story(run_of_story(worker="worker-2"))
    story.ran(1, "3:9:0", 2, failure="exit", exit_code=3)
    story.tell(3, "task_retried", 9, task_id="3:9:0", attempt=1, data={"delay_ms": 4000.0})
    page = main_of(reader, "/task/main/3:9:0")
    assert "its next attempt is due" in page
    assert f'datetime="{at(7).isoformat()}"' in page
    assert "It waits for key gamla." in page


def test_a_task_names_its_host_and_environment(reader: Client, db: None) -> None:
    executor = {
        "binary": "run-rg", "cwd": "/srv", "env": {"LEVEL": "<b>3", "API_TOKEN": "s3cret"},
        "env_pass": ["PATH", "LC_*"],
    }  # fmt: skip
    story = Story(run_of_story(worker="worker-1", host="node-b", config={"executor": executor}))
    story.ran(1, "3:7:0", 2)
    page = main_of(reader, "/task/main/3:7:0")
    for said in ("node-b", "&lt;b&gt;3", "API_TOKEN", "***", "PATH, LC_*", "/srv"):
        assert said in page, said
    assert "s3cret" not in page
    assert "Why it waits" not in page
    task = reader.get("/api/v1/tasks/main/3:7:0").json()
    assert [each["host"] for each in task["executions"]] == ["node-b"]


def test_a_task_leads_to_its_letters(reader: Client, db: None) -> None:
    Story(run_of_story(worker="worker-1")).ran(1, "3:7:0", 2, failure="exit", exit_code=3)
    own, other = (letter(offset, task) for offset, task in ((40, "3:7:0"), (41, "3:7:1")))
    page = main_of(reader, "/task/main/3:7:0")
    assert f'href="/dead-letters/{own.pk}"' in page
    assert f'href="/dead-letters/{other.pk}"' not in page


def test_a_task_leads_to_its_failure_group(reader: Client, db: None) -> None:
    story = Story(run_of_story(worker="worker-1"))
    data = {"group": GROUP, "failure": "exit", "detail": "exit code 3"}
    story.tell(1, "task_failed", 7, task_id="3:7:0", attempt=1, data=data)
    FailureGroup.objects.create(
        fingerprint=GROUP, cluster="main", kind="exit", title="exit 3: <i>", first_seen=at(0),
        last_seen=at(1), count=4100,
    )  # fmt: skip
    page = main_of(reader, "/task/main/3:7:0")
    assert f'href="/failures/{GROUP}"' in page
    assert "exit 3: &lt;i&gt;" in page
    assert "4,100 since" in page


def letter(offset: int, task_id: str) -> DeadLetter:
    """A letter of the message 3:7."""
    return DeadLetter.objects.create(
        cluster="main", letter_topic="dead", letter_partition=0, letter_offset=offset,
        at=timezone.now(), topic=TOPIC, partition=3, offset=7, origin=f"{TOPIC} 3:7", stage="task",
        failure="exit", reason="exit code 3", attempts=1, task_id=task_id, worker="worker-1",
        size_bytes=1, is_whole=True, fingerprint=f"{offset:064x}",
    )  # fmt: skip
