"""Fault H5: a link replaced a session, the shipped key was served, leftovers stayed for ever."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from datetime import timedelta
from pathlib import Path
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.models import Session
from django.test import Client
from django.utils import timezone

from drakkar_site.accounts.tokens import issue
from recorder.models import ExportJob, ExportState
from sinks.models import LetterJob, LetterJobState
from tests.support.upkeep import a_turn, an_upkeep
from workers.control import Action
from workers.control_plane import jobs
from workers.models import ControlRequest, ControlState
from workers.runtime.control_inbox import standing_pauses

pytestmark = pytest.mark.django_db
ROOT = Path(__file__).parents[2]
SHIPPED = "development-only-change-me-before-anyone-else-can-reach-it"
LONG_AGO = timedelta(days=100)


def who(client: Client) -> str:
    """Whose session it is, as the page says it; empty without one."""
    number = client.session.get("_auth_user_id")
    return User.objects.get(pk=number).username if number else ""


@pytest.fixture
def link(db: None) -> str:
    """A page's address with the token of somebody else."""
    _, secret = issue(User.objects.create_user("mallory"), ["read"], None)
    return f"/workers?token={secret}&x=1"


@pytest.fixture
def victim(db: None) -> Client:
    """Somebody who is signed in."""
    client = Client()
    client.force_login(User.objects.create_user("mara"))
    return client


@pytest.mark.parametrize("site", ["cross-site", "same-site", "anything", ""])
def test_a_link_from_elsewhere_replaces_no_session(victim: Client, link: str, site: str) -> None:
    headers = {"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"} if site else {}
    answer = victim.get(link, headers=headers)
    assert (answer.status_code, answer["Location"]) == (302, "/workers?x=1")
    assert who(victim) == "mara"


@pytest.mark.parametrize("site", ["none", "same-origin"])
def test_one_s_own_doing_does(victim: Client, link: str, site: str) -> None:
    answer = victim.get(link, headers={"Sec-Fetch-Site": site, "Sec-Fetch-Mode": "navigate"})
    assert (answer.status_code, answer["Location"]) == (302, "/workers?x=1")
    assert who(victim) == "mallory"


def test_a_link_opens_a_session_where_none_is(link: str) -> None:
    client = Client()
    headers = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate"}
    assert client.get(link, headers=headers)["Location"] == "/workers?x=1"
    assert who(client) == "mallory"


def test_what_is_embedded_elsewhere_opens_no_session(link: str) -> None:
    client = Client()
    answer = client.get(link, headers={"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"})
    assert answer.status_code == 200
    assert "sessionid" not in client.cookies


@pytest.mark.parametrize(
    ("url", "key", "is_refused"),
    [
        ("https://drakkar.example", SHIPPED, True),
        ("http://10.0.0.1:8000", SHIPPED, True),
        ("http://0.0.0.0:8000", SHIPPED, True),
        ("https://drakkar.example", "replace-me-by-fifty-random-characters-before-use-000", True),
        ("http://127.0.0.1:8000", SHIPPED, False),
        ("http://[::1]:8000", SHIPPED, False),
        ("http://localhost:8000", SHIPPED, False),
        ("https://drakkar.example", "k" * 50, False),
    ],
)
def test_daphne_does_not_serve_the_shipped_key_to_others(
    url: str, key: str, is_refused: bool
) -> None:
    given = {"DRAKKAR_SITE__PUBLIC_URL": url, "DRAKKAR_SITE__SECRET_KEY": key}
    done = subprocess.run(
        [sys.executable, "-c", "import drakkar_site.asgi"],
        cwd=ROOT,
        env={**os.environ, **given},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode == 2) is is_refused, done.stderr
    assert ("site.secret_key: expected one of your own" in done.stderr) is is_refused
    assert key not in done.stderr


def run_jobs(folder: Path) -> None:
    """Every job that prunes, once, as the controller does."""
    names = ("leftovers", "export_files")
    for job in jobs.JOBS:
        if job.name in names:
            job.run(a_turn(upkeep=an_upkeep(folder)))


def request(action: Action, state: ControlState, age: timedelta, **values: object) -> None:
    """A request that was asked so long ago."""
    values = {"cluster": "main", "worker": "w", "arguments": {}, **values}
    made = ControlRequest.objects.create(
        key=uuid4().hex, action=action.value, state=state, actor="mara", **values
    )
    ControlRequest.objects.filter(id=made.id).update(requested_at=timezone.now() - age)


