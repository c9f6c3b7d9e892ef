"""A history apart: events exactly once, letters of each, and control goes on without it."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any
from unittest import mock

import psycopg
import pytest
from django.core.management import call_command
from django.db import OperationalError, connections
from django.test import Client
from django.utils import timezone

from domain.events import Assigned, Committed, Consumed, MessageCompleted
from recorder import writer
from recorder.config import RecorderConfig
from recorder.databases import HISTORY, HISTORY_MODELS, history_alias, is_apart
from recorder.models import Event, Run, StoredRun
from recorder.rows import Row, to_row
from recorder.runs import RunDescription
from sinks.models import DeadLetter
from tests.contract.test_letters_postgres import record, row
from tests.contract.test_recorder_postgres import description, fate
from tests.support.factories import RunStateFactory
from tests.support.upkeep import a_turn
from workers.control_plane.jobs import follow_history, observe_findings
from workers.control_plane.situation import lag_figures
from workers.models import FindingEpisode
from workers.runtime.build import project_letters

pytestmark = pytest.mark.django_db(transaction=True)


def rows(count: int) -> list[Row]:
    return [to_row(fate(seq), seq, RecorderConfig()) for seq in range(1, count + 1)]


@pytest.fixture
def run() -> RunDescription:
    made = description()
    writer.ensure_run(made)
    return made


def tables(alias: str) -> set[str]:
    return set(connections[alias].introspection.table_names())


def test_each_table_stands_in_its_own_database() -> None:
    assert is_apart()
    assert history_alias() == HISTORY
    own = {f"recorder_{name}" for name in HISTORY_MODELS}
    assert own <= tables(HISTORY)
    assert own & tables("default") == set()
    assert "recorder_run" in tables("default") - tables(HISTORY)
    call_command("migrate", check_unapplied=True, verbosity=0)


def test_events_and_how_far_they_go_are_one_transaction(run: RunDescription) -> None:
    def refuse(_run: RunDescription, _rows: Sequence[Row]) -> None:
        raise OperationalError("killed")

    with pytest.raises(OperationalError):
        writer.flush(run, rows(5), 0, refuse)
    assert (Event.objects.count(), writer.stored_seq(run.id)) == (0, 0)
    assert writer.flush(run, rows(5), 0) == 5
    assert (Event.objects.count(), writer.stored_seq(run.id)) == (5, 5)
    assert Run.objects.get(id=run.id).recorded_seq == 5


def test_one_that_dies_before_control_heard_repeats_nothing_and_control_hears(
    run: RunDescription,
) -> None:
    with (
        mock.patch.object(writer, "follow", side_effect=OperationalError("control is away")),
        pytest.raises(OperationalError),
    ):
        writer.flush(run, rows(5), 0)
    assert Run.objects.get(id=run.id).recorded_seq == 0
    assert writer.flush(run, rows(5), 0) == 5
    assert (Event.objects.count(), Run.objects.get(id=run.id).recorded_seq) == (5, 5)


def test_what_control_did_not_hear_of_a_dead_worker_the_controller_tells_it(
    run: RunDescription,
) -> None:
    with (
        mock.patch.object(writer, "follow", side_effect=OperationalError("killed")),
        pytest.raises(OperationalError),
    ):
        writer.flush(run, rows(5), 0)
    RunStateFactory.create(run=Run.objects.get(id=run.id), beat_at=timezone.now())
    follow_history(a_turn())
    assert Run.objects.get(id=run.id).recorded_seq == 5


def test_a_letter_whose_events_did_not_get_stored_is_there_once(run: RunDescription) -> None:
    letters = [row(record(offset), offset) for offset in (1, 2)]

    def killed(of: RunDescription, told: Sequence[Row]) -> None:
        project_letters(of, told)
        raise OperationalError("killed before the commit")

    with pytest.raises(OperationalError):
        writer.flush(run, letters, 0, killed)
    assert (Event.objects.count(), DeadLetter.objects.count()) == (0, 2)
    writer.flush(run, letters, 0, project_letters)
    assert (Event.objects.count(), DeadLetter.objects.count()) == (2, 2)


def test_a_run_of_before_the_history_had_its_database_goes_on_where_it_was() -> None:
    run = description()
    writer.ensure_run(run)
    Run.objects.filter(id=run.id).update(recorded_seq=3)
    StoredRun.objects.all().delete()
    writer.ensure_run(run)
    assert writer.flush(run, rows(5), 0) == 5
    assert sorted(Event.objects.values_list("seq", flat=True)) == [4, 5]


@pytest.fixture
def history_away(run: RunDescription) -> Iterator[RunDescription]:
    """The history's server refuses; control answers."""
    connections[HISTORY].close()
    away = mock.patch.object(type(connections[HISTORY]), "get_new_connection", _refuses_history)
    with away:
        yield run


def _refuses_history(self: Any, parameters: Any) -> Any:
    if self.alias == HISTORY:
        raise psycopg.OperationalError("connection refused")
    return _connect(self, parameters)


_connect = type(connections[HISTORY]).get_new_connection


def test_without_the_history_control_pages_work_and_the_others_say_what_is_away(
    admin_client: Client, history_away: RunDescription
) -> None:
    RunStateFactory.create(
        run=Run.objects.get(id=history_away.id), state="lost", beat_at=timezone.now()
    )
    dashboard = admin_client.get("/")
    assert dashboard.status_code == 200
    assert "History is away" in dashboard.content.decode()
    for page in ("/workers", "/control", "/dead-letters", "/audit"):
        assert admin_client.get(page).status_code == 200, page
    cluster, worker = history_away.cluster, history_away.worker
    for page in ("/partitions", f"/partitions/{cluster}/t/0", f"/workers/{cluster}/{worker}"):
        shown = admin_client.get(page)
        assert shown.status_code == 200, page
        assert "The history is away" in shown.content.decode(), page
    admin_client.raise_request_exception = False
    history = admin_client.get("/history")
    assert history.status_code == 503
    assert "site.history_url" in history.content.decode()


def test_without_the_history_findings_are_told_still(history_away: RunDescription) -> None:
    beat = RunStateFactory.create(run=Run.objects.get(id=history_away.id), beat_at=timezone.now())
    observe_findings(replace(a_turn(), reached_seconds=60.0))
    assert "history_away" in FindingEpisode.objects.values_list("kind", flat=True)
    figures = lag_figures(beat.run.cluster, [beat], [], timezone.now())
    assert (figures.workers, figures.p50_ms, figures.input_per_second) == (1, None, None)


def test_a_partition_has_owners_and_a_message_its_commit_of_the_cluster(
    admin_client: Client, run: RunDescription
) -> None:
    RunStateFactory.create(run=Run.objects.get(id=run.id), state="running", beat_at=timezone.now())
    now = time.time()
    place: dict[str, Any] = {"topic": "t", "partition": 0}
    told = [
        Assigned(at=now, offset=0, epoch=1, committed=None, **place),
        Consumed(at=now, offset=0, timestamp=0, size_bytes=1, **place),
        MessageCompleted(
            at=now + 1, offset=0, fate="delivered", duration_ms=9.0, reason="", **place
        ),
        Committed(at=now + 2, offset=1, epoch=1, **place),
    ]
    writer.flush(run, [to_row(each, n, RecorderConfig()) for n, each in enumerate(told, 1)], 0)
    owners = admin_client.get(f"/partitions/{run.cluster}/t/0")
    assert owners.status_code == 200
    assert "No owner is recorded" not in owners.content.decode()
    assert "not committed yet" not in admin_client.get("/trace/t/0:0").content.decode()
