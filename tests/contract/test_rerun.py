"""Reruns of failed messages: chosen from a real history, and run by a real worker."""

from __future__ import annotations

import asyncio
import io
import json
import time
from collections.abc import Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from django.conf import settings
from django.core.management import CommandError, call_command
from django.utils import timezone
from pydantic import BaseModel

from domain.events import Event, MessageRerun
from domain.origin import ONLY_TASKS_HEADER, REPLAY_HEADER
from domain.paging import BadFilter
from recorder.config import RecorderConfig
from recorder.folding import grouped
from recorder.message_row import fold
from recorder.models import Event as StoredEvent
from recorder.rows import to_row
from recorder.runs import uuid7
from recorder.writer import ensure_run, flush
from sinks.base import PermanentError
from sinks.letter_rows import store_letters
from sinks.models import DeadLetter, Replay
from sinks.replay import resolve
from tests.contract.test_recorder_postgres import description
from tests.support.memory_source import MemorySource
from tests.support.pipeline import TOPIC, cluster_config, new_cluster, running
from workers.broker.base import TopicPartition
from workers.broker.memory_cluster import MemoryCluster
from workers.control_plane.jobs import RERUNS, run_reruns
from workers.control_plane.rerun import jobs
from workers.control_plane.rerun.filters import filters_of
from workers.control_plane.rerun.jobs import (
    BadRerun,
    Choices,
    ask_for,
    ask_to_cancel,
    counts_of,
    preview,
)
from workers.control_plane.rerun.matching import Chosen
from workers.control_plane.rerun.watch import note_outcomes
from workers.handler import Handler, MemoryPayload, Message, Payload, Pending, Task, TaskResult
from workers.management.commands import rerun as rerun_command
from workers.models import RerunJob, RerunMessage

pytestmark = pytest.mark.django_db(transaction=True)
CONFIG = RecorderConfig()
KEY = "k" * 32
FAST = Choices(rate=1000.0)


class Work(BaseModel):
    """A script a task, each with a label of its number."""

    scripts: list[str]


class WorkHandler(Handler[Work]):
    """Runs the scripts; delivers what each wrote."""

    async def arrange(self, messages: Sequence[Message[Work]], pending: Pending) -> Sequence[Task]:
        return [
            Task(
                args=("-c", script),
                labels={"place": str(number)},
                source_offsets=(message.offset,),
            )
            for message in messages
            for number, script in enumerate(message.payload.scripts)
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=result.stdout_text)]


@pytest.fixture(autouse=True)
def topic(monkeypatch: pytest.MonkeyPatch) -> None:
    """The cluster ``main`` of this site reads the topic of the memory cluster."""
    known = settings.DRAKKAR.clusters["main"]  # type: ignore[union-attr]
    kafka = known.kafka.model_copy(update={"topic": TOPIC})
    clusters = {"main": known.model_copy(update={"kafka": kafka})}
    monkeypatch.setattr(
        settings,
        "DRAKKAR",
        settings.DRAKKAR.model_copy(update={"clusters": clusters}),  # type: ignore[union-attr]
    )


@pytest.fixture
def fixed(tmp_path: Path) -> Path:
    """A file: the program is broken while it is not there."""
    return tmp_path / "fixed"


@pytest.fixture
def cluster() -> MemoryCluster:
    return new_cluster(2)


@pytest.fixture
def source(cluster: MemoryCluster) -> MemorySource:
    return MemorySource(cluster, TOPIC)


def broken(fixed: Path, code: int = 7) -> str:
    """A script that fails until the program is fixed."""
    return f"test -e {fixed} || exit {code}; printf fine"


def produce(cluster: MemoryCluster, *scripts: str, partition: int = 0, key: bytes = b"k") -> None:
    value = json.dumps({"scripts": scripts}).encode()
    cluster.produce(TOPIC, partition, value, key)


def serve(cluster: MemoryCluster, count: int) -> list[Any]:
    """Have a worker give so many messages their fate, record what it told; what it stored."""

    async def main() -> tuple[list[Event], list[Any]]:
        config = cluster_config(max_retries=0)
        async with running(cluster, config, WorkHandler({}, max_retries=0)) as live:
            await live.fates(count)
            assert await live.stop() == 0
            return live.heard.events, list(live.stored)

    events, stored = asyncio.run(main())
    record(events)
    return stored


