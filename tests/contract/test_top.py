"""``manage.py top``: what it reads of a real PostgreSQL, and the screens by their keys."""

from __future__ import annotations

import asyncio
import os
import pty
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError
from django.utils import timezone
from textual.pilot import Pilot
from textual.widgets import DataTable, Static

from domain.beat import PartitionBeat, RunningTask, SinkBeat
from recorder.models import FailureGroup
from tests.support.factories import make_run
from workers.control_plane.top.overview import FailureRow, Overview, WorkerRow, overview
from workers.control_plane.top.screen import OneWorker, Top, Workers

AT = datetime(2026, 3, 14, 3, 1, tzinfo=UTC)
CHECKOUT = Path(__file__).resolve().parents[2]
Steps = Callable[[Pilot[None]], Awaitable[None]]


def worker(name: str = "worker-1", **values: Any) -> WorkerRow:
    usual = {
        "cluster": "main",
        "state": "ready",
        "age_seconds": 1.0,
        "slots": 4,
        "busy": 2,
        "waiting": 7,
        "lag": 1234,
        "completed": 10,
        "failed": 3,
        "dead_letters": 0,
        "read_at": 100.0,
        "running": [RunningTask(task_id="3:7:0", slot=1, attempt=2, started_at=97.5, progress=0.4)],
        "partitions": [PartitionBeat(topic="in", partition=3, state="running", lag=None)],
        "sinks": [SinkBeat(name="[red]out[/]", kind="kafka", delivered=5, errors=1)],
    }
    return WorkerRow(worker=name, **{**usual, **values})


def moment(*workers: WorkerRow, **values: Any) -> Overview:
    failure = FailureRow(
        cluster="main",
        title="exit 3: cannot open <path>\x1b[2J",
        kind="exit",
        count=17,
        last_seen=AT,
    )
    usual: dict[str, Any] = {"at": AT, "lags": {"main": None}, "failures": [failure]}
    return Overview(workers=workers, **{**usual, **values})


def shown(read: Callable[[], Overview], steps: Steps) -> None:
    """Run the screen without a terminal and do the steps."""

    async def run() -> None:
        top = Top(read, refresh_seconds=3600)
        async with top.run_test(size=(160, 40)) as pilot:
            await settled(pilot)
            await steps(pilot)

    asyncio.run(run())


async def settled(pilot: Pilot[None]) -> None:
    """Wait for the reading under way, and what it shows."""
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


def rows(pilot: Pilot[None], name: str) -> list[list[str]]:
    table = pilot.app.screen.query_one(f"#{name}", DataTable)
    return [[str(cell) for cell in table.get_row_at(at)] for at in range(table.row_count)]


def said(pilot: Pilot[None]) -> str:
    return str(pilot.app.screen.query_one("#said", Static).render())


def test_workers_slots_and_lag_are_shown_and_unknown_is_not_zero() -> None:
    async def steps(pilot: Pilot[None]) -> None:
        first, second = rows(pilot, "workers")
        assert first == [
            "main", "worker-1", "ready", "2/4", "7", "1,234", "10", "3", "0", "1 s",
        ]  # fmt: skip
        assert second[3:6] == ["-", "?", "?"]
        assert "lag of main: ?" in said(pilot)
        assert "open failures: 17" in said(pilot)

    dead = worker("worker-2", state="lost", slots=None, busy=None, waiting=None, lag=None)
    shown(lambda: moment(worker(), dead), steps)


def test_enter_leads_to_a_worker_and_escape_back() -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("down", "enter")
        await pilot.pause()
        assert isinstance(pilot.app.screen, OneWorker)
        assert said(pilot).startswith("worker-2 of main: ready")
        assert rows(pilot, "tasks") == [["3:7:0", "1", "2", "2.5 s", "40%", ""]]
        assert rows(pilot, "partitions") == [["in", "3", "running", "?", "?"]]
        assert rows(pilot, "sinks")[0][:4] == ["[red]out[/]", "kafka", "5", "1"]
        await pilot.press("escape")
        await pilot.pause()
        assert isinstance(pilot.app.screen, Workers)

    shown(lambda: moment(worker(), worker("worker-2")), steps)


