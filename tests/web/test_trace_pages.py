"""The trace and task pages and their API."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils.html import escape
from pytest_django import DjangoAssertNumQueries, Settings

from recorder.config import RecorderConfig, SampleConfig
from recorder.sampling import is_chosen
from tests.contract.test_trace_postgres import MAX_QUERIES, two_lives
from tests.support.factories import TOPIC, Story, make_run
from tests.support.reading import read_page

pytestmark = pytest.mark.django_db
TRACE = f"/trace/{TOPIC}/3:7"


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    client.force_login(user)
    return client


@pytest.fixture
def story(db: None) -> Story:
    """A message that failed once by a signal, then went through."""
    told = Story(make_run(worker="worker-1"))
    told.consumed(0, 7)
    told.arranged(0.1, 7, ["3:7:0"], "<b>acme")
    told.ran(0.3, "3:7:0", 1, failure="signal", exit_code=-9, stderr=b"<i>oops")
    told.ran(2, "3:7:0", 1, attempt=2)
    told.delivered(3.2, "3:7:0", "results")
    told.fate(3.4, 7)
    return told


def test_the_waterfall_names_each_span_and_escapes_labels(reader: Client, story: Story) -> None:
    page = read_page(reader.get(TRACE))
    assert "3:7:0 attempt 1" in page
    assert "sink results" in page
    assert "waits for a slot" in page
    assert "&lt;b&gt;acme" in page
    assert "<b>acme" not in page
    assert " style=" not in page
    assert "/task/main/3:7:0?topic=requests" in page


def test_a_trace_leads_to_its_partition_worker_sink_and_letter(
    reader: Client, story: Story
) -> None:
    letter = {"letter_topic": "dlq", "letter_partition": 1, "letter_offset": 5, "stage": "deliver"}
    story.tell(3.3, "dead_lettered", 7, task_id="3:7:0", data=letter)
    page = read_page(reader.get(f"{TRACE}?cluster=main"))
    letters = f"/dead-letters?message={TOPIC}%2F3%3A7&amp;cluster=main"
    for address in (
        f"/partitions/main/{TOPIC}/3?cluster=main", "/workers/main/worker-1?cluster=main",
        "/sinks?cluster=main", letters,
    ):  # fmt: skip
        assert f'href="{address}"' in page, address


def test_only_what_paused_looks_paused(reader: Client, story: Story) -> None:
    story.tell(1.0, "assigned", data={"epoch": 3})
    story.tell(1.5, "paused", data={"reason": "backpressure"})
    story.tell(1.6, "stalled", data={})
    marks = reader.get(f"/api/v1/trace/{TOPIC}/3:7").json()["marks"]
    states = {mark["kind"]: mark["state"] for mark in marks}
    assert states == {"assigned": "waiting", "paused": "paused", "stalled": "failed"}
    assert read_page(reader.get(f"{TRACE}?around=1")).count("#paused") == 1


def test_what_runs_is_shown_as_long_as_it_runs_so_far(reader: Client, story: Story) -> None:
    ended = read_page(reader.get(TRACE))
    story.consumed(4, 8)
    story.tell(4.1, "task_started", 8, task_id="3:8:0", attempt=1)
    runs = read_page(reader.get(f"/trace/{TOPIC}/3:8"))
    assert [page.count("so far (as of") for page in (ended, runs)] == [0, 1]
    assert [page.count('</span><span class="vh"> so far') for page in (ended, runs)] == [0, 2]
    assert '<span class="t">0 ms' not in runs


def test_the_page_asks_little(
    reader: Client, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    two_lives()
    with django_assert_max_num_queries(MAX_QUERIES):
        assert reader.get(TRACE).status_code == 200


def test_the_search_leads_to_the_message(reader: Client, story: Story) -> None:
    for question in ("3:7", "3:7:0", "who=mara"):
        answer = reader.get("/trace", {"q": question, "cluster": "main"})
        assert (answer.status_code, answer["Location"]) == (302, f"{TRACE}?cluster=main")
    assert "Which message?" in read_page(reader.get("/trace"))
    assert "No message fits" in read_page(reader.get("/trace?q=9:9"))
    refused = reader.get("/trace", {"q": f"1:{2**63}"})
    assert (refused.status_code, b"out of range" in refused.content) == (400, True)


def test_the_search_lists_several(reader: Client, story: Story) -> None:
    Story(story.run, topic="other").consumed(0, 7)
    page = read_page(reader.get("/trace?q=3:7"))
    assert TRACE in page
    assert "/trace/other/3:7" in page


def test_a_full_list_of_messages_says_that_there_may_be_more(
    reader: Client, story: Story, monkeypatch: pytest.MonkeyPatch
) -> None:
    Story(story.run, topic="other").consumed(0, 7)
    assert "there may be more" not in read_page(reader.get("/trace?q=3:7"))
    for module in ("lookup", "pages.trace"):
        monkeypatch.setattr(f"recorder.{module}.MAX_PLACES", 2)
    assert "messages fit; there may be more" in read_page(reader.get("/trace?q=3:7"))


def test_the_task(reader: Client, story: Story) -> None:
    page = read_page(reader.get(f"/task/main/3:7:0?topic={TOPIC}"))
    for shown in (
        "completed", "who=mara", "4711", "run-rg --token &#x27;***&#x27; needle", TRACE, "found",
        "&lt;i&gt;oops", "task_started", "Attempt 2", "Attempt 1", "250 ms user", "10 MiB",
        "signal, SIGKILL, ended badly", "worker-1", "1 s", f"/partitions/main/{TOPIC}/3",
    ):  # fmt: skip
        assert shown in page, shown
    assert "s3cret" not in page
    assert " style=" not in page


@pytest.mark.parametrize(
    ("role", "topic", "links"),
    [("operator", TOPIC, 1), ("viewer", TOPIC, 0), ("operator", "another", 0)],
)
def test_a_task_leads_to_the_probe_of_its_message(
    reader: Client, user: User, story: Story, settings: Settings, role: str, topic: str, links: int
) -> None:
    user.groups.add(Group.objects.get_or_create(name=role)[0])
    reads = SimpleNamespace(kafka=SimpleNamespace(topic=topic), recorder=RecorderConfig())
    settings.DRAKKAR = SimpleNamespace(clusters={"main": reads})
    whole = read_page(reader.get(f"/task/main/3:7:0?topic={TOPIC}"))
    page = whole[whole.index("<main") :]
    assert page.count('href="/probe?cluster=main&amp;at=3%3A7"') == links
    assert page.count("/probe?cluster=main&amp;at=") == links


@pytest.mark.parametrize(
    ("beat", "status", "is_cut"), [("ready", "running", False), ("lost", "unknown", True)]
)
def test_a_task_runs_no_longer_than_its_worker(
    reader: Client, db: None, beat: str, status: str, is_cut: bool
) -> None:
    story = Story(make_run(worker="worker-9", beat__state=beat))
    story.tell(1, "task_started", 9, task_id="3:9:0", attempt=1, slot=0)
    page = read_page(reader.get("/task/main/3:9:0"))
    assert f"<dd>{status}</dd>" in page
    assert [text in page for text in ("cut short", "until then it is shown live")] == [
        is_cut,
        not is_cut,
    ]
    task = reader.get("/api/v1/tasks/main/3:9:0").json()
    assert (task["status"], task["executions"][0]["state"]) == (status, status)


def test_what_is_not_there_says_why(reader: Client) -> None:
    for path, why in (
        ("/trace/t/1:1", b"No event tells of t 1:1"),
        ("/trace/t/1:99999999999999999999999", b"No event tells of"),
        ("/task/main/1:1:0", b"No event names this task"),
        ("/task/main/%00", b"NUL"),
        ("/api/v1/trace/t/1:1", b"No event tells of"),
        ("/api/v1/trace/t/1:99999999999999999999999", b"No event tells of"),
        ("/api/v1/tasks/main/1:1:0", b"No event tells of"),
    ):
        answer = reader.get(path)
        assert (answer.status_code, why in answer.content) == (404, True), path


def test_the_history_links_to_both(reader: Client, story: Story) -> None:
    page = read_page(reader.get("/history"))
    assert f'href="{TRACE}' in page
    assert 'href="/task/main/3:7:0?topic=requests"' in page


def test_traces_and_tasks_are_read_by_the_api(reader: Client, story: Story) -> None:
    found = reader.get(f"/api/v1/trace/{TOPIC}/3:7").json()
    (life,) = found["lives"]
    assert (life["cluster"], life["worker"]) == ("main", "worker-1")
    assert {span["kind"] for span in life["spans"]} >= {"message", "arranged", "attempt"}
    assert len(found["events"]) == 9
    task = reader.get("/api/v1/tasks/main/3:7:0").json()
    assert [each["state"] for each in task["executions"]] == ["failed", "completed"]
    assert task["executions"][0]["args"] == ["--token", "***", "needle"]
    assert task["executions"][1]["stdout"] == "found\N{REPLACEMENT CHARACTER}"
    places = reader.get("/api/v1/trace?q=3:7").json()["places"]
    assert places == [{"topic": TOPIC, "partition": 3, "offset": 7}]


def test_a_skipped_message_has_a_page_that_says_so(reader: Client) -> None:
    data = {"committed": 5, "offsets": 4, "epoch": 2, "request": "r"}
    Story(make_run(worker="worker-1")).tell(1, "skipped", 9, data=data)
    answer = reader.get(TRACE)
    assert answer.status_code == 200
    page = read_page(answer)
    assert "committed 5" in page
    assert ">skipped<" in page
    assert reader.get(f"/trace/{TOPIC}/3:9").status_code == 404


def test_a_trace_without_events_says_that_the_message_was_left_out(reader: Client) -> None:
    chosen = next(n for n in range(99) if is_chosen(f"3:{n}", 7))
    other = next(n for n in range(99) if not is_chosen(f"3:{n}", 7))
    before = read_page(reader.get(f"/trace/{TOPIC}/3:{other}"))
    assert "Not kept" not in before
    story = Story(make_run(worker="worker-1"))
    story.tell(
        0,
        "sampled",
        topic=None,
        partition=None,
        data={"one_in": 7, "messages": 1, "events": {}, "fates": {}},
    )
    assert "Not kept: sampled 1 in 7" in read_page(reader.get(f"/trace/{TOPIC}/3:{other}"))
    assert "Not kept" not in read_page(reader.get(f"/trace/{TOPIC}/3:{chosen}"))


@pytest.mark.parametrize("page", ["/history", "/live", "/trace?q=3:7", "/task/main/3:7:0"])
def test_a_page_that_shows_few_of_the_messages_says_so(
    reader: Client, settings: Settings, page: str
) -> None:
    sampled = RecorderConfig(sample=SampleConfig(one_in=20))
    for recorder, said in ((RecorderConfig(), False), (sampled, True)):
        reads = SimpleNamespace(kafka=SimpleNamespace(topic=TOPIC), recorder=recorder)
        settings.DRAKKAR = SimpleNamespace(clusters={"main": reads})
        assert ("one in 20 is stored" in read_page(reader.get(page))) == said


def test_each_cluster_has_its_own_headline_the_worst_first(reader: Client) -> None:
    for cluster, fate, since in (("main", "dead_lettered", 0), ("fast", "delivered", 5)):
        told = Story(make_run(cluster=cluster, worker=f"{cluster}-1", beat__state="stopped"))
        told.consumed(since, 7)
        told.fate(since + 1, 7, fate)
    page = read_page(reader.get(TRACE))
    assert page.index("main: dead_lettered") < page.index("fast: delivered")
    assert "refresh.js" not in page


def test_what_befell_the_partition_is_shown_on_demand(reader: Client) -> None:
    two_lives()
    page = read_page(reader.get(TRACE))
    assert ">assigned<" not in page
    assert "around=1" in page
    wide = read_page(reader.get(f"{TRACE}?around=1"))
    assert ">assigned<" in wide


def test_a_message_that_runs_is_followed(reader: Client) -> None:
    Story(make_run()).consumed(0, 7)
    assert "refresh.js" in read_page(reader.get(TRACE))


def test_the_search_lists_what_became_of_messages(reader: Client, story: Story) -> None:
    page = read_page(reader.get("/trace?state=delivered&slower=1ms"))
    assert TRACE in page
    assert "delivered</span>" in page
    assert "No message fits" in read_page(reader.get("/trace?state=dead_lettered"))
    for query, word in (("state=odd", b"state: expected"), ("slower=x", b"slower: expected")):
        answer = reader.get(f"/trace?{query}")
        assert (answer.status_code, word in answer.content) == (400, True)
    found = reader.get("/api/v1/trace?state=delivered").json()
    assert [match["fate"] for match in found["matches"]] == ["delivered"]
    assert (found["older"], found["looked_to"]) == (None, None)
    assert reader.get("/api/v1/trace?state=odd").status_code == 422


def test_a_command_holds_folder_and_environment_with_secrets_masked(
    reader: Client, story: Story
) -> None:
    story.run.config = {
        "executor": {
            "binary": "/opt/run it",
            "cwd": "/srv/a b",
            "env": {"DEPTH": "2", "API_TOKEN": "hush"},
        }
    }
    story.run.save()
    page = read_page(reader.get(f"/task/main/3:7:0?topic={TOPIC}"))
    words = "cd '/srv/a b' && env DEPTH=2 'API_TOKEN=***' '/opt/run it' --token '***' needle"
    assert escape(words) in page
    assert "hush" not in page
