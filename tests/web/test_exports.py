"""Exports by page and API: asked for with the right scope, run by the controller, downloaded."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sqlite3
from contextlib import closing
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
from asgiref.sync import async_to_sync
from django.conf import settings
from django.contrib.auth.models import Group, User
from django.db.models.functions import Now
from django.test import AsyncClient, Client
from django.utils import timezone
from pyarrow import parquet

from drakkar_site.accounts.roles import OPERATOR
from drakkar_site.accounts.tokens import issue
from recorder.export import Selection
from recorder.export_jobs import (
    MAX_WAITING,
    BadExport,
    ExportLimits,
    ask_for,
    expire,
    path_of,
    run_job,
)
from recorder.models import Event, ExportJob, Run
from tests.support.factories import Story, at, make_run
from tests.support.reading import read_page
from workers.control_plane.job_queue import ClaimLost
from workers.control_plane.jobs import EXPORTS, run_exports

pytestmark = pytest.mark.django_db
MIB = 1024 * 1024
HEAD = "<b>60</b> recorded runs, <b>50</b> on this page"


@pytest.fixture
def limits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ExportLimits:
    """Exports go into the test's own folder."""
    site = settings.DRAKKAR_STATE.site.model_copy(update={"export_dir": str(tmp_path)})
    monkeypatch.setattr(type(settings.DRAKKAR_STATE), "site", site)
    return ExportLimits(folder=tmp_path, ttl_hours=1, max_bytes=MIB)


@pytest.fixture
def run(db: None) -> Run:
    story = Story(make_run(worker="worker-1", recorded_seq=2))
    story.consumed(0, 7)
    story.fate(1, 7)
    return story.run


@pytest.fixture
def operator(client: Client) -> Client:
    user = User.objects.create_user("olga")
    user.groups.add(Group.objects.get_or_create(name=OPERATOR)[0])
    client.force_login(user)
    return client


def ask(run: Run | None = None, **values: Any) -> ExportJob:
    given = {"format_name": "sqlite", "name": "mine", "actor": "olga"} | values
    return ask_for(Selection(runs=[run.id] if run else []), **given)


def test_from_the_page_to_the_file(operator: Client, run: Run, limits: ExportLimits) -> None:
    other = make_run(worker="worker-2")
    form = {"run": [str(run.id), str(other.id)], "format": "sqlite", "name": "night.sqlite"}
    assert operator.post("/debug/databases/exports", form).status_code == 302
    assert "data-waiting" in read_page(operator.get("/debug/databases"))
    assert run_exports(limits) == 1
    page = read_page(operator.get("/debug/databases"))
    assert "data-waiting" not in page
    (job,) = ExportJob.objects.all()
    link = f"/debug/databases/exports/{job.id}/file"
    assert link in page
    answer = operator.get(link)
    assert answer["Content-Disposition"] == 'attachment; filename="night.sqlite"'
    copied = limits.folder / "copied.sqlite"
    copied.write_bytes(b"".join(answer.streaming_content))  # type: ignore[attr-defined]
    with closing(sqlite3.connect(copied)) as opened:
        assert opened.execute("SELECT count(*) FROM events").fetchone() == (2,)
        assert opened.execute("SELECT count(*) FROM runs").fetchone() == (2,)
    assert (job.actor, job.events_done, job.size_bytes) == ("olga", 2, copied.stat().st_size)


@pytest.mark.django_db(transaction=True)
def test_the_file_under_asgi_comes_in_blocks(limits: ExportLimits) -> None:
    story = Story(make_run(recorded_seq=1))
    story.consumed(0, 7)
    job = ask(story.run, format_name="jsonl")
    run_exports(limits)
    secret = issue(User.objects.create_user("olga"), ["export"], None)[1]

    async def body() -> bytes:
        answer: Any = await AsyncClient().get(
            f"/api/v1/exports/{job.id}/file", headers={"Authorization": f"Bearer {secret}"}
        )
        assert answer.status_code == 200
        assert answer.is_async
        return b"".join([block async for block in answer.streaming_content])

    found = async_to_sync(body)()
    assert found == path_of(job, limits.folder).read_bytes()
    assert b"consumed" in found