def record(events: Sequence[Event]) -> None:
    """Store events as the recorder of a run of its own does."""
    run = replace(description(), id=uuid7(time.time()), started_at=time.time())
    ensure_run(run)
    rows: list[dict[str, Any]] = []
    seq = 0
    for group in grouped(events, slow_ms=60_000):
        if group.is_usual:
            rows.append(fold(group.events, seq + 1))
        else:
            rows += [to_row(event, seq + n, CONFIG) for n, event in enumerate(group.events, 1)]
        seq += len(group.events)
    flush(run, rows, 0)
    store_letters("main", "w", [row for row in rows if row["kind"] == "dead_lettered"])


def found(**texts: str) -> Chosen:
    return preview(filters_of(texts, "main", timezone.now()))


def places(**texts: str) -> list[tuple[int, int]]:
    return sorted(match.place for match in found(**texts).matches)


def ask(key: str = KEY, choices: Choices = FAST, **texts: str) -> RerunJob:
    return ask_for(filters_of(texts, "main", timezone.now()), choices, actor="mara", key=key)


def rerun(source: MemorySource, told: list[Event] | None = None) -> None:
    run_reruns({"main": lambda: source}, (told if told is not None else []).append)


def test_what_failed_runs_again_as_itself_and_is_found_no_more(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    produce(cluster, "printf well")
    produce(cluster, broken(fixed))
    assert len(serve(cluster, 3)) == 1
    assert places() == [(0, 0), (0, 2)]
    fixed.touch()
    job, told = ask(), list[Event]()
    rerun(source, told)
    assert [dict(record.headers) for _, record in source.sent] == [
        {REPLAY_HEADER: b"main/requests/0/0/1700000000000", ONLY_TASKS_HEADER: b"0"},
        {REPLAY_HEADER: b"main/requests/0/2/1700000000002", ONLY_TASKS_HEADER: b"0"},
    ]
    assert [(event.offset, event.target) for event in told] == [  # type: ignore[attr-defined]
        (0, "requests 0:3"),
        (2, "requests 0:4"),
    ]
    assert all(isinstance(event, MessageRerun) and event.actor == "mara" for event in told)
    assert (places(), found().sent_already) == ([], 2)
    stored = serve(cluster, 2)
    ids = sorted(payload.delivery_id for payload in stored)
    assert ids == [f"main/requests/0/{n}/170000000000{n}/0/collect/0" for n in (0, 2)]
    assert places() == []
    assert note_outcomes() == 2
    assert counts_of(job) == {"sent": 2, "ended_well": 2}
    job.refresh_from_db()
    assert (job.state, job.messages_total, job.messages_done) == ("done", 2, 2)


def test_of_a_message_only_the_tasks_that_failed_run_again(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed), "printf well", broken(fixed, 9))
    assert [each.payload.value for each in serve(cluster, 1)] == ["well"]
    (match,) = found().matches
    assert (match.tasks, found().tasks) == ((0, 2), 2)
    assert places(exit_code="9") == places(label="place=2") == [(0, 0)]
    assert places(label="place=1") == []
    fixed.touch()
    ask(exit_code="9")
    rerun(source)
    ((_, sent),) = source.sent
    assert dict(sent.headers)[ONLY_TASKS_HEADER] == b"0,2"
    stored = serve(cluster, 1)
    origin = "main/requests/0/0/1700000000000"
    assert sorted(p.delivery_id for p in stored) == [f"{origin}/{n}/collect/0" for n in (0, 2)]


def test_all_tasks_run_again_where_that_is_asked_for(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed), "printf well")
    serve(cluster, 1)
    fixed.touch()
    ask(choices=replace(FAST, only_failed_tasks=False))
    rerun(source)
    assert len(serve(cluster, 1)) == 2


def test_on_purpose_it_is_another_message(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed), "printf well")
    serve(cluster, 1)
    fixed.touch()
    job = ask(choices=replace(FAST, is_new_identity=True))
    rerun(source)
    ((_, sent),) = source.sent
    assert list(sent.headers) == []
    ids = {payload.delivery_id for payload in serve(cluster, 1)}
    assert ids == {f"main/requests/0/1/1700000000001/{n}/collect/0" for n in (0, 1)}
    assert (job.only_failed_tasks, places()) == (False, [])


