"""Replaying and resolving letters on the pages: numbers first, once, by operators, by jobs."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.contrib.auth.models import User
from django.test import Client
from django.utils import timezone

from domain.events import Event
from domain.origin import REPLAY_HEADER
from drakkar_site.accounts.models import AuditEntry
from sinks.base import TransientError
from sinks.letter_jobs import ReplayTransports
from sinks.models import DeadLetter, LetterJob, LetterJobState, Replay
from sinks.replay_sink import NoLiveWorker, RedeliveryOutcome
from tests.contract.test_replay import Tape
from tests.support.reading import read_page
from tests.web.test_dead_letters import make
from workers.control_plane.jobs import run_letter_jobs

pytestmark = pytest.mark.django_db(transaction=True)
KEY = "0" * 32


class Away(Tape):
    """A transport whose Kafka does not answer."""

    def open(self) -> None:
        raise TransientError("no broker answers")


def post(client: Client, action: str = "source", **asked: Any) -> Any:
    values = {"action": action, "of": "chosen", "key": KEY, "rate": "1000"} | asked
    return client.post("/dead-letters/jobs/new", values)


def run(transport: Tape) -> list[Event]:
    told: list[Event] = []
    run_letter_jobs(
        ReplayTransports(transports={"main": lambda: transport}, redeliver=nobody), told.append
    )
    return told


def nobody(*_: Any) -> list[tuple[RedeliveryOutcome, str]]:
    raise NoLiveWorker("no worker lives")


def states() -> list[str]:
    return list(DeadLetter.objects.order_by("pk").values_list("state", flat=True))


def numbers(page: str) -> dict[str, str]:
    found = re.findall(r'<dt class="num">([^<]*)</dt><dd>([^<]*)</dd>', page)
    return {name: count for count, name in found}


def test_the_effect_is_shown_in_numbers_and_nothing_happens(
    operator: Client, django_assert_max_num_queries: Any
) -> None:
    first = make(1, sink="results", stage="deliver")
    make(2, origin=first.origin)
    make(3, state="replayed")
    make(4, cluster="other")
    with django_assert_max_num_queries(15):
        page = operator.get("/dead-letters/jobs/new?action=source&of=all&cluster=main")
    assert numbers(read_page(page)) == {
        "open letters": "2", "message": "1", "bytes": "14", "of stage deliver": "1",
        "of stage task": "1", "of sink results": "1",
    }  # fmt: skip
    assert not LetterJob.objects.exists()
    assert states() == ["open", "open", "replayed", "open"]


def test_chosen_letters_are_replayed_once_by_the_controller(operator: Client) -> None:
    letters = [make(number) for number in (1, 2, 3)]
    chosen = [letters[0].pk, letters[2].pk]
    where = post(operator, letter=chosen)["Location"]
    assert post(operator, letter=chosen)["Location"] == where
    tape = Tape()
    told = run(tape)
    assert [event.kind for event in told] == ["replayed", "replayed"]
    assert [(e.offset, e.target, e.actor) for e in told] == [  # type: ignore[attr-defined]
        (1, "t 0:1", "mara"),
        (3, "t 0:2", "mara"),
    ]
    assert [original.headers[-1][0] for original, _ in tape.sent] == [REPLAY_HEADER] * 2
    assert states() == ["replayed", "open", "replayed"]
    assert set(Replay.objects.values_list("actor", flat=True)) == {"mara"}
    page = read_page(operator.get(where))
    assert numbers(page) == {"replayed": "2", "letters they answer": "2"}
    assert run(tape) == []
    assert len(tape.sent) == 2


def test_a_form_sent_again_for_other_letters_says_so(operator: Client) -> None:
    letters = [make(number) for number in (1, 2)]
    assert post(operator, letter=letters[0].pk).status_code == 302
    other = post(operator, letter=letters[1].pk)
    assert other.status_code == 400
    assert "sent before, for source with another selection" in other.context["error"]
    assert LetterJob.objects.count() == 1


def test_the_api_s_key_asks_once_though_letters_came_since(operator: Client) -> None:
    make(1)
    body: dict[str, Any] = {"action": "source", "cluster": "main", "key": "night"}
    ids = set()
    for number in (2, 3):
        answer = operator.post("/api/v1/dead-letters/jobs", body, content_type="application/json")
        ids.add(answer.json()["id"])
        make(number)
    body["rate"] = 5
    refused = operator.post("/api/v1/dead-letters/jobs", body, content_type="application/json")
    assert (len(ids), refused.status_code) == (1, 422)


def test_all_that_match_leaves_out_what_came_after_the_confirm_page(operator: Client) -> None:
    make(1)
    make(2, stage="parse")
    asked = {"action": "source", "of": "all", "cluster": "main", "stage": "task"}
    page = operator.get("/dead-letters/jobs/new", asked)
    up_to = page.context["preview"].selection.up_to_id
    make(3)
    post(operator, **asked, up_to=up_to)
    tape = Tape()
    run(tape)
    assert states() == ["replayed", "open", "open"]


def test_all_that_have_a_label_and_none_whose_labels_are_unknown(operator: Client) -> None:
    make(1, labels={"tenant": "a"})
    make(2, labels={"tenant": "b"})
    make(3)
    asked = {"of": "all", "cluster": "main", "label": "tenant=a"}
    page = operator.get("/dead-letters/jobs/new", {"action": "source", **asked}).content.decode()
    assert numbers(page)["open letter"] == "1"
    assert 'name="label" value="tenant=a"' in page
    assert 'name="reason"' in page
    assert post(operator, **asked, reason="fixed in v12, token=abc").status_code == 302
    assert LetterJob.objects.get().reason == "fixed in v12, token=***"
    run(Tape())
    assert states() == ["replayed", "open", "open"]
    answer = ask(operator, action="resolve", cluster="main", label="tenant=b", reason="known")
    assert answer.status_code == 202
    run(Tape())
    assert states() == ["replayed", "resolved", "open"]
    assert ask(operator, action="resolve", cluster="main", label="b", reason="x").status_code == 422


def test_letters_are_resolved_with_a_reason(operator: Client) -> None:
    letter = make(1)
    assert "reason: expected" in post(operator, "resolve", letter=letter.pk).context["error"]
    post(operator, "resolve", letter=letter.pk, reason="the order was <cancelled>")
    (told,) = run(Tape())
    assert (told.kind, told.reason) == ("resolved", "the order was <cancelled>")  # type: ignore[attr-defined]
    letter.refresh_from_db()
    assert (letter.state, letter.resolved_by) == ("resolved", "mara")
    page = read_page(operator.get(f"/dead-letters/{letter.pk}"))
    assert "the order was &lt;cancelled&gt;" in page
    assert "/dead-letters/jobs/new" not in page


def test_kafka_away_fails_the_job_and_claims_nothing(operator: Client) -> None:
    where = post(operator, letter=make(1).pk)["Location"]
    assert run(Away()) == []
    assert LetterJob.objects.get().state == LetterJobState.FAILED
    assert states() == ["open"]
    assert "no broker answers" in read_page(operator.get(where))


def test_a_job_whose_runner_died_is_run_by_the_next(operator: Client) -> None:
    post(operator, letter=make(1).pk)
    LetterJob.objects.update(state="running", progress_at=timezone.now())
    tape = Tape()
    assert run(tape) == []
    LetterJob.objects.update(progress_at=timezone.now() - timedelta(seconds=61))
    assert len(run(tape)) == 1
    job = LetterJob.objects.get()
    assert (job.state, job.letters_done, job.letters_total) == ("done", 1, 1)


def test_a_cluster_that_the_controller_does_not_know_fails_the_job(operator: Client) -> None:
    post(operator, letter=make(1, cluster="fast").pk)
    run(Tape())
    assert "the controller knows main, not fast" in LetterJob.objects.get().error


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"letter": "x"}, "letter: expected a whole number, got x"),
        ({}, "letter: expected 1 to 1000 chosen letters, got none"),
        ({"letter": "99999"}, "letter: expected letters of one cluster, got those of none"),
        ({"of": "all"}, "cluster: expected one"),
        ({"of": "all", "cluster": "main", "stage": "x"}, "stage: expected one of"),
        (
            {"action": "burn", "letter": "1"},
            "action: expected one of source, sink, resolve, got burn",
        ),
        ({"of": "all", "cluster": "main", "rate": "nan"}, "rate: expected 0.1 to 1000, got nan"),
        ({"of": "all", "cluster": "main", "rate": "fast"}, "rate: expected a number, got fast"),
        ({"of": "all", "cluster": "main", "key": "k"}, "key: expected the one of the form"),
        ({"of": "all", "cluster": "none"}, "letters: expected at least one that is open"),
    ],
)
def test_what_cannot_be_done_is_said_in_its_place(
    operator: Client, asked: dict[str, str], said: str
) -> None:
    make(1)
    page = post(operator, **asked)
    assert page.status_code == 400
    assert said in page.context["error"]
    assert not LetterJob.objects.exists()


def test_letters_of_two_clusters_are_not_mixed(operator: Client) -> None:
    page = post(operator, letter=[make(1).pk, make(2, cluster="other").pk])
    assert "got those of main, other" in page.context["error"]


def test_a_viewer_sees_no_action_and_may_not_ask(client: Client, user: User) -> None:
    client.force_login(user)
    letter = make(1)
    for path in ("/dead-letters", f"/dead-letters/{letter.pk}"):
        assert b"/dead-letters/jobs/new" not in client.get(path).content
    assert post(client, letter=letter.pk).status_code == 403
    assert not LetterJob.objects.exists()


def test_the_list_of_jobs(operator: Client, django_assert_max_num_queries: Any) -> None:
    post(operator, letter=make(1).pk)
    with django_assert_max_num_queries(15):
        page = operator.get("/dead-letters/jobs")
    assert b"0 of 1" in page.content
    assert b"data-waiting" in page.content
    assert operator.get("/dead-letters/jobs?cluster=other").context["rows"] == []


def test_the_api_lists_jobs_and_tells_of_one(client: Client, operator: Client, secret: str) -> None:
    post(operator, letter=[make(1).pk, make(2).pk])
    run(Tape())
    headers = {"Authorization": f"Bearer {secret}"}
    (job,) = client.get("/api/v1/dead-letters/jobs?state=done", headers=headers).json()["jobs"]
    assert (job["state"], job["letters_total"], job["letters_done"]) == ("done", 2, 2)
    assert (job["result"]["replayed"], job["error"]) == (2, "")
    one = client.get(f"/api/v1/dead-letters/jobs/{job['id']}", headers=headers)
    assert one.json() == job
    assert client.get(f"/api/v1/dead-letters/jobs/{uuid4()}", headers=headers).status_code == 404
    for bad in ("state=x", "older=x"):
        answer = client.get(f"/api/v1/dead-letters/jobs?{bad}", headers=headers)
        assert (answer.status_code, answer.json()["detail"].split(":")[0]) == (422, bad[:-2])


def test_the_api_pages_through_all_jobs(client: Client, secret: str) -> None:
    rows = [
        LetterJob(id=uuid4(), key=str(n), action="source", cluster="main", rate=1, letters_total=n)
        for n in range(120)
    ]
    LetterJob.objects.bulk_create(rows)  # all of one moment
    found: list[int] = []
    older: str | None = ""
    while older is not None:
        query = {"older": older, "cluster": "main", "token": secret}
        answer = client.get("/api/v1/dead-letters/jobs", query).json()
        found, older = found + [job["letters_total"] for job in answer["jobs"]], answer["older"]
    assert sorted(found) == list(range(120))


def ask(client: Client, **asked: Any) -> Any:
    body = {"action": "source", "rate": 1000} | asked
    return client.post("/api/v1/dead-letters/jobs", body, "application/json")


def test_the_api_asks_once_for_chosen_letters(operator: Client) -> None:
    ids = [make(1).pk, make(2).pk]
    make(3)
    first, again = ask(operator, letter=ids, key="k"), ask(operator, letter=ids, key="k")
    assert (first.status_code, first.json()["letters_total"]) == (202, 2)
    assert (again.status_code, again.json()["id"]) == (202, first.json()["id"])
    job = LetterJob.objects.get()
    assert (job.actor, job.rate, job.selection["up_to_id"]) == ("mara", 1000.0, ids[1])
    run(Tape())
    assert states() == ["replayed", "replayed", "open"]
    entry = AuditEntry.objects.filter(path="/api/v1/dead-letters/jobs").first()
    assert entry is not None
    assert (entry.actor, entry.method, entry.status) == ("mara", "POST", 202)
    assert "action=source" in entry.target


def test_the_api_asks_for_all_that_match_and_none_that_come_later(operator: Client) -> None:
    make(1)
    answer = ask(operator, action="resolve", cluster="main", stage="task", reason="known")
    assert (answer.status_code, answer.json()["reason"]) == (202, "known")
    make(2)
    run(Tape())
    assert states() == ["resolved", "open"]


@pytest.mark.parametrize(
    ("asked", "why"),
    [
        ({}, "cluster: expected one"),
        ({"action": "edit", "cluster": "main"}, "action"),
        ({"action": "resolve", "cluster": "main"}, "reason: expected"),
        ({"action": "sink", "cluster": "main", "stage": "task"}, "stage: expected deliver"),
        ({"cluster": "main", "stage": "x"}, "stage"),
        ({"cluster": "main", "rate": 0}, "rate"),
        ({"cluster": "main", "letter": [1]}, "letter: expected ids alone"),
        ({"letter": [0]}, "letter"),
        ({"letter": [10**30]}, "letter"),
        ({"letter": [999]}, "letter: expected letters of one cluster"),
        ({"cluster": "other"}, "letters: expected at least one"),
    ],
)
def test_the_api_names_what_is_wrong(operator: Client, asked: dict[str, Any], why: str) -> None:
    make(1)
    answer = ask(operator, **asked)
    assert (answer.status_code, answer["Content-Type"]) == (422, "application/problem+json")
    assert why in answer.json()["detail"]
    assert not LetterJob.objects.exists()


def test_a_token_that_reads_asks_for_no_job(client: Client, secret: str) -> None:
    body, headers = (
        {"action": "source", "letter": [make(1).pk]},
        {"Authorization": f"Bearer {secret}"},
    )
    answer = client.post("/api/v1/dead-letters/jobs", body, "application/json", headers=headers)
    assert answer.status_code == 403
    assert not LetterJob.objects.exists()
