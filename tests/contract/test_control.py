"""Requests to workers on a real PostgreSQL: obeyed once, answered, expired, resumed."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import timedelta
from typing import Any

import pytest
from django.db import OperationalError, connection
from django.db.models.functions import Now
from django.test import Client

from recorder.models import Run, RunState
from recorder.runs import RunDescription, uuid7
from tests.support.factories import make_run
from tests.support.upkeep import a_turn
from workers.control import MAX_PAUSED, Action, Answer, ClusterPauses, Command, Subject
from workers.control_plane.cluster_requests import asked_of
from workers.control_plane.jobs import end_stale_requests
from workers.control_plane.paused_by import (
    partitions_paused_by,
    sinks_paused_by,
    workers_paused_by,
)
from workers.control_plane.requests import Asker, KeyTaken, NoTarget, ask, expire_unanswered
from workers.models import ControlRequest, ControlState, StandingPause
from workers.runtime.control_inbox import ControlInbox

pytestmark = pytest.mark.django_db(transaction=True)


class Loop:
    """Takes orders as the worker's loop does; the test answers them."""

    def __init__(self) -> None:
        self.orders: list[tuple[Command, Future[Answer]]] = []

    def __call__(self, order: Command) -> Future[Answer]:
        future: Future[Answer] = Future()
        self.orders.append((order, future))
        return future


def ignored(pauses: ClusterPauses) -> None:
    """Rests for nothing."""


def described(run: Run) -> RunDescription:
    return RunDescription(
        id=run.id,
        cluster=run.cluster,
        worker=run.worker,
        host="h",
        pid=1,
        version="0",
        isolation="groups",
        slots=4,
        config_hash="",
        config={},
        environment={},
        started_at=0.0,
    )


@pytest.fixture
def run() -> Run:
    return make_run(
        id=uuid7(1.0),
        worker="worker-1",
        beat__partitions=[{"topic": "requests", "partition": 7}],
    )


def asked(action: str = "pause_intake", **arguments: Any) -> ControlRequest:
    worker, key = arguments.pop("worker", "worker-1"), arguments.pop("key", "")
    reason = arguments.pop("reason", "")
    return ask(
        Asker(name="mara", scopes={"operate"}),
        cluster="main",
        worker=worker,
        action=action,
        arguments=arguments,
        key=key,
        reason=reason,
    )


def test_a_request_is_accepted_by_one_beat_and_answered_by_a_later_one(run: Run) -> None:
    row, loop = asked(), Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    row.refresh_from_db()
    assert (row.state, row.run) == (ControlState.ACCEPTED, run.id)
    (order, future) = loop.orders[0]
    assert (order.id, order.action) == (str(row.id), Action.PAUSE_INTAKE)
    inbox.turn()
    row.refresh_from_db()
    assert row.state == ControlState.ACCEPTED
    future.set_result(Answer(is_done=True, detail="paused 3 partitions"))
    inbox.turn()
    row.refresh_from_db()
    assert (row.state, row.detail) == (ControlState.DONE, "paused 3 partitions")
    assert row.ended_at is not None


def test_an_order_that_raises_is_answered_with_the_error(run: Run) -> None:
    row, loop = asked("stop"), Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    loop.orders[0][1].set_exception(RuntimeError("no loop"))
    inbox.turn()
    row.refresh_from_db()
    assert (row.state, row.detail) == (ControlState.FAILED, "RuntimeError: no loop")


def test_an_answer_postgres_would_refuse_and_one_cut_off_do_not_stop_the_mail(run: Run) -> None:
    odd, cut = asked("stop"), asked("drain")
    loop = Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    loop.orders[0][1].set_result(Answer(is_done=False, detail="sink said \x00\udcff"))
    loop.orders[1][1].cancel()
    inbox.turn()
    for row in (odd, cut):
        row.refresh_from_db()
        assert row.state == ControlState.FAILED
    assert odd.detail.startswith("sink said")


def test_two_runs_of_one_name_obey_a_request_once(run: Run) -> None:
    asked()
    first, second = Loop(), Loop()
    ControlInbox(described(run), first, ignored).turn()
    ControlInbox(described(make_run(id=uuid7(2.0), worker="worker-1")), second, ignored).turn()
    assert (len(first.orders), len(second.orders)) == (1, 0)


def test_another_workers_request_is_left_alone(run: Run) -> None:
    make_run(id=uuid7(2.0), worker="worker-2")
    row, loop = asked(worker="worker-2"), Loop()
    ControlInbox(described(run), loop, ignored).turn()
    row.refresh_from_db()
    assert (row.state, loop.orders) == (ControlState.REQUESTED, [])