def whole(answer: Any) -> bytes:
    """The body of an answer, in one piece."""
    return b"".join(answer.streaming_content) if answer.streaming else bytes(answer.content)


@pytest.fixture
def download(operator: Client, run: Run, limits: ExportLimits) -> tuple[str, bytes]:
    """The address of a finished export, and what it holds."""
    job = ask(run, format_name="jsonl")
    run_exports(limits)
    return f"/api/v1/exports/{job.id}/file", path_of(job, limits.folder).read_bytes()


def test_a_download_is_taken_up_where_it_broke_off(
    operator: Client, download: tuple[str, bytes]
) -> None:
    address, body = download
    size = len(body)
    head = operator.head(address)
    assert (head.status_code, head.content) == (200, b"")
    assert (head["Content-Length"], head["Accept-Ranges"]) == (str(size), "bytes")
    for asked, first, end in (
        ("bytes=5-", 5, size),
        ("bytes=0-9", 0, 10),
        (f"bytes=5-{2 * size}", 5, size),
        ("bytes=-7", size - 7, size),
        (f"bytes=-{2 * size}", 0, size),
    ):
        answer = operator.get(address, headers={"Range": asked, "If-Range": head["ETag"]})
        assert whole(answer) == body[first:end], asked
        assert answer["Content-Length"] == str(end - first)
        if (first, end) != (0, size):
            assert answer.status_code == 206
            assert answer["Content-Range"] == f"bytes {first}-{end - 1}/{size}"


@pytest.mark.parametrize(
    "asked", ["bytes=9-5", "bytes=-", "bytes=1-2,4-5", "lines=1-2", "bytes=x-", "bytes=" + "9" * 30]
)
def test_a_range_that_is_none_is_passed_over(
    operator: Client, download: tuple[str, bytes], asked: str
) -> None:
    address, body = download
    answer = operator.get(address, headers={"Range": asked})
    assert (answer.status_code, whole(answer)) == (200, body)


def test_a_part_of_another_file_is_not_mixed_in(
    operator: Client, download: tuple[str, bytes]
) -> None:
    address, body = download
    stale = operator.get(address, headers={"Range": "bytes=5-", "If-Range": '"other"'})
    assert (stale.status_code, whole(stale)) == (200, body)
    beyond = operator.get(address, headers={"Range": f"bytes={len(body)}-"})
    assert (beyond.status_code, beyond["Content-Range"]) == (416, f"bytes */{len(body)}")
    again = operator.get(address, headers={"If-None-Match": stale["ETag"]})
    assert (again.status_code, again.content) == (304, b"")
    moved = operator.get(address, headers={"If-Match": '"other"'})
    assert moved.status_code == 412


def test_a_name_that_ends_in_gz_is_packed(operator: Client, run: Run, limits: ExportLimits) -> None:
    plain, packed = (ask(run, format_name="csv", name=name) for name in ("a.csv", "a.csv.gz"))
    run_exports(limits)
    run_exports(limits)
    answer = operator.get(f"/api/v1/exports/{packed.id}/file")
    assert answer["Content-Disposition"] == 'attachment; filename="a.csv.gz"'
    assert gzip.decompress(whole(answer)) == path_of(plain, limits.folder).read_bytes()
    with pytest.raises(BadExport, match=r"name: expected no \.gz with sqlite"):
        ask(run, name="a.sqlite.gz")


def test_parquet_holds_what_was_recorded(run: Run, limits: ExportLimits) -> None:
    ask(run, format_name="parquet", name="night")
    assert run_exports(limits) == 1
    job = ExportJob.objects.get()
    assert job.state == "done", job.error
    table = parquet.read_table(path_of(job, limits.folder))
    events = Event.objects.filter(run=run.id).order_by("seq")
    assert table.num_rows == len(events) > 0
    assert table.column("worker").to_pylist() == [run.worker] * len(events)
    for name in ("ts", "seq", "kind", "offset", "stdout", "duration_ms"):
        assert table.column(name).to_pylist() == [getattr(event, name) for event in events]