def test_what_fails_again_is_found_at_its_new_place_with_its_first_identity(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    serve(cluster, 1)
    job = ask("1" * 32)
    rerun(source)
    serve(cluster, 1)
    assert note_outcomes() == 1
    assert counts_of(job) == {"sent": 1, "failed_again": 1}
    assert places() == [(0, 1)]
    fixed.touch()
    ask("2" * 32)
    rerun(source)
    (stored,) = serve(cluster, 1)
    assert stored.delivery_id == "main/requests/0/0/1700000000000/0/collect/0"
    assert places() == []


def test_what_was_sent_and_has_not_ended_is_found_only_where_that_is_asked_for(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    serve(cluster, 1)
    ask()
    rerun(source)
    assert (places(), places(again="yes")) == ([], [(0, 0)])
    fixed.touch()
    serve(cluster, 1)
    assert places(again="yes") == []


def test_the_filters_choose(cluster: MemoryCluster, fixed: Path) -> None:
    produce(cluster, broken(fixed, 3))
    produce(cluster, broken(fixed, 4), partition=1)
    produce(cluster, "kill -9 $$", partition=1)
    cluster.produce(TOPIC, 1, b"no JSON")
    serve(cluster, 4)
    assert places() == [(0, 0), (1, 0), (1, 1), (1, 2)]
    assert places(exit_code="3") == [(0, 0)]
    assert places(failure="signal") == [(1, 1)]
    assert places(failure="parse") == [(1, 2)]
    assert places(failure="exit", partition="1") == [(1, 0)]
    assert places(since="1h") == places()
    assert places(until="1h") == places(since="2100-01-01") == []
    assert sorted(match.tasks for match in found(partition="1").matches) == [(), (0,), (0,)]
    assert dict(found().by_kind) == {"exit": 2, "signal": 1, "parse": 1}


def test_what_the_program_s_task_ended_with_at_last_counts(
    cluster: MemoryCluster, tmp_path: Path
) -> None:
    """A failure that a later attempt, or life, made good is none."""
    mark = tmp_path / "mark"
    produce(cluster, f"test -e {mark} || {{ touch {mark}; exit 3; }}; printf fine")

    async def main() -> list[Event]:
        config = cluster_config(max_retries=3)
        async with running(cluster, config, WorkHandler({}, max_retries=3)) as live:
            await live.fates(1)
            assert await live.stop() == 0
            return live.heard.events

    events = asyncio.run(main())
    assert "task_failed" in {event.kind for event in events}
    record(events)
    assert places() == []


def test_a_key_is_compared_when_the_message_is_read(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed), key=b"a")
    produce(cluster, broken(fixed), key=b"b")
    serve(cluster, 2)
    job = ask_for(filters_of({"key": "b"}, "main", timezone.now()), FAST, actor="mara", key=KEY)
    rerun(source)
    assert [record.key for _, record in source.sent] == [b"b"]
    assert counts_of(job) == {"sent": 1, "on_their_way": 1, "left_out": 1}
    assert places() == [(0, 0)]


def test_bytes_that_are_gone_and_other_bytes_in_their_place_are_said(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    produce(cluster, broken(fixed))
    produce(cluster, broken(fixed), partition=1)
    serve(cluster, 3)
    cluster.truncate(TOPIC, 0, 1)
    log = cluster.logs[TopicPartition(TOPIC, 1)]
    log.records[0] = replace(log.records[0], timestamp=1)
    job = ask()
    rerun(source)
    assert counts_of(job) == {"gone": 2, "sent": 1, "on_their_way": 1}
    why = RerunMessage.objects.filter(state="gone").order_by("partition")
    assert [row.detail for row in why] == [
        "the topic does not hold it any more",
        "the topic holds another record at that place",
    ]


def test_letters_are_replayed_with_their_message_and_answered_ones_count_no_more(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    for _ in range(4):
        produce(cluster, broken(fixed))
    serve(cluster, 4)
    letters = list(DeadLetter.objects.order_by("offset"))
    assert resolve(letters[0], "mara", "not needed")
    DeadLetter.objects.filter(pk=letters[1].pk).update(state="replayed")
    assert places() == [(0, 2), (0, 3)]
    source.refusals.append(PermanentError("too large"))
    job = ask()
    rerun(source)
    states = list(DeadLetter.objects.order_by("offset").values_list("state", flat=True))
    assert states == ["resolved", "replayed", "open", "replayed"]
    made = Replay.objects.get(letter=letters[3])
    assert (made.target_partition, made.target_offset, made.actor) == (0, 4, "mara")
    job.refresh_from_db()
    assert (job.state, job.error) == ("failed", "0:2 was refused: too large")
    assert counts_of(job) == {"refused": 1, "sent": 1, "on_their_way": 1}
    assert places() == [(0, 2)]


def test_a_rerun_whose_controller_died_goes_on_and_loses_none(
    cluster: MemoryCluster, source: MemorySource, fixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(5):
        produce(cluster, broken(fixed))
    serve(cluster, 5)
    monkeypatch.setattr(jobs, "MOST_AT_ONCE", 2)
    job = ask()
    claimed = RERUNS.claim()
    assert claimed is not None
    send = source.send

    def died(records: Any) -> Any:
        send(records)
        raise SystemExit

    monkeypatch.setattr(source, "send", died)
    with pytest.raises(SystemExit):
        jobs.run_job(claimed, {"main": lambda: source}, list[Event]().append, note_of(claimed))
    assert counts_of(job) == {"sending": 2, "waiting": 3}
    monkeypatch.setattr(source, "send", send)
    RerunJob.objects.update(progress_at=timezone.now() - timedelta(minutes=2))
    rerun(source)
    assert counts_of(job) == {"sent": 5, "on_their_way": 5}
    assert set(DeadLetter.objects.values_list("state", flat=True)) == {"replayed"}
    fixed.touch()
    stored = {payload.delivery_id for payload in serve(cluster, 7)}
    assert len(stored) == 5


def note_of(job: RerunJob) -> Any:
    return lambda **values: RERUNS.note(job, **values)


def test_what_nobody_knows_of_is_found_again_by_the_same_filter(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    serve(cluster, 1)
    source.dies_after = 1
    job = ask()
    rerun(source)
    job.refresh_from_db()
    assert (job.state, job.error) == ("failed", "no report in time")
    assert counts_of(job) == {"refused": 1}
    assert job.messages.get().detail == "nobody knows whether it was stored: no report in time"
    assert set(DeadLetter.objects.values_list("state", flat=True)) == {"open"}
    source.dies_after = None
    assert places() == [(0, 0)]
    again = ask("1" * 32)
    rerun(source)
    assert counts_of(again) == {"sent": 1, "on_their_way": 1}
    fixed.touch()
    stored = serve(cluster, 2)
    assert (len(stored), len({payload.delivery_id for payload in stored})) == (2, 1)


def test_another_message_is_never_sent_twice(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    serve(cluster, 1)
    source.dies_after = 1
    job = ask(choices=replace(FAST, is_new_identity=True))
    rerun(source)
    job.refresh_from_db()
    assert (job.state, job.error) == ("failed", "no report in time")
    assert counts_of(job) == {"sending": 1}
    RerunJob.objects.filter(pk=job.pk).update(state="queued")
    source.dies_after = None
    rerun(source)
    assert len(source.sent) == 1
    assert (counts_of(job), places()) == ({"sending": 1}, [])


def test_what_ended_well_meanwhile_is_left_out(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, broken(fixed))
    serve(cluster, 1)
    first, second = ask("1" * 32), ask("2" * 32)
    RerunJob.objects.filter(pk=second.pk).update(messages_total=1)
    RerunMessage.objects.create(
        job=second, cluster="main", topic=TOPIC, partition=0, offset=0, tasks="0"
    )
    RerunMessage.objects.filter(job=second).update(state="refused")  # not in hand yet
    rerun_of_first = RERUNS.claim()
    assert rerun_of_first is not None
    jobs.run_job(
        rerun_of_first, {"main": lambda: source}, list[Event]().append, note_of(rerun_of_first)
    )
    RERUNS.finish(rerun_of_first, state="done")
    RerunMessage.objects.filter(job=second).update(state="waiting")
    rerun(source)
    assert (counts_of(first), counts_of(second)) == (
        {"sent": 1, "on_their_way": 1},
        {"left_out": 1},
    )
    assert len(source.sent) == 1


def test_a_cancelled_rerun_sends_no_more(
    cluster: MemoryCluster, source: MemorySource, fixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in range(4):
        produce(cluster, broken(fixed))
    serve(cluster, 4)
    monkeypatch.setattr(jobs, "MOST_AT_ONCE", 1)
    job = ask()
    read = source.read

    def cancelling(places: Any) -> Any:
        if source.reads == 1:
            ask_to_cancel(job, "olga")
        return read(places)

    monkeypatch.setattr(source, "read", cancelling)
    rerun(source)
    job.refresh_from_db()
    assert (job.state, job.cancelled_by) == ("cancelled", "olga")
    assert counts_of(job) == {"sent": 2, "on_their_way": 2, "left_out": 2}
    assert places() == [(0, 2), (0, 3)]
    waiting = ask("2" * 32)
    ask_to_cancel(waiting, "olga")
    rerun(source)
    waiting.refresh_from_db()
    assert (waiting.state, len(source.sent)) == ("cancelled", 2)


def test_one_message_or_task_is_named_whatever_became_of_it(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    produce(cluster, "printf one", "printf two")
    serve(cluster, 1)
    assert places() == []
    (match,) = found(message="0:0").matches
    assert (match.tasks, match.fate, match.failure) == ((), "delivered", "")
    ask("1" * 32, message="0:0")
    ask("2" * 32, task="0:0:1")
    rerun(source)
    headers = [dict(record.headers) for _, record in source.sent]
    assert [each.get(ONLY_TASKS_HEADER) for each in headers] == [None, b"1"]
    assert found(message="0:0").sent_already == 1
    assert sorted(each.payload.value for each in serve(cluster, 2)) == ["one", "two", "two"]


def test_a_deferred_message_has_the_outcome_of_its_last_life() -> None:
    run = replace(description(), id=uuid7(time.time()))
    ensure_run(run)
    now = timezone.now()
    source, later = (TOPIC, 1, 7), ("later", 0, 3)
    failed: dict[str, Any] = {
        "task_id": "1:7:0",
        "exit_code": 3,
        "data": {"failure": "exit", "detail": ""},
    }
    waits = {
        "retry_topic": "later", "retry_partition": 0, "retry_offset": 3, "due_at": 0.0,
        "task_ids": ["1:7:0"], "origin": "",
    }  # fmt: skip
    lives: list[tuple[Any, str, dict[str, Any]]] = [
        (source, "task_failed", failed),
        (source, "deferred", {"data": waits}),
        (source, "message_completed", {"data": {"fate": "deferred", "reason": ""}}),
        (later, "task_failed", failed),
        (later, "message_completed", {"data": {"fate": "skipped", "reason": ""}}),
    ]
    for seq, (place, kind, values) in enumerate(lives, start=1):
        assert places() == []
        row = dict(zip(("topic", "partition", "offset"), place, strict=True)) | values
        at = now - timedelta(seconds=60 - seq)
        StoredEvent.objects.create(ts=at, run=run.id, seq=seq, kind=kind, **row)
    (match,) = found(exit_code="3", partition="1").matches
    assert (match.topic, match.place, match.tasks) == (TOPIC, (1, 7), (0,))
    assert places(partition="0") == []


def test_asking_twice_with_a_key_asks_once(cluster: MemoryCluster, fixed: Path) -> None:
    assert ask(failure="exit").pk == ask(failure="exit").pk
    with pytest.raises(BadRerun, match="key: it was sent before, with another filter_text"):
        ask(failure="timeout")
    with pytest.raises(BadRerun, match=r"rate: expected 0\.1 to 1000, got 5000"):
        ask("2" * 32, replace(FAST, rate=5000))
    with pytest.raises(BadRerun, match="cluster: expected one that this site's"):
        ask_for(filters_of({}, "other", timezone.now()), FAST, actor="m", key="3" * 32)


@pytest.mark.parametrize(
    ("texts", "error"),
    [
        ({"failure": "bad"}, "failure: expected one of exit, signal"),
        ({"exit_code": "x"}, "exit_code: expected a whole number from"),
        ({"label": "name"}, "label: expected name=value, got name"),
        ({"label": "n" * 70 + "=x"}, "label: expected at most 64 characters, got 70"),
        ({"since": "soon"}, "since: expected a time like .* or an age like .* got soon"),
        ({"since": "1h", "until": "2h"}, "until: expected a time after since"),
        ({"key": "k" * 513}, "key: expected at most 512 characters, got 513"),
        ({"key": "k\0"}, "key: expected text without NUL"),
        ({"partition": "-1"}, "partition: expected a whole number from 0"),
        ({"message": "7"}, "message: expected partition:offset, got 7"),
        ({"message": f"1:{2**63}"}, "message: expected partition:offset"),
        ({"task": "7:1"}, "task: expected an id like 3:17:0, got 7:1"),
        ({"task": "1:2:0", "failure": "exit"}, "failure: expected nothing beside task"),
        ({"task": "1:2:0", "message": "1:2"}, "task: expected nothing beside message"),
        ({"again": "perhaps"}, "again: expected yes or no, got perhaps"),
    ],
)
def test_a_bad_filter_is_named(texts: dict[str, str], error: str) -> None:
    with pytest.raises(BadFilter, match=error):
        filters_of(texts, "main", timezone.now())


def test_filters_come_back_as_they_are_written() -> None:
    texts = {
        "failure": "exit", "exit_code": "3", "label": "tenant=a=b", "since": "2h", "until": "1h",
        "partition": "4", "again": "yes", "key": "k",
    }  # fmt: skip
    zeros = {"exit_code": "0", "partition": "0"}
    for given in (texts, zeros, {"message": "0:0"}, {"task": "0:0:0"}, {}):
        asked = filters_of(given, "main", timezone.now())
        assert filters_of(asked.texts(), "main", timezone.now()) == asked
        assert asked.texts().keys() == {"cluster", *given}
    assert "s3cret" not in str(filters_of({"label": "token=s3cret"}, "main", timezone.now()))


def command(*arguments: str) -> tuple[int, str]:
    out = io.StringIO()
    try:
        call_command("rerun", "--cluster", "main", *arguments, stdout=out, stderr=out)
    except SystemExit as exc:
        return int(exc.code or 0), out.getvalue()
    except CommandError as exc:
        return exc.returncode, str(exc)
    return 0, out.getvalue()


def test_the_command_previews_asks_and_tells(
    cluster: MemoryCluster, source: MemorySource, fixed: Path
) -> None:
    for _ in range(3):
        produce(cluster, broken(fixed))
    serve(cluster, 3)
    status, said = command("--failure", "exit", "--dry-run")
    assert (status, "3 messages would be run again" in said, "3 by exit" in said) == (0, True, True)
    _, said = command("--since", "1h", "--dry-run", "--json")
    shown = json.loads(said)
    assert (shown["messages"], shown["by_failure"], len(shown["first"])) == (3, {"exit": 3}, 3)
    _, said = command("--exit-code", "7", "--dry-run", "--json")
    assert json.loads(said)["messages"] == 3
    assert not RerunJob.objects.exists()
    assert command("--failure", "exit")[0] == 2  # nobody can be asked back
    _, said = command("--failure", "exit", "--yes", "--json", "--rate", "1000")
    job = RerunJob.objects.get()
    assert json.loads(said)["job"] == str(job.pk)
    assert job.actor
    fixed.touch()
    rerun(source)
    serve(cluster, 3)
    status, said = command("--failure", "exit", "--yes", "--wait")
    assert (status, "0 messages would be run again" in said) == (0, True)
    assert command("--exit-code", "many") == (
        2, "--exit_code: expected a whole number from -2147483647 to 2147483647, got many",
    )  # fmt: skip


def test_the_command_waits_until_all_have_ended(
    cluster: MemoryCluster, source: MemorySource, fixed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    produce(cluster, broken(fixed))
    serve(cluster, 1)
    looks = iter(("rerun", "serve"))

    def sleep(_: float) -> None:
        if next(looks) == "rerun":
            rerun(source)
        else:
            serve(cluster, 1)

    monkeypatch.setattr(rerun_command, "time", SimpleNamespace(sleep=sleep))
    status, said = command("--yes", "--wait", "--json")
    told = json.loads(said)
    assert (status, told["state"], told["failed_again"]) == (1, "done", 1)