def test_a_request_nobody_accepted_expires_and_is_never_obeyed(run: Run) -> None:
    row, loop = asked("drain"), Loop()
    ControlRequest.objects.filter(id=row.id).update(requested_at=Now() - timedelta(seconds=61))
    ControlInbox(described(run), loop, ignored).turn()
    assert loop.orders == []
    assert expire_unanswered() == 1
    row.refresh_from_db()
    assert row.state == ControlState.EXPIRED
    assert "60 s" in row.detail


def test_a_request_whose_worker_ended_fails(run: Run) -> None:
    row = asked("stop")
    ControlInbox(described(run), Loop(), ignored).turn()
    run.beat.state = "stopped"
    run.beat.save()
    end_stale_requests(a_turn())
    row.refresh_from_db()
    assert (row.state, row.detail) == (
        ControlState.FAILED,
        "the worker ended or fell silent before it answered",
    )


def test_a_worker_that_was_only_taken_for_lost_still_answers(run: Run) -> None:
    row, loop = asked("drain"), Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    run.beat.state = "lost"
    run.beat.save()
    end_stale_requests(a_turn())
    loop.orders[0][1].set_result(Answer(is_done=True, detail="drained"))
    inbox.turn()
    row.refresh_from_db()
    assert (row.state, row.detail) == (ControlState.DONE, "drained")


def taken_without_a_word(execute: Any, sql: str, *rest: Any) -> Any:
    """Postgres does it, and the connection breaks before it says so."""
    done = execute(sql, *rest)
    if sql.startswith("UPDATE") and "workers_controlrequest" in sql:
        raise OperationalError("server closed the connection")
    return done


@pytest.mark.parametrize(("age", "state"), [(0, ControlState.DONE), (61, ControlState.FAILED)])
def test_a_request_taken_without_postgres_word_is_obeyed_at_the_next_beat_if_it_is_new(
    run: Run, age: int, state: str
) -> None:
    row, loop = asked("drain"), Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    with connection.execute_wrapper(taken_without_a_word), pytest.raises(OperationalError):
        inbox.turn()
    late = Now() - timedelta(seconds=age)
    assert ControlRequest.objects.filter(state="accepted").update(requested_at=late) == 1
    for _ in range(3):
        inbox.turn()
        for _order, future in loop.orders:
            if not future.done():
                future.set_result(Answer(is_done=True, detail="drained"))
    row.refresh_from_db()
    assert row.state == state
    assert len(loop.orders) == (state == ControlState.DONE)


def test_the_same_key_asks_once(run: Run) -> None:
    first, second = asked(key="k"), asked(key="k")
    assert first.id == second.id
    assert ControlRequest.objects.count() == 1


def test_a_request_sent_again_is_the_first_whoever_owns_the_partition_now(run: Run) -> None:
    place = {"topic": "requests", "partition": 7}
    first = asked("pause_partition", worker="", key="k", **place)
    make_run(id=uuid7(2.0), worker="worker-2", beat__partitions=[place])
    run.beat.state = "stopped"
    run.beat.save()
    assert asked("pause_partition", worker="", key="k", **place).id == first.id
    RunState.objects.update(state="stopped")
    assert asked("pause_partition", worker="", key="k", **place).id == first.id


@pytest.mark.parametrize(
    ("other", "told"),
    [
        ({"action": "stop"}, "another action"),
        ({"sink": "b"}, "another arguments"),
        ({"worker": "worker-2"}, "another worker"),
    ],
)
def test_a_key_is_of_one_request_only(run: Run, other: dict[str, str], told: str) -> None:
    make_run(id=uuid7(2.0), worker="worker-2")
    first = {"action": "pause_sink", "sink": "a", "worker": "worker-1"}
    asked(key="k", **first)
    second = {**first, **other}
    if second["action"] == "stop":
        del second["sink"]
    with pytest.raises(KeyTaken, match=told):
        asked(key="k", **second)
    assert ControlRequest.objects.count() == 1


@pytest.mark.parametrize(
    ("action", "arguments", "said"),
    [
        ("explode", {}, "action: expected one of pause_intake"),
        ("pause_partition", {"topic": "t", "partition": -1}, "partition: .* got -1"),
        ("pause_sink", {}, "sink: "),
        ("stop", {"now": True}, "now: "),
        ("cancel_task", {"task_id": "../x", "decision": "skip"}, "task_id: "),
    ],
)
def test_what_cannot_be_understood_is_refused_by_name(
    run: Run, action: str, arguments: dict[str, Any], said: str
) -> None:
    with pytest.raises(ValueError, match=said):
        asked(action, **arguments)
    assert not ControlRequest.objects.exists()


