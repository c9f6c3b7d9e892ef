"""Asking workers on the pages: effect first, once only, by operators only."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.core.exceptions import PermissionDenied
from django.test import Client
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from drakkar_site.accounts.tokens import issue
from recorder.models import RunState
from tests.browser.sample import TOPIC, fleet
from tests.support.reading import read_page
from tests.web.conftest import MakeRun, make_events
from workers.control import (
    Action,
    Arguments,
    CancelArguments,
    GroupArguments,
    KeyArguments,
    LetterArguments,
    MatchArguments,
    MoveArguments,
    NoArguments,
    PartitionArguments,
    ProbeArguments,
    SinkArguments,
    Target,
    UnparkArguments,
)
from workers.control_plane.requests import Asker, ask
from workers.models import ControlRequest, ControlState

pytestmark = pytest.mark.django_db
MAX_QUERIES = 15
WORKER = {"cluster": "main", "worker": "worker-1"}
KEY = "0" * 32
GIVEN: dict[type[Arguments], dict[str, Any]] = {
    NoArguments: {},
    PartitionArguments: {"topic": "t", "partition": 3},
    UnparkArguments: {"topic": "t", "partition": 3},
    MoveArguments: {"topic": "t", "partition": 3, "offset": 1, "expected": 2},
    SinkArguments: {"sink": "out"},
    CancelArguments: {"task_id": "3:1:0", "decision": "skip"},
    ProbeArguments: {},
    LetterArguments: {"partition": 0, "offset": 1},
    MatchArguments: {"partition": 3, "decision": "skip"},
    GroupArguments: {"group": "t"},
    KeyArguments: {"task_key": "k"},
}


def figures_of(page: str) -> dict[str, str]:
    """The numbers of a confirm page by what they count."""
    found = re.findall(r'<dt class="num">([^<]*)</dt><dd>([^<]*)</dd>', page)
    return {name: count for count, name in found}


def test_a_worker_s_effect_is_shown_in_numbers(operator: Client, make_run: MakeRun) -> None:
    rows = [{"topic": "t", "partition": n, "pending": 3, "lag": 20} for n in range(2)]
    make_run(partitions=rows, pool={"slots": 4, "busy": 3, "waiting": None})
    page = read_page(operator.get("/control/new", {"action": "stop", **WORKER}))
    assert figures_of(page) == {
        "partitions": "2",
        "tasks running": "3",
        "tasks that wait for a slot": "unknown",
        "messages without a fate": "6",
        "messages of lag": "40",
    }


def test_a_partition_s_effect_is_of_that_partition(operator: Client, make_run: MakeRun) -> None:
    rows = [{"topic": "t", "partition": n, "pending": n, "queue": 1, "lag": n} for n in (5, 6)]
    running = [{"task_id": "6:1:0", "topic": "t", "partition": 6}]
    make_run(partitions=rows, pool={"running": running})
    asked = {"action": "pause_partition", "cluster": "main", "topic": "t", "partition": "6"}
    page = read_page(operator.get("/control/new", asked))
    assert figures_of(page) == {
        "tasks running": "1",
        "messages without a fate": "6",
        "tasks that wait to run": "1",
        "messages of lag": "6",
    }
    assert 'name="worker" value="worker-1"' in page


def test_sending_the_form_asks_once(operator: Client, make_run: MakeRun) -> None:
    make_run()
    page = read_page(operator.get("/control/new", {"action": "drain", **WORKER}))
    sent = dict(re.findall(r'name="(key|action|cluster|worker)" value="([^"]*)"', page))
    answers = [operator.post("/control/new", sent) for _ in range(2)]
    row = ControlRequest.objects.get()
    assert [answer["Location"] for answer in answers] == [f"/control/{row.id}"] * 2
    assert (row.action, row.actor, row.worker) == ("drain", "mara", "worker-1")


def test_a_request_is_followed_until_it_is_final(operator: Client, make_run: MakeRun) -> None:
    make_run()
    sent = {"action": "pause_sink", "sink": "out", "key": KEY, **WORKER}
    where = operator.post("/control/new", sent)["Location"]
    assert b"data-waiting" in operator.get(where).content
    now = timezone.now()
    ControlRequest.objects.update(state="failed", ended_at=now, detail="no sink <out> here")
    page = operator.get(where).content
    assert b"data-waiting" not in page
    assert b"no sink &lt;out&gt; here" in page


def test_a_request_that_nobody_took_has_expired_though_no_controller_runs(
    operator: Client, make_run: MakeRun
) -> None:
    make_run()
    sent = {"action": "drain", "key": KEY, **WORKER}
    where = operator.post("/control/new", sent)["Location"]
    api = f"/api/v1{where}"
    for path in (where, "/control", api, "/api/v1/control"):
        assert b"expired" not in answered(operator, path)
        ControlRequest.objects.update(requested_at=timezone.now() - timedelta(seconds=61))
        assert b"no worker accepted it within 60 s" in answered(operator, path)
        ControlRequest.objects.update(
            state="requested", ended_at=None, detail="", requested_at=timezone.now()
        )


def answered(client: Client, path: str) -> bytes:
    """What of a page or document tells of requests: not the choices of its form."""
    content: bytes = client.get(path).content
    return content.partition(b"<tbody>")[2] or content.partition(b'id="p-life"')[2] or content


@pytest.mark.parametrize(
    ("asked", "status", "told"),
    [
        ({"action": "fly", **WORKER}, 400, "expected one of pause_intake"),
        ({"action": "stop", "cluster": "main", "worker": "nobody"}, 409, "main/nobody"),
        ({"action": "stop", "cluster": "main"}, 409, "got none"),
        ({"action": "pause_sink", **WORKER}, 400, "sink:"),
        (
            {"action": "pause_partition", **WORKER, "topic": "t", "partition": "-1"},
            400,
            "partition",
        ),
        ({"action": "cancel_task", "cluster": "main", "task_id": "1:2:3"}, 400, "decision"),
        ({"action": "stop", **WORKER, "key": "mine"}, 400, "key:"),
    ],
)
def test_what_is_wrong_is_said_where_it_was_asked(
    operator: Client, make_run: MakeRun, asked: dict[str, str], status: int, told: str
) -> None:
    make_run(partitions=[{"topic": "t", "partition": 1}])
    answer = operator.post("/control/new", {"key": KEY, **asked})
    assert answer.status_code == status
    assert told in read_page(answer)
    assert not ControlRequest.objects.exists()


def test_a_cancelled_task_s_fate_is_chosen(operator: Client, make_run: MakeRun) -> None:
    make_run(partitions=[{"topic": "t", "partition": 1}])
    asked = {"action": "cancel_task", "cluster": "main", "task_id": "1:2:3"}
    page = operator.get("/control/new", asked)
    assert page.status_code == 200
    assert b'<select class="field" name="decision" required>' in page.content
    operator.post("/control/new", {**asked, "decision": "skip", "key": KEY})
    row = ControlRequest.objects.get()
    assert (row.worker, row.arguments) == ("worker-1", {"task_id": "1:2:3", "decision": "skip"})


def test_a_task_is_cancelled_where_it_runs_else_where_its_source_partition_is(
    operator: Client, make_run: MakeRun
) -> None:
    retry = {"topic": "t-retry", "partition": 1, "held": 0}
    running = {"running": [{"task_id": "1:9:0", "topic": "t-retry", "partition": 0}]}
    make_run(partitions=[{"topic": "t", "partition": 1}])
    make_run("worker-2", partitions=[retry], pool=running)
    asked = {"action": "cancel_task", "cluster": "main", "decision": "skip"}
    places = [("1:2:0", "worker-1"), ("1:9:0", "worker-2")]
    for letter, (task_id, worker) in zip("ab", places, strict=True):
        key = letter * len(KEY)
        operator.post("/control/new", {**asked, "task_id": task_id, "key": key})
        assert ControlRequest.objects.get(key=key).worker == worker
    lost = operator.post("/control/new", {**asked, "task_id": "5:2:0", "key": KEY})
    assert lost.status_code == 409
    assert "task: no live worker of cluster main has 5:2:0" in read_page(lost)


def test_a_start_is_chosen_where_the_offset_is_gone(operator: Client, make_run: MakeRun) -> None:
    parked = {"offset_out_of_range": "it is gone"}
    sound = {"topic": "t", "partition": 0}
    make_run(partitions=[sound, {**sound, "partition": 1, "parked": parked}])
    asked = {"action": "unpark_partition", "cluster": "main", "topic": "t"}
    for number, has_choice in (("0", False), ("1", True)):
        page = operator.get("/control/new", {**asked, "partition": number}).content
        assert (b'name="start"' in page) is has_choice


@pytest.mark.parametrize(("lag", "told"), [(1234, "1,234"), (None, "unknown")])
def test_a_start_that_may_pass_over_messages_is_destructive(
    operator: Client, make_run: MakeRun, lag: int | None, told: str
) -> None:
    gone, other = {"offset_out_of_range": "it is gone"}, {"sink": "disk full"}
    rows = [{"topic": "t", "partition": n, "lag": lag, "parked": (gone, other)[n]} for n in (0, 1)]
    make_run(partitions=rows)
    asked = {"action": "unpark_partition", "cluster": "main", "topic": "t"}
    pages = [operator.get("/control/new", {**asked, "partition": n}) for n in ("0", "1")]
    assert [page.context["effect"].is_destructive for page in pages] == [True, False]
    figures = [figures_of(read_page(page)) for page in pages]
    name = "messages at most that latest passes over"
    assert [each.get(name) for each in figures] == [told, None]


@pytest.mark.parametrize("action", Action)
def test_an_action_is_asked_for_by_nobody_who_lacks_its_scope(
    action: Action, make_run: MakeRun, client: Client, user: User
) -> None:
    make_run(partitions=[{"topic": "t", "partition": 3}])
    of_worker = {"worker": "worker-1"} if action.spec.target is not Target.CLUSTER else {}
    wanted = {"cluster": "main", "worker": "", "action": action, **of_worker}
    asked: dict[str, Any] = {**wanted, "arguments": GIVEN[action.spec.arguments]}
    others = sorted({"read", "export", "operate", "admin"} - {action.spec.scope})
    with pytest.raises(PermissionDenied):
        ask(Asker(name="mara", scopes=others), **asked)
    token = issue(user, others, timezone.now() + timedelta(days=1))[1]
    headers = {"Authorization": f"Bearer {token}"}
    sent = client.post("/api/v1/control", asked, content_type="application/json", headers=headers)
    assert sent.status_code == 403
    assert client.post("/control/new", {**wanted, "key": KEY}, headers=headers).status_code == 403
    assert client.get("/control/new", wanted, headers=headers).status_code == 403
    assert not ControlRequest.objects.exists()
    assert ask(Asker(name="mara", scopes=[action.spec.scope]), **asked).action == action


def test_a_viewer_sees_no_button_and_may_not_ask(
    client: Client, user: User, make_run: MakeRun
) -> None:
    fleet(seconds=20)
    client.force_login(user)
    task = RunState.objects.exclude(pool={}).first()
    assert task is not None
    assert task.pool.running is not None
    task_id = task.pool.running[0].task_id
    pages = ["/workers", "/partitions", f"/partitions/main/{TOPIC}/7", "/sinks"]
    pages.append(f"/task/main/{task_id}")
    for path in pages:
        assert b"/control/new" not in client.get(path).content
    sent = {"action": "stop", "key": KEY, **WORKER}
    assert client.post("/control/new", sent).status_code == 403
    assert client.get("/control/new", {"action": "stop", **WORKER}).status_code == 403
    assert not ControlRequest.objects.exists()
    user.groups.add(Group.objects.get_or_create(name="operator")[0])
    for path in pages:
        assert b"/control/new" in client.get(path).content


def test_a_forged_form_is_refused(user: User, make_run: MakeRun) -> None:
    make_run()
    user.groups.add(Group.objects.get_or_create(name="operator")[0])
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    sent = {"action": "stop", "key": KEY, **WORKER}
    assert client.post("/control/new", sent).status_code == 403
    assert not ControlRequest.objects.exists()


def requests(count: int, **columns: Any) -> None:
    now = timezone.now()
    ControlRequest.objects.bulk_create(
        ControlRequest(
            key=f"{columns}{n}",
            action="stop",
            actor="mara",
            requested_at=now - timedelta(seconds=n // 2),
            detail=f"number {n}.",
            **{**WORKER, **columns},
        )
        for n in range(count)
    )


def test_the_list_goes_through_all_rows(
    operator: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    requests(120)
    found: list[str] = []
    path = "/control"
    for _ in range(3):
        with django_assert_max_num_queries(MAX_QUERIES):
            page = read_page(operator.get(path))
        found += re.findall(r'title="number (\d+)\."', page)
        older = re.search(r'rel="next" href="([^"]*)"', page)
        path = f"/control{older[1]}" if older else ""
    assert path == ""
    assert "A page of <b>20</b> requests to workers, newest first" in page
    assert sorted(map(int, found)) == list(range(120))
    newer = re.search(r'rel="prev" href="([^"]*)"', page)
    assert newer is not None
    page = read_page(operator.get(f"/control{newer[1]}"))
    assert re.findall(r'title="number (\d+)\."', page) == found[50:100]


def test_the_list_s_filters(operator: Client) -> None:
    requests(2, state=ControlState.DONE)
    requests(3, worker="worker-2")

    def count(query: str) -> int:
        return operator.get(f"/control?{query}").content.count(b"<tr><td")

    assert count("") == 5
    assert count("state=done") == 2
    assert count("worker=worker-2") == 3
    assert count("action=drain") == 0
    assert count("actor=mara&cluster=main") == 5
    assert operator.get("/control?older=nonsense").status_code == 400


def test_the_task_page_offers_to_cancel_only_what_runs(operator: Client, make_run: MakeRun) -> None:
    run = make_run()
    make_events(run, 1, kind="task_started", task_id="0:1:0", attempt=1)
    page = operator.get("/task/main/0:1:0").content
    assert b"cancel_task" in page
    assert b"tail.js" in page
    panels = re.findall(rb'id="p-(\w+)"(.*?)(?= id="p-|</main>)', page, re.DOTALL)
    assert [name for name, _ in panels] == [b"head", b"task", b"runs", b"env", b"events"]
    moving = [body for name, body in panels if name not in (b"head", b"env")]
    assert all(b'class="age" data-every="2"' in body for body in moving)
    make_events(run, 2, first=2, kind="task_completed", task_id="0:1:0", attempt=1)
    page = operator.get("/task/main/0:1:0").content
    assert b"cancel_task" not in page
    assert b"tail.js" not in page
    assert b'class="age"' not in page


def test_a_suspect_is_decided_about_with_its_effect_shown(
    operator: Client, make_run: MakeRun
) -> None:
    detail = "offset 7: 5 workers in a row died (task 1:7:0)"
    sound = {"topic": "t", "partition": 0, "parked": {"sink": "disk full"}}
    parked = {"topic": "t", "partition": 1, "parked": {"suspect": detail}}
    make_run(partitions=[sound, parked])
    asked = {"action": "unpark_partition", "cluster": "main", "topic": "t"}
    for number, has_choice in (("0", False), ("1", True)):
        page = operator.get("/control/new", {**asked, "partition": number})
        assert page.context["effect"].is_destructive is has_choice
        assert (b'name="suspect"' in page.content) is has_choice
        assert (detail.encode() in page.content) is has_choice
    refused = operator.post(
        "/control/new", {**asked, "partition": "1", "suspect": "bury", "key": KEY}
    )
    assert refused.status_code == 400
    operator.post("/control/new", {**asked, "partition": "1", "suspect": "skip", "key": KEY})
    row = ControlRequest.objects.get()
    assert row.arguments == {"topic": "t", "partition": 1, "suspect": "skip"}