def test_f_shows_the_failures_whose_texts_steer_nothing() -> None:
    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("f")
        await pilot.pause()
        ((cluster, count, last_seen, kind, what),) = rows(pilot, "failures")
        assert (cluster, count, last_seen, kind) == ("main", "17", "03-14 03:01", "exit")
        assert what.startswith("exit 3: cannot open <path>")
        assert "\x1b" not in what

    shown(lambda: moment(worker()), steps)


def test_a_worker_that_is_forgotten_while_it_is_shown_is_said() -> None:
    moments = [moment(), moment(worker())]

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("enter")
        await pilot.pause()
        await pilot.press("r")
        await settled(pilot)
        assert said(pilot) == "main/worker-1: not known any more"

    shown(moments.pop, steps)


def test_with_postgres_away_old_figures_stay_and_it_is_said() -> None:
    known = [moment(worker())]

    def read() -> Overview:
        if not known:
            raise DatabaseError("no server")
        return known.pop()

    async def steps(pilot: Pilot[None]) -> None:
        await pilot.press("r")
        await settled(pilot)
        assert said(pilot).startswith("Postgres is away, the figures are old: no server")
        assert len(rows(pilot, "workers")) == 1

    shown(read, steps)


@pytest.mark.django_db
def test_the_moment_is_read_from_the_beats_and_the_groups() -> None:
    running = [{"task_id": "3:7:0", "slot": 0, "attempt": 1, "started_at": 1.0}]
    make_run(
        worker="worker-1",
        beat__pool={"slots": 4, "busy": 1, "waiting": 2, "running": running},
        beat__partitions=[
            {"topic": "in", "partition": 3, "lag": 5},
            {"topic": "in", "partition": 4, "lag": 6},
        ],
    )
    make_run(worker="worker-2", beat__state="lost")
    make_run(cluster="fast", worker="fast-1")
    now = timezone.now()
    for name, state, seen in (
        ("new", "open", now),
        ("done", "resolved", now),
        ("old", "open", now - timedelta(days=2)),
    ):
        FailureGroup.objects.create(
            fingerprint=name, cluster="main", kind="exit", title=name,
            first_seen=seen, last_seen=seen, count=2, state=state,
        )  # fmt: skip
    found = overview("main")
    first, second = found.workers
    assert (first.key, first.slots, first.busy, first.waiting, first.lag) == (
        "main/worker-1", 4, 1, 2, 11,
    )  # fmt: skip
    assert [task.task_id for task in first.running] == ["3:7:0"]
    assert [row.partition for row in first.partitions] == [3, 4]
    assert (second.state, second.slots, second.lag, list(second.running)) == (
        "lost",
        None,
        None,
        [],
    )
    assert found.lags == {"main": 11}
    assert [row.title for row in found.failures] == ["new"]
    assert {row.cluster for row in overview().workers} == {"main", "fast"}


def test_without_a_terminal_it_says_where_the_figures_are(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("top")
    assert ended.value.code == 2
    assert "expected a terminal, got none" in capsys.readouterr().err


@pytest.mark.django_db(transaction=True)
def test_on_a_terminal_it_runs_until_q(settings: Any) -> None:
    site = settings.DATABASES["default"]
    url = f"postgresql://{site['USER']}@{site['HOST']}:{site['PORT']}/{site['NAME']}"
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "manage.py", "top"],
        cwd=CHECKOUT, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True,
        env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url, "TERM": "xterm-256color"},
    )  # fmt: skip
    os.close(theirs)
    seen = b""
    try:
        while b"no worker yet" not in seen:
            seen += os.read(ours, 65536)
        os.write(ours, b"q")
        while _read_on(ours):
            pass
        assert process.wait(60) == 0
    finally:
        process.kill()
        process.wait()
        os.close(ours)


def _read_on(terminal: int) -> bytes:
    """What is printed; empty when nobody holds the other side any more."""
    try:
        return os.read(terminal, 65536)
    except OSError:
        return b""