def test_a_partition_is_asked_of_its_owner(run: Run) -> None:
    row = asked("pause_partition", worker="", topic="requests", partition=7)
    assert row.worker == "worker-1"
    cancel = asked("cancel_task", worker="", task_id="7:12:0", decision="skip")
    assert cancel.worker == "worker-1"
    with pytest.raises(NoTarget, match="owns requests 8"):
        asked("pause_partition", worker="", topic="requests", partition=8)
    with pytest.raises(NoTarget, match="worker-9"):
        asked("stop", worker="worker-9")


def done(row: ControlRequest) -> None:
    ControlRequest.objects.filter(id=row.id).update(state=ControlState.DONE)


def test_pauses_outlive_a_run_until_they_are_ended(run: Run) -> None:
    done(asked("pause_intake"))
    done(asked("pause_sink", sink="search_results"))
    done(asked("pause_sink", sink="results"))
    done(asked("resume_sink", sink="results"))
    loop = Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    inbox.turn()
    found = {(order.action, order.target) for order, _ in loop.orders}
    assert found == {
        (Action.PAUSE_INTAKE, ""),
        (Action.PAUSE_SINK, "search_results"),
    }


def test_the_api_asks_shows_and_refuses(run: Run, client: Client, django_user_model: Any) -> None:
    boss = django_user_model.objects.create_superuser("boss", password="a-long-password")
    client.force_login(boss)
    body = {"cluster": "main", "worker": "worker-1", "action": "stop"}
    answer = client.post("/api/v1/control", body, content_type="application/json")
    assert answer.status_code == 202
    row = ControlRequest.objects.get()
    assert (row.actor, row.user, answer.json()["id"]) == ("boss", boss, str(row.id))
    assert client.get(f"/api/v1/control/{row.id}").json()["state"] == "requested"
    listed = client.get("/api/v1/control").json()["requests"]
    assert [each["id"] for each in listed] == [str(row.id)]
    body["action"] = "explode"
    refused = client.post("/api/v1/control", body, content_type="application/json")
    assert (refused.status_code, refused["Content-Type"]) == (422, "application/problem+json")
    body |= {"action": "stop", "worker": "nobody"}
    assert client.post("/api/v1/control", body, content_type="application/json").status_code == 409
    viewer = django_user_model.objects.create_user("mara", password="a-long-password")
    client.force_login(viewer)
    body["worker"] = "worker-1"
    assert client.post("/api/v1/control", body, content_type="application/json").status_code == 403
    assert ControlRequest.objects.count() == 1


def test_a_cluster_s_pause_reaches_each_worker_once_and_those_that_start_later(run: Run) -> None:
    told: list[ClusterPauses] = []
    inbox = ControlInbox(described(run), Loop(), told.append)
    inbox.turn()
    assert told == []
    row = asked("pause_cluster", worker="", key="k1")
    assert (row.state, row.worker) == (ControlState.DONE, "")
    assert asked("pause_cluster", worker="", key="k1").id == row.id
    again = asked("pause_cluster", worker="")
    assert again.detail.startswith("it is paused already, by mara since ")
    inbox.turn()
    inbox.turn()
    assert told == [ClusterPauses(is_paused=True)]
    later: list[ClusterPauses] = []
    newcomer = make_run(id=uuid7(2.0), worker="worker-2")
    ControlInbox(described(newcomer), Loop(), later.append).turn()
    assert later == told
    assert asked("resume_cluster", worker="").detail.startswith("its workers go on")
    assert asked("resume_cluster", worker="").detail == "it was not paused"
    inbox.turn()
    assert told[-1] == ClusterPauses()