def test_without_pyarrow_parquet_is_refused_with_what_to_do(
    operator: Client, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.formats.find_spec", lambda name: None)
    with pytest.raises(BadExport, match="pip install pyarrow"):
        ask(run, format_name="parquet")
    assert "<option>parquet" not in read_page(operator.get("/debug/databases"))


def test_a_viewer_is_refused(client: Client, run: Run, secret: str, limits: ExportLimits) -> None:
    job = ask(run)
    run_exports(limits)
    bearer = {"Authorization": f"Bearer {secret}"}
    for path in (f"/debug/databases/exports/{job.id}/file", f"/api/v1/exports/{job.id}/file"):
        answer = client.get(path, headers=bearer)
        assert (answer.status_code, b"export" in answer.content) == (403, True)
    body = {"format": "csv", "runs": [str(run.id)]}
    for path in ("/debug/databases/exports", "/api/v1/exports"):
        assert client.post(path, body, "application/json", headers=bearer).status_code == 403
    assert ExportJob.objects.count() == 1
    assert client.get("/debug/databases", headers=bearer).status_code == 200


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", "a\\b", "", "x" * 101, "a\0"])
def test_a_path_in_the_name_is_refused(run: Run, name: str) -> None:
    with pytest.raises(BadExport, match="name: expected"):
        ask(run, name=name)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"name": "../x"}, b"name: expected"),
        ({"format": "xml"}, b"format: expected one of sqlite, jsonl, csv"),
        ({"run": ["x"]}, b"run: expected ids of runs"),
        ({"run": []}, b"run: expected at least one run"),
        ({"kind": ["x"]}, b"kind: expected"),
        ({"since": "soon"}, b"since: expected"),
    ],
)
def test_a_bad_form_is_named(
    operator: Client, run: Run, changed: dict[str, Any], why: bytes
) -> None:
    form = {"run": [str(run.id)], "format": "csv", "name": "x", **changed}
    answer = operator.post("/debug/databases/exports", form)
    assert (answer.status_code, why in answer.content) == (400, True)
    assert not ExportJob.objects.exists()


def test_an_export_is_asked_for_followed_and_fetched_by_the_api(
    operator: Client, run: Run, limits: ExportLimits
) -> None:
    body = {"format": "csv", "runs": [str(run.id)], "kinds": ["consumed"]}
    answer = operator.post("/api/v1/exports", body, "application/json")
    assert answer.status_code == 202
    where = f"/api/v1/exports/{answer.json()['id']}"
    assert operator.get(where).json()["state"] == "queued"
    assert b"The export is queued" in operator.get(f"{where}/file").content
    run_exports(limits)
    assert operator.get(where).json()["events_done"] == 1
    assert operator.get("/api/v1/exports").json()["exports"][0]["state"] == "done"
    bad = operator.post("/api/v1/exports", body | {"name": "a/b"}, "application/json")
    assert (bad.status_code, "name: expected" in bad.json()["detail"]) == (422, True)


@pytest.mark.parametrize("since", ["soon", "1 week", "0001-01-01T00:00:00+23:59"])
def test_a_time_that_is_none_is_refused_by_the_api(operator: Client, run: Run, since: str) -> None:
    body = {"format": "csv", "runs": [str(run.id)], "since": since}
    answer = operator.post("/api/v1/exports", body, "application/json")
    assert (answer.status_code, "since: expected" in answer.json()["detail"]) == (422, True)
    assert not ExportJob.objects.exists()


