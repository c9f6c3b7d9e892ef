"""Whose name it is, on a real PostgreSQL."""

from __future__ import annotations

import os
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.utils import timezone

from recorder.models import Run, RunState
from recorder.runs import RunDescription, uuid7
from tests.support.factories import make_run
from workers.runtime.naming import (
    FRESH_SECONDS,
    SILENT_SECONDS,
    Holder,
    Naming,
    claim,
    holders,
    take_name,
)
from workers.runtime.process_identity import ProcessIdentity, started_ticks

pytestmark = pytest.mark.django_db(transaction=True)
HERE = "here"
OWN = ProcessIdentity.own()
assert OWN is not None
ELSEWHERE = replace(OWN, place="another boot or namespace")


@pytest.fixture(autouse=True)
def _the_lock_is_given_up() -> Iterator[None]:
    yield
    connection.close()


def newcomer(worker: str = "w") -> RunDescription:
    return RunDescription(
        id=uuid7(time.time()),
        cluster="main",
        worker=worker,
        host=HERE,
        pid=os.getpid(),
        version="0",
        isolation="groups",
        slots=1,
        config_hash="x",
        config={},
        environment={},
        started_at=time.time(),
        process=str(OWN),
    )


def beating(
    *,
    host: str,
    pid: int,
    process: ProcessIdentity | None = OWN,
    silent_seconds: float = 0.0,
    **beat: object,
) -> Run:
    given = {f"beat__{k}": v for k, v in beat.items()}
    run = make_run(worker="w", host=host, pid=pid, process=str(process or ""), **given)
    moment = Now() - timedelta(seconds=silent_seconds)
    RunState.objects.filter(run=run).update(beat_at=moment)
    return run


def dead_pid() -> int:
    process = subprocess.Popen(["/bin/true"])
    process.wait()
    return process.pid


def taken(run: RunDescription) -> float:
    began = time.monotonic()
    assert take_name(run, threading.Event()) is Naming.TAKEN
    assert RunState.objects.get(run_id=run.id).state == "starting"
    return time.monotonic() - began


def test_a_free_name_is_taken_and_the_run_is_registered() -> None:
    make_run(worker="other")
    make_run(worker="w", cluster="fast")
    assert taken(newcomer()) < 1


@pytest.mark.parametrize("state", ["stopped", "lost"])
def test_the_name_of_a_run_that_ended_is_free(state: str) -> None:
    beating(host="far", pid=1, state=state)
    assert holders(newcomer()) == []


def test_a_dead_process_of_this_host_gives_its_name_up_at_once() -> None:
    beating(host=HERE, pid=dead_pid())
    beating(host=HERE, pid=os.getpid())
    assert taken(newcomer()) < 1


def test_a_dead_process_that_nobody_reaped_gives_its_name_up_too() -> None:
    zombie = subprocess.Popen(["/bin/true"])
    os.waitid(os.P_PID, zombie.pid, os.WEXITED | os.WNOWAIT)
    beating(host=HERE, pid=zombie.pid)
    assert taken(newcomer()) < 1
    zombie.wait()


def test_a_process_number_used_again_holds_no_name() -> None:
    parent = os.getppid()
    assert OWN is not None
    beating(host=HERE, pid=parent, process=replace(OWN, started_ticks=1))
    assert taken(newcomer()) < 1


@pytest.mark.parametrize("process", [ELSEWHERE, None], ids=["another container", "unknown"])
@pytest.mark.parametrize("pid", [os.getpid(), dead_pid()], ids=["our number", "nobody's"])
def test_a_number_of_another_container_says_nothing(
    process: ProcessIdentity | None, pid: int
) -> None:
    held_by = beating(host=HERE, pid=pid, process=process)
    assert [holder.run for holder in claim(newcomer())] == [held_by.id]


def test_a_live_process_of_this_host_holds_its_name() -> None:
    parent = os.getppid()
    ticks = started_ticks(parent)
    assert OWN is not None
    assert ticks is not None
    held_by = beating(host=HERE, pid=parent, process=replace(OWN, started_ticks=ticks))
    assert [holder.run for holder in claim(newcomer())] == [held_by.id]


def test_a_process_elsewhere_is_given_three_beats() -> None:
    beating(host="far", pid=dead_pid(), silent_seconds=SILENT_SECONDS - 1.2)
    assert 0.5 < taken(newcomer()) < 4


def test_who_is_silent_for_three_beats_is_not_waited_for() -> None:
    beating(host=HERE, pid=os.getppid(), silent_seconds=SILENT_SECONDS + 1)
    assert taken(newcomer()) < 1


def test_a_stop_ends_the_wait_and_registers_nothing() -> None:
    beating(host="far", pid=1)
    run, stopping = newcomer(), threading.Event()
    stopping.set()
    assert take_name(run, stopping) is Naming.STOPPED
    assert not Run.objects.filter(id=run.id).exists()


def test_of_two_that_start_together_one_sees_the_other() -> None:
    def ask(run: RunDescription) -> list[Holder]:
        try:
            together.wait(10)
            return claim(run)
        finally:
            connection.close()

    for turn in range(5):
        # On another host each, so that neither counts as this very process.
        two = [replace(newcomer(f"w{turn}"), host=host) for host in ("a", "b")]
        together = threading.Barrier(2)
        with ThreadPoolExecutor(2) as pool:
            held = list(pool.map(ask, two))
        winners = [run for run, others in zip(two, held, strict=True) if not others]
        (loser_sees,) = [others for others in held if others]
        assert [winner.id for winner in winners] == [each.run for each in loser_sees]


def test_who_beat_since_and_misses_none_now_is_alive() -> None:
    first = timezone.now()
    holder = Holder(
        run=uuid7(0.0), host="far", pid=1, process="", beat_at=first, silent_seconds=0.1
    )
    assert not holder.still_beats(first)
    later = replace(holder, beat_at=first + timedelta(seconds=2))
    assert later.still_beats(first)
    assert not replace(later, silent_seconds=FRESH_SECONDS).still_beats(first)