def test_what_a_worker_knew_of_pauses_stands_while_postgres_is_away(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    told: list[ClusterPauses] = []
    inbox = ControlInbox(described(run), Loop(), told.append)
    asked("pause_cluster", worker="")
    inbox.turn()

    def away(cluster: str) -> ClusterPauses:
        raise OperationalError("away")

    with monkeypatch.context() as patched:
        patched.setattr("workers.runtime.control_inbox.cluster_pauses", away)
        with pytest.raises(OperationalError):
            inbox.turn()
    inbox.turn()
    assert told == [ClusterPauses(is_paused=True)]


def test_a_pause_of_another_cluster_is_none_of_ours(run: Run) -> None:
    make_run(id=uuid7(3.0), cluster="other", worker="w")
    told: list[ClusterPauses] = []
    mara = Asker(name="mara", scopes={"operate"})
    ask(mara, cluster="other", worker="", action="pause_cluster", arguments={})
    ControlInbox(described(run), Loop(), told.append).turn()
    assert told == []
    with pytest.raises(NoTarget, match="cluster: expected one that ran before, got nowhere"):
        ask(mara, cluster="nowhere", worker="", action="pause_cluster", arguments={})
    with pytest.raises(ValueError, match="worker: expected none"):
        asked("pause_cluster")


def test_each_live_worker_is_asked_and_answers_by_itself(run: Run) -> None:
    make_run(id=uuid7(2.0), worker="worker-2")
    make_run(id=uuid7(3.0), worker="gone", beat__state="lost")
    row = asked("cancel_matching", worker="", partition=7, decision="skip", key="k2")
    assert row.detail == "asked of 2 workers"
    assert asked("cancel_matching", worker="", partition=7, decision="skip", key="k2").id == row.id
    each = asked_of(row)
    assert [one.worker for one in each] == ["worker-1", "worker-2"]
    assert {one.action for one in each} == {"cancel_matching"}
    assert ControlRequest.objects.count() == 3
    loop = Loop()
    inbox = ControlInbox(described(run), loop, ignored)
    inbox.turn()
    loop.orders[0][1].set_result(Answer(is_done=True, detail="2 cancelled"))
    inbox.turn()
    assert [(one.state, one.detail) for one in asked_of(row)] == [
        ("done", "2 cancelled"),
        ("requested", ""),
    ]
    with pytest.raises(KeyTaken):
        asked("cancel_matching", worker="", partition=8, decision="skip", key="k2")


def test_groups_and_keys_are_paused_by_name_and_not_without_bound(run: Run) -> None:
    told: list[ClusterPauses] = []
    inbox = ControlInbox(described(run), Loop(), told.append)
    asked("pause_group", worker="", group="tenant")
    asked("pause_key", worker="", task_key="k" * 255)
    inbox.turn()
    assert told == [ClusterPauses(groups=frozenset({"tenant"}), keys=frozenset({"k" * 255}))]
    asked("resume_group", worker="", group="other")
    inbox.turn()
    assert len(told) == 1
    asked("resume_group", worker="", group="tenant")
    inbox.turn()
    assert told[-1] == ClusterPauses(keys=frozenset({"k" * 255}))
    for n in range(MAX_PAUSED - 1):
        asked("pause_key", worker="", task_key=f"key-{n}")
    with pytest.raises(ValueError, match="key: expected at most 100 paused at once"):
        asked("pause_key", worker="", task_key="one more")
    assert asked("pause_key", worker="", task_key="key-0").detail.startswith("it is paused already")
    asked("pause_group", worker="", group="a group has a bound of its own")
    inbox.turn()
    assert len(told[-1].keys) == MAX_PAUSED
    with pytest.raises(ValueError, match="task_key: "):
        asked("pause_key", worker="", task_key="k" * 10_000)


def test_a_reason_goes_with_the_request_to_the_worker_and_to_what_is_paused(run: Run) -> None:
    loop, told = Loop(), list[ClusterPauses]()
    inbox = ControlInbox(described(run), loop, told.append)
    row = asked("pause_intake", reason=" deploy\n of \x1bv12, token=abc ")
    assert row.reason == "deploy of v12, token=***"
    asked("pause_group", worker="", group="t", reason="tenant t is moved")
    assert StandingPause.objects.get().reason == "tenant t is moved"
    again = asked("pause_group", worker="", group="t", reason="for another reason")
    assert again.detail.endswith(": tenant t is moved")
    inbox.turn()
    ((command, _),) = loop.orders
    assert (command.actor, command.reason) == ("mara", row.reason)
    found = told[0].asked[Subject.GROUP, "t"]
    assert (found.actor, found.reason) == ("mara", "tenant t is moved")
    with pytest.raises(ValueError, match="reason: expected at most 500 characters, got 501"):
        asked("pause_intake", reason="x" * 501)


def test_the_last_request_that_was_done_says_by_whom_something_is_paused(run: Run) -> None:
    place = {"topic": "requests", "partition": 7}
    paused = ("main", "requests", 7)
    done(asked("pause_partition", reason="first", **place))
    asked("pause_partition", reason="not done", **place)
    assert partitions_paused_by([paused])[paused].reason == "first"
    assert partitions_paused_by([("main", "requests", 8)]) == {}
    done(asked("resume_partition", **place))
    assert partitions_paused_by([paused]) == {}
    done(asked("drain", reason="host goes down"))
    assert workers_paused_by([("main", "worker-1")])["main", "worker-1"].reason == "host goes down"
    done(asked("resume_intake"))
    assert workers_paused_by([("main", "worker-1")]) == {}
    done(asked("pause_sink", sink="out", reason="disk"))
    assert sinks_paused_by([("main", "worker-1", "out")])["main", "worker-1", "out"].actor == "mara"