def test_old_sessions_requests_and_jobs_go(tmp_path: Path) -> None:
    client = Client()
    client.force_login(User.objects.create_user("mara"))
    kept = client.session.session_key
    Session.objects.create(session_key="old", session_data="", expire_date=timezone.now())
    for state in ControlState:
        request(Action.STOP, state, LONG_AGO)
    request(Action.STOP, ControlState.DONE, timedelta(days=1))
    for export_state in ExportState:
        at = timezone.now() - LONG_AGO
        selection = {"cluster": "", "worker": "", "runs": [], "kinds": []}
        ExportJob.objects.create(
            id=uuid4(), name="x", format="csv", selection=selection, state=export_state,
            actor="mara", created_at=at, progress_at=at,
        )  # fmt: skip
    for letter_state in LetterJobState:
        LetterJob.objects.create(
            id=uuid4(), key=uuid4().hex, action="resolve", cluster="main", rate=1.0, actor="mara",
            state=letter_state, created_at=timezone.now() - LONG_AGO, letters_total=0,
        )  # fmt: skip
    run_jobs(tmp_path)
    assert [each.session_key for each in Session.objects.all()] == [kept]
    assert sorted(ControlRequest.objects.values_list("state", flat=True)) == [
        "accepted", "done", "requested",
    ]  # fmt: skip
    assert set(ExportJob.objects.values_list("state", flat=True)) == {"queued", "running", "done"}
    assert set(LetterJob.objects.values_list("state", flat=True)) == {"queued", "running"}


def test_no_pause_ends_or_comes_back_by_forgetting(tmp_path: Path) -> None:
    for days, action, sink in (
        (90, Action.PAUSE_INTAKE, ""),
        (89, Action.PAUSE_SINK, "a"),
        (88, Action.PAUSE_SINK, "b"),
        (87, Action.RESUME_SINK, "b"),
        (1, Action.PAUSE_SINK, "c"),
    ):
        arguments = {"sink": sink} if sink else {}
        request(action, ControlState.DONE, timedelta(days=days), arguments=arguments)
    request(Action.RESUME_INTAKE, ControlState.FAILED, timedelta(days=80))
    request(Action.RESUME_INTAKE, ControlState.DONE, timedelta(days=80), worker="another")
    before = {(order.action, order.target) for order in standing_pauses("main", "w")}
    assert len(before) == 3
    run_jobs(tmp_path)
    assert {(order.action, order.target) for order in standing_pauses("main", "w")} == before
    assert ControlRequest.objects.count() == 3


def test_files_that_no_job_needs_go(tmp_path: Path) -> None:
    def file(state: str | None, suffix: str, hours: float) -> Path:
        job = uuid4()
        if state is not None:
            at = timezone.now()
            ExportJob.objects.create(
                id=job, name="x", format="csv", selection={}, state=state, actor="mara",
                created_at=at, progress_at=at,
            )  # fmt: skip
        path = tmp_path / f"{job}{suffix}"
        path.write_text("x")
        at_seconds = time.time() - hours * 3600
        os.utime(path, (at_seconds, at_seconds))
        return path

    gone = [
        file(None, ".csv.part", 5),
        file(None, ".csv", 5),
        file("failed", ".sqlite.part-journal", 5),
        file("expired", ".csv", 5),
        file("done", ".csv.part", 5),
        file("done", ".csv.0a1b2c3d.part", 5),
        file("running", ".csv.0a1b2c3d.part", 5),
        file("queued", ".csv.part", 5),
    ]
    stay = [
        file(None, ".csv.part", 0.5),
        file("running", ".csv.part", 0.5),
        file("running", ".sqlite.0a1b2c3d.part", 0.5),
        file("queued", ".csv", 5),
        file("done", ".csv", 50),
        file(None, ".txt", 500),
    ]
    other = tmp_path / "of-somebody-else.csv.part"
    other.write_text("x")
    os.utime(other, (0, 0))
    (tmp_path / f"{uuid4()}.csv").mkdir()
    run_jobs(tmp_path)
    assert [path.exists() for path in gone] == [False] * len(gone)
    assert [path.exists() for path in [*stay, other]] == [True] * (len(stay) + 1)
    run_jobs(tmp_path / "not-made-yet")
