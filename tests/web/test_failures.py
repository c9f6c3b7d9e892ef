"""The pages of failure groups: list, filters, one group, and what a person says of it."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import timedelta
from html import unescape
from typing import Any

import pytest
from django.test import Client
from django.utils import timezone

from domain.paging import BadFilter
from drakkar_site.accounts.models import AuditEntry
from recorder.config import RecorderConfig
from recorder.failures.counting import project_failures
from recorder.failures.grouping import Grouping
from recorder.failures.retention import prune_failures
from recorder.models import Event, FailureGroup, Run
from recorder.rows import Row, to_row
from recorder.shedding import ShedAccount
from sinks.letter_jobs import selection_of
from sinks.letter_rows import store_letters
from sinks.models import DeadLetter, LetterJob
from tests.contract.test_failure_groups import failed, rows_of
from tests.contract.test_letters_postgres import event, record
from tests.contract.test_recorder_postgres import description
from tests.web.conftest import MakeRun
from workers.control_plane.rerun.filters import filters_of as rerun_filters
from workers.control_plane.rerun.matching import choose

pytestmark = pytest.mark.django_db


@pytest.fixture
def run(make_run: MakeRun) -> Run:
    return make_run("worker-7")


def fail(run: Run, times: int, *, ago: timedelta = timedelta(), **changes: Any) -> list[Row]:
    at = (timezone.now() - ago).timestamp()
    rows = rows_of([failed(**{"offset": n, "at": at, **changes}) for n in range(1, times + 1)])
    Event.objects.copy_in([{**row, "run": run.id} for row in rows])
    project_failures(replace(description(), id=run.id, cluster=run.cluster), rows)
    return rows


def test_groups_are_listed_with_what_they_involve(operator: Client, run: Run) -> None:
    fail(run, 4)
    fail(run, 1, stderr=b"no quota for 'x'", labels={"tenant": "acme"})
    text = operator.get("/failures").content.decode()
    for said in (
        "exit 3: cannot open &lt;path&gt;",
        "no quota for &lt;text&gt;",
        "worker-7",
        "acme",
    ):
        assert said in text, said
    assert "tenant=t0" in text.replace("tenant=t1", "tenant=t0")
    assert "2</b> groups" in text


@pytest.mark.parametrize(
    ("query", "titles"),
    [
        ("kind=exit", 2),
        ("kind=timeout", 0),
        ("state=resolved", 0),
        ("label=tenant=acme", 1),
        ("label=tenant=other", 0),
        ("since=1h", 1),
        ("until=1h", 1),
        ("text=QUOTA", 1),
        ("cluster=other", 0),
        ("sort=count", 2),
        ("sort=first_seen&since=3h", 2),
    ],
    ids=["kind", "other-kind", "state", "label", "no-label", "since", "until", "text", "cluster",
         "count", "new"],
)  # fmt: skip
def test_filters_narrow_the_list(operator: Client, run: Run, query: str, titles: int) -> None:
    fail(run, 2, ago=timedelta(hours=2))
    fail(run, 1, stderr=b"no quota", labels={"tenant": "acme"})
    text = operator.get(f"/failures?{query}").content.decode()
    assert text.count("<tr data-key=") == titles


@pytest.mark.parametrize("query", ["kind=x", "state=x", "since=x", "label=x", "sort=x", "older=x"])
def test_a_bad_filter_is_named(operator: Client, query: str) -> None:
    answer = operator.get(f"/failures?{query}")
    assert answer.status_code == 400
    assert f"{query.partition('=')[0]}: " in answer.content.decode()


@pytest.mark.parametrize("sort", ["last_seen", "count", "first_seen"])
def test_pages_go_on_by_any_order(operator: Client, run: Run, sort: str) -> None:
    now = timezone.now()
    FailureGroup.objects.bulk_create(
        FailureGroup(
            fingerprint=f"{n:020x}", cluster="main", kind="exit", title=f"t{n}", first_seen=now,
            last_seen=now, count=n % 3,
        )
        for n in range(60)
    )  # fmt: skip
    first = operator.get(f"/failures?sort={sort}")
    older = first.context["page"].older
    second = operator.get("/failures", {"sort": sort, "older": older})
    seen = [group.pk for answer in (first, second) for group in answer.context["page"].rows]
    assert len(set(seen)) == len(seen) == 60


def test_one_group_says_where_and_what_and_leads_on(operator: Client, run: Run) -> None:
    fail(run, 3)
    group = FailureGroup.objects.get()
    text = operator.get(f"/failures/{group.pk}").content.decode()
    for said in ("cannot open /a/1", "worker-7", "/task/main/3:3:0", "/trace/t/3:3", "tenant"):
        assert said in text, said
    assert operator.get("/failures/0000").status_code == 404


def test_what_has_the_label_most_involved_is_cancelled_from_the_group(
    operator: Client, run: Run
) -> None:
    fail(run, 4, labels={"tenant": "a&b"})
    page = operator.get(f"/failures/{FailureGroup.objects.get().pk}").content.decode()
    assert "Cancel what has tenant=a&amp;b (100% of these failures)" in page
    (link,) = re.findall(r'href="(/control/new[^"]*cancel_matching[^"]*)"', page)
    confirm = operator.get(unescape(link)).content.decode()
    assert "running tasks that match" in confirm
    assert 'name="label" value="tenant=a&amp;b"' in confirm


def test_what_is_said_of_a_group_is_kept_and_audited(operator: Client, run: Run) -> None:
    fail(run, 3)
    group = FailureGroup.objects.get()
    path = f"/failures/{group.pk}/change"
    form = {"action": "ignore", "note": "known", "owner": "ann"}
    assert operator.post(path, form).status_code == 302
    group.refresh_from_db()
    assert (group.state, group.ignored_count, group.note, group.owner) == (
        "ignored",
        30,
        "known",
        "ann",
    )
    assert group.changed_by == "mara"
    assert "action=ignore" in AuditEntry.objects.get().target
    assert operator.post(path, {"action": "resolve"}).status_code == 302
    group.refresh_from_db()
    assert (group.state, group.ignored_count, group.note) == ("resolved", None, "known")
    fail(run, 1, ago=-timedelta(minutes=5))
    assert "came back" in operator.get("/failures").content.decode()
    bad = operator.post(path, {"action": "x"})
    assert (bad.status_code, "action: expected" in bad.content.decode()) == (400, True)
    assert operator.post(path, {"action": "note", "note": "n" * 2001}).status_code == 400


def test_what_is_wrong_now_names_a_new_group_and_leads_to_it(
    operator: Client, run: Run, make_run: MakeRun
) -> None:
    make_run("controller", "_control")
    fail(run, 4, stderr=b"<b>new</b>")
    assert operator.get("/").context["findings"] == []
    fail(run, 1, stderr=b"<b>new</b>")
    page = operator.get("/")
    (found,) = page.context["findings"]
    group = FailureGroup.objects.get()
    assert found.title == f"Cluster main: new failure: {group.title}"
    assert "5 failures since" in found.detail
    assert f'href="/failures/{group.pk}' in page.content.decode()
    assert "<b>new</b>" not in page.content.decode()


def test_the_api_lists_shows_and_changes_groups(operator: Client, run: Run) -> None:
    fail(run, 3)
    pk = FailureGroup.objects.get().pk
    listed = operator.get("/api/v1/failures?kind=exit").json()
    assert [each["fingerprint"] for each in listed["failures"]] == [pk]
    one = operator.get(f"/api/v1/failures/{pk}").json()
    assert one["by"]["worker"] == [{"value": "worker-7", "count": 3}]
    assert one["labels"]["tenant"] == [{"value": "t1", "count": 2}, {"value": "t0", "count": 1}]
    assert one["samples"][0]["task_id"] == "3:3:0"
    sent = operator.patch(
        f"/api/v1/failures/{pk}", {"action": "resolve"}, content_type="application/json"
    )
    assert sent.json()["state"] == "resolved"
    bad = {"action": "resolve", "until": "2030-01-01T00:00:00Z"}
    refused = operator.patch(f"/api/v1/failures/{pk}", bad, content_type="application/json")
    assert (refused.status_code, "until: expected" in refused.json()["detail"]) == (422, True)
    assert operator.get("/api/v1/failures?kind=x").status_code == 422


def test_letters_of_a_group_are_listed_and_counted_before_all_are_replayed(
    operator: Client, run: Run
) -> None:
    grouping = Grouping("main")
    rows = rows_of(
        [failed(7), event(record(7), task_id="3:7:0"), event(record(8), task_id="3:8:0")], grouping
    )
    store_letters("main", "w", rows)
    group = DeadLetter.objects.get(offset=7).failure_group
    assert group
    assert group != DeadLetter.objects.get(offset=8).failure_group
    listed = operator.get(f"/dead-letters?group={group}&since=1h&failure=exit&matching=code")
    assert [letter.offset for letter in listed.context["page"].rows] == [7]
    asked = {"of": "all", "action": "resolve", "cluster": "main", "group": group}
    preview = operator.get("/dead-letters/jobs/new", asked)
    assert preview.context["preview"].letters == 1
    form = {**asked, "key": "0" * 32, "reason": "known", "up_to": "99999"}
    assert operator.post("/dead-letters/jobs/new", form).status_code == 302
    job = LetterJob.objects.get()
    assert (job.letters_total, job.selection["group"]) == (1, group)
    assert selection_of(job).group == group
    for bad in ("group=x", "since=x", "failure=x"):
        assert operator.get(f"/dead-letters?{bad}").status_code == 400


def test_what_was_shed_counts_too(run: Run) -> None:
    account = ShedAccount()
    account.add(rows_of([failed(1), failed(2), failed(3, stderr=b"other")]))
    told = account.settle(timezone.now().timestamp())
    assert told is not None
    row = to_row(told, 9, RecorderConfig())
    account.add([row])  # refused by Postgres
    again = account.settle(timezone.now().timestamp())
    assert again is not None
    row = to_row(again, 10, RecorderConfig())
    project_failures(replace(description(), id=run.id), [row])
    assert sorted(FailureGroup.objects.values_list("count", flat=True)) == [1, 2]
    assert account.settle(1.0) is None


def test_groups_go_with_the_days_of_the_history(run: Run) -> None:
    fail(run, 1, ago=timedelta(days=9))
    fail(run, 1, stderr=b"other")
    assert prune_failures(7, timezone.now()) == 2
    assert FailureGroup.objects.get().title == "exit 3: other"


def test_a_rerun_of_a_group_takes_what_failed_of_it_alone(run: Run) -> None:
    now = timezone.now()
    fail(run, 2)
    fail(run, 1, stderr=b"other", offset=9, task_id="3:9:0")
    Event.objects.copy_in(
        [
            {"ts": now, "run": run.id, "seq": 90 + offset, "kind": "message_completed",
             "topic": "t", "partition": 3, "offset": offset, "data": {"fate": "skipped"}}
            for offset in (1, 2, 9)
        ]
    )  # fmt: skip
    found = {}
    for group in FailureGroup.objects.all():
        filters = rerun_filters({"failure": group.pk, "since": "1h"}, "main", now)
        found[group.title] = [match.place for match in choose(filters, "t").matches]
    assert found == {"exit 3: cannot open <path>": [(3, 1), (3, 2)], "exit 3: other": [(3, 9)]}
    unknown = rerun_filters({"failure": "0" * 20}, "main", now)
    assert choose(unknown, "t").matches == []
    with pytest.raises(BadFilter, match="failure: expected one of"):
        rerun_filters({"failure": "0" * 19}, "main", now)
