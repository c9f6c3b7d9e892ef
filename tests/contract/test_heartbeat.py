"""The beat on a real PostgreSQL: nothing it has to say, and no fault of ours, may silence it."""

from __future__ import annotations

import json
import threading
import time
from datetime import UTC, datetime
from itertools import count
from typing import Any

import pytest
from django.core import serializers

from domain.beat import Beat, PartitionBeat
from recorder.models import Run, RunState
from recorder.runs import RunDescription
from tests.contract.test_recorder_postgres import description
from tests.support.factories import make_run
from workers.runtime import heartbeat
from workers.runtime.heartbeat import Heartbeat

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_SECONDS = 10.0


def beat(**values: Any) -> Beat:
    given: dict[str, Any] = {"state": "ready", "rss_bytes": 1}
    return Beat(**given | values)


def test_a_beat_with_text_postgres_refuses_is_written_and_one_that_failed_is_followed_by_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    causes = {"parse_error": "offset 5: \x00\udcff"}
    parked = (PartitionBeat(topic="t", partition=0, parked=causes),)
    beats = [
        KeyError("a fault of ours"),
        beat(partitions=parked, waiting_for="sink s: \x00", state_since=1.5),
    ]

    def snapshot() -> Beat:
        found = beats.pop(0) if len(beats) > 1 else beats[0]
        if isinstance(found, Exception):
            raise found
        assert isinstance(found, Beat)
        return found

    run = description(time.time())
    beating = Heartbeat(run, snapshot, metrics=lambda: None)
    beating.start()
    found = written(run)
    assert beating.close(WAIT_SECONDS)
    assert found.partitions[0].parked["parse_error"].startswith("offset 5: ")
    assert found.state_since == datetime.fromtimestamp(1.5, UTC)


def test_a_row_is_dumped_and_loaded_as_plain_json() -> None:
    run = make_run(beat__partitions=[{"topic": "t", "partition": 1, "strip": [[2, False]]}])
    kept = RunState.objects.get(run=run)
    dumped = serializers.serialize("json", [kept])
    assert json.loads(dumped)[0]["fields"]["partitions"][0]["strip"] == [[2, False]]
    RunState.objects.update(partitions=[])
    for each in serializers.deserialize("json", dumped):
        each.save()
    assert RunState.objects.get(run=run).partitions == kept.partitions


def test_metrics_that_postgres_refuses_cost_no_beat_and_no_mail(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    turns = count(1)
    third = threading.Event()

    class Inbox:
        def turn(self, *, is_last: bool) -> None:
            if next(turns) == 3:
                third.set()

    inbox: Any = Inbox()
    run = description(time.time())
    refused = {"families": [{"help": "nul \0"}]}
    beating = Heartbeat(run, beat, metrics=lambda: refused, inbox=inbox)
    beating.start()
    assert third.wait(WAIT_SECONDS), "the mail is not read"
    assert beating.close(WAIT_SECONDS)
    assert written(run).metrics is None


def written(run: RunDescription) -> RunState:
    """The run's beat, waited for."""
    end = time.monotonic() + WAIT_SECONDS
    while (found := RunState.objects.filter(run=run.id).first()) is None:
        assert time.monotonic() < end, "no beat was written"
        time.sleep(0.02)
    return found


def test_a_run_that_a_restored_database_does_not_know_is_described_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.02)
    run, beats, is_forgotten = description(time.time()), count(), threading.Event()

    def snapshot() -> Beat:
        if next(beats) == 2:
            Run.objects.filter(id=run.id).delete()
            is_forgotten.set()
        return beat()

    beating = Heartbeat(run, snapshot, metrics=lambda: None)
    beating.start()
    assert is_forgotten.wait(WAIT_SECONDS)
    assert written(run).state == "ready"
    assert beating.close(WAIT_SECONDS)


class Tails:
    """Counts its turns; nobody reads any more after the tenth."""

    def __init__(self) -> None:
        self.turns = 0
        self.is_followed = False
        self.is_ended = False
        self.tenth = threading.Event()

    def turn(self, *, is_last: bool = False) -> None:
        self.turns += 1
        self.is_ended = is_last
        if self.turns == 10:
            self.is_followed = False
            self.tenth.set()


@pytest.mark.parametrize("is_followed", [True, False])
def test_tails_have_turns_between_beats_only_while_somebody_reads(
    monkeypatch: pytest.MonkeyPatch, is_followed: bool
) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 60.0 if is_followed else 0.02)
    monkeypatch.setattr(heartbeat, "TURN_SECONDS", 0.01 if is_followed else 60.0)
    beats = count(1)

    def snapshot() -> Beat:
        next(beats)
        return beat()

    tails: Any = Tails()
    tails.is_followed = is_followed
    run = description(time.time())
    beating = Heartbeat(run, snapshot, metrics=lambda: None, tails=tails)
    beating.start()
    assert tails.tenth.wait(WAIT_SECONDS)
    assert beating.close(WAIT_SECONDS)
    assert tails.is_ended
    told = next(beats) - 1
    # One beat and nine turns after it, or a turn with each beat; and the last beat at the end.
    assert told == (2 if is_followed else tails.turns)