def test_the_api_takes_an_age_for_a_time(operator: Client, run: Run) -> None:
    body = {"format": "csv", "runs": [str(run.id)], "since": "90m"}
    assert operator.post("/api/v1/exports", body, "application/json").status_code == 202
    since = datetime.fromisoformat(ExportJob.objects.get().selection["since"])
    assert timedelta(minutes=90) <= timezone.now() - since < timedelta(minutes=95)


def test_a_form_sent_twice_asks_once(operator: Client, run: Run) -> None:
    page = read_page(operator.get("/debug/databases"))
    keys = re.findall(r'name="key" value="([0-9a-f]{32})"', page)
    form = {"run": [str(run.id)], "format": "csv", "name": "x", "key": keys[0]}
    for _ in range(2):
        assert operator.post("/debug/databases/exports", form).status_code == 302
    other = operator.post("/debug/databases/exports", form | {"format": "jsonl"})
    assert (other.status_code, b"another format" in other.content) == (400, True)
    assert ExportJob.objects.count() == 1


def test_the_api_s_key_asks_once_a_user(operator: Client, run: Run) -> None:
    body = {"format": "csv", "runs": [str(run.id)], "kinds": ["consumed"], "key": "night"}
    body["since"] = "2026-01-01T00:00:00+01:00"
    asked = [operator.post("/api/v1/exports", body, "application/json") for _ in range(2)]
    assert asked[0].json()["id"] == asked[1].json()["id"]
    refused = operator.post("/api/v1/exports", body | {"name": "other"}, "application/json")
    assert (refused.status_code, "another name" in refused.json()["detail"]) == (422, True)
    ask(run, format_name="csv", actor="nils", key="night")
    assert ExportJob.objects.count() == 2


def test_too_many_waiting_are_refused(run: Run) -> None:
    for _ in range(MAX_WAITING):
        ask(run)
    with pytest.raises(BadExport, match="wait already"):
        ask(run)


def test_what_goes_wrong_is_said(run: Run, limits: ExportLimits) -> None:
    ask(run, format_name="csv")
    ask_for(Selection(runs=[uuid4()]), "csv", "none", "olga")
    small = ExportLimits(folder=limits.folder, ttl_hours=1, max_bytes=10)
    assert run_exports(small) == 2
    errors = ExportJob.objects.order_by("created_at").values_list("state", "error")
    assert [state for state, _ in errors] == ["failed", "failed"]
    assert "larger than 10 bytes" in errors[0][1]
    assert "no run fits" in errors[1][1]
    assert list(limits.folder.iterdir()) == []


def test_all_exports_together_are_bounded(run: Run, limits: ExportLimits) -> None:
    ask(run, format_name="csv")
    run_exports(limits)
    size = ExportJob.objects.get().size_bytes or 0
    ask(run, format_name="csv")
    run_exports(ExportLimits(folder=limits.folder, ttl_hours=1, max_bytes=size + 10))
    assert ExportJob.objects.order_by("created_at").last().state == "failed"  # type: ignore[union-attr]


def test_files_go_when_their_time_is_over(run: Run, limits: ExportLimits) -> None:
    old, young = ask(run), ask(run)
    run_exports(limits)
    ExportJob.objects.filter(id=old.id).update(expires_at=Now() - timedelta(seconds=1))
    assert expire(limits) == [old.id]
    assert list(limits.folder.iterdir()) == [path_of(young, limits.folder)]
    assert ExportJob.objects.get(id=old.id).state == "expired"


def test_a_silent_runners_job_is_taken_over_and_it_lets_go(run: Run, limits: ExportLimits) -> None:
    ask(run, format_name="csv")
    first = EXPORTS.claim()
    assert first is not None
    assert EXPORTS.claim() is None
    ExportJob.objects.update(progress_at=Now() - timedelta(minutes=5))
    second = EXPORTS.claim()
    assert second is not None
    assert (second.id, second.claim == first.claim) == (first.id, False)
    with pytest.raises(ClaimLost):
        run_job(first, limits, partial(EXPORTS.note, first))
    with pytest.raises(ClaimLost):
        EXPORTS.finish(first, state="failed")
    EXPORTS.finish(second, **run_job(second, limits, partial(EXPORTS.note, second)))
    assert ExportJob.objects.get().state == "done"


def test_runs_are_sorted_filtered_and_paged(operator: Client) -> None:
    for number in range(60):
        make_run(
            worker=f"w{number:02}", cluster="main" if number % 2 else "fast",
            started_at=at(number // 2), recorded_seq=100 - number,
        )  # fmt: skip
    seen: list[str] = []
    for sort, first in (("worker", "w00"), ("events", "w59"), ("started", "w")):
        page = read_page(operator.get(f"/debug/databases?sort={sort}&way=up"))
        found = workers(page)
        assert found[0].startswith(first)
        assert HEAD in page
        rest = read_page(operator.get(link(page)))
        assert HEAD.replace("50", "10") in rest
        seen = found + workers(rest)
        assert sorted(seen) == [f"w{number:02}" for number in range(60)]
    fast = read_page(operator.get("/debug/databases?cluster=fast"))
    assert len(workers(fast)) == 30
    assert "<b>30</b> recorded runs</p>" in fast
    assert "No run fits</p>" in read_page(operator.get("/debug/databases?text=nowhere"))
    assert workers(read_page(operator.get("/debug/databases?text=w07"))) == ["w07"]
    for bad in ("sort=x", "way=x", "after=x", "since=soon"):
        answer = operator.get(f"/debug/databases?{bad}")
        assert (answer.status_code, f"{bad.split('=')[0]}: " in read_page(answer)) == (
            400, True,
        )  # fmt: skip


def workers(page: str) -> list[str]:
    return [part.split('"', 1)[0].removeprefix("Run of ") for part in page.split('aria-label="')
            if part.startswith("Run of ")]  # fmt: skip


def link(page: str) -> str:
    return "/debug/databases" + page.split('rel="next" href="')[1].split('"')[0].replace(
        "&amp;", "&"
    )


def test_the_filtered_history_as_csv_and_json(operator: Client, run: Run) -> None:
    other = Story(make_run(worker="worker-2"))
    other.ran(1, "3:7:0", 1)
    link = "/history/export?format=csv&amp;worker=worker-2"
    assert link in operator.get("/history?worker=worker-2").content.decode().replace(
        "worker=worker-2&amp;format=csv", "format=csv&amp;worker=worker-2"
    )
    answer = operator.get("/history/export?format=csv&worker=worker-2")
    table = list(csv.DictReader(io.StringIO(answer.content.decode())))
    assert [row["kind"] for row in table] == ["task_completed", "task_started"]
    assert json.loads(table[0]["args"]) == ["--token", "***", "needle"]
    assert answer["X-Is-Cut"] == "false"
    events = operator.get("/history/export?format=json").json()["events"]
    assert len(events) == 4
    assert {event["worker"] for event in events} == {"worker-1", "worker-2"}
    for bad in ("format=xml", "partition=x"):
        refused = operator.get(f"/history/export?{bad}")
        assert (refused.status_code, b"expected" in refused.content) == (400, True)


@pytest.mark.parametrize("scopes", [["read", "operate"], ["read", "export"]])
def test_pages_offer_exports_to_whom_the_server_lets(
    client: Client, user: User, run: Run, scopes: list[str]
) -> None:
    client.get("/", {"token": issue(user, scopes, None)[1]})
    offers = "export" in scopes
    databases = client.get("/debug/databases").content
    assert (b"Export into one file" in databases) is (b'name="run"' in databases) is offers
    assert (b"/history/export" in client.get("/history").content) is offers
    assert (client.get("/history/export?format=csv").status_code == 200) is offers


def test_a_viewer_may_not_export_the_history(client: Client, user: User, run: Run) -> None:
    client.force_login(user)
    assert client.get("/history/export").status_code == 403
    assert b"/history/export" not in client.get("/history").content
