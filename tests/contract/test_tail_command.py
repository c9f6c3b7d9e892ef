"""``manage.py tail``: prints as it comes, ends with the task, gives its lease back."""

from __future__ import annotations

import io
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from django.core.management import call_command
from django.db import DatabaseError, connection

from domain.live_tail import TailState, Written
from recorder.models import RunState
from tests.support.factories import Story, make_run
from tests.support.tails import TASK, BeatingWorker, TailWorker
from workers.control_plane.live.tail_reader import TailReader
from workers.management.commands import tail as command
from workers.management.commands.tail import FAILED, Screen, Tail
from workers.models import TailChunk, TailLease

pytestmark = pytest.mark.django_db(transaction=True)
CHECKOUT = Path(__file__).resolve().parents[2]
WAIT_SECONDS = 60.0


class Terminal(io.StringIO):
    """Text that was printed; says that it is a terminal, or not."""

    def __init__(self, *, is_terminal: bool = False) -> None:
        super().__init__()
        self._is_terminal = is_terminal

    def isatty(self) -> bool:
        return self._is_terminal


@pytest.fixture
def worker() -> TailWorker:
    return TailWorker(
        make_run(worker="worker-1", beat__partitions=[{"topic": "requests", "partition": 7}])
    )


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "POLL_SECONDS", 0.0)
    monkeypatch.setattr(command, "SETTLE_SECONDS", 0.3)


def tell_end(worker: TailWorker, kind: str = "task_completed", **columns: Any) -> None:
    """The history tells the task's end, and its worker forgets it."""
    story = Story(worker.run, partition=7)
    same = {"task_id": TASK, "attempt": 1, "duration_ms": 1500.0, "exit_code": 0}
    story.tell(0.0, "task_started", 100, task_id=TASK, attempt=1)
    story.tell(2.0, kind, 100, **{**same, **columns})
    worker.stands(state=TailState.ABSENT)


class Steps:
    """Does one thing at each of the command's pauses; then the test ends it."""

    def __init__(self, *steps: Callable[[], None]) -> None:
        self._steps = list(steps)

    def __call__(self, _seconds: float) -> None:
        assert self._steps, "the command goes on after the last step"
        self._steps.pop(0)()


def prints(worker: TailWorker, *output: Any, **where: Any) -> Callable[[], None]:
    """A step in which the task writes."""

    def step() -> None:
        worker.prints(*output, **where)
        worker.turn()

    return step


def ends(worker: TailWorker, kind: str = "task_completed", **columns: Any) -> Callable[[], None]:
    """A step in which the task ends."""

    def step() -> None:
        tell_end(worker, kind, **columns)
        worker.turn()

    return step


def follow(
    monkeypatch: pytest.MonkeyPatch,
    *steps: Callable[[], None],
    task_id: str = TASK,
    is_terminal: bool = False,
) -> tuple[int, str, str]:
    """Follow a task; its exit code, stdout and stderr."""
    screen = Screen(Terminal(is_terminal=is_terminal), Terminal(is_terminal=is_terminal))
    monkeypatch.setattr(time, "sleep", Steps(*steps))
    tail = Tail(TailReader("main", task_id), screen)
    try:
        code = tail.follow()
    finally:
        tail.end()
    assert isinstance(screen.out, Terminal)
    assert isinstance(screen.err, Terminal)
    return code, screen.out.getvalue(), screen.err.getvalue()


def test_prints_as_it_comes_until_the_task_ends(
    monkeypatch: pytest.MonkeyPatch, worker: TailWorker
) -> None:
    code, out, err = follow(
        monkeypatch,
        worker.turn,
        worker.turn,
        prints(worker, b"one\n"),
        prints(worker, b"careful\n", stream="stderr"),
        prints(worker, b"two\n", 1004),
        ends(worker),
        worker.turn,
    )
    assert (code, out) == (0, "one\ntwo\n")
    assert "-- attempt 1 running at worker-1" in err
    assert "careful\n" in err
    assert "-- 1,000 bytes of stdout left out" in err
    assert "-- task 7:100:0 completed: attempt 1 at worker-1, exit code 0, 1.5 s" in err
    assert not TailLease.objects.exists()


def test_a_task_that_failed_is_exit_code_1_and_its_reason_is_told(
    monkeypatch: pytest.MonkeyPatch, worker: TailWorker
) -> None:
    failed = {"exit_code": 3, "data": {"failure": "exit", "detail": "exit code 3"}}
    code, _, err = follow(
        monkeypatch,
        ends(worker, "task_failed", **failed),
        worker.turn,
        worker.turn,
    )
    assert code == FAILED
    assert "task 7:100:0 failed: attempt 1 at worker-1, exit code 3, 1.5 s" in err


def test_of_a_task_that_ended_before_the_recorded_output_is_shown(
    monkeypatch: pytest.MonkeyPatch, worker: TailWorker
) -> None:
    tell_end(worker, stdout=b"all of it\n", stderr=b"and this\n")
    code, out, err = follow(monkeypatch, worker.turn, worker.turn)
    assert (code, out) == (0, "all of it\n")
    assert "and this\n" in err


def test_what_a_refusing_worker_says_is_shown(
    monkeypatch: pytest.MonkeyPatch, worker: TailWorker
) -> None:
    worker.stands(state=TailState.REFUSED, detail="8 tasks already")
    code, _, err = follow(monkeypatch, worker.turn, worker.turn, worker.turn)
    assert code == FAILED
    assert "-- worker-1: 8 tasks already" in err


@pytest.mark.parametrize("has_owner", [True, False])
def test_an_unknown_task_is_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    worker: TailWorker,
    has_owner: bool,
) -> None:
    worker.stands(state=TailState.ABSENT)
    if not has_owner:
        RunState.objects.update(state="stopped")
    with pytest.raises(SystemExit) as ended:
        follow(monkeypatch, *[worker.turn] * 10_000)
    assert ended.value.code == 2
    assert "no worker runs it and no event names it in cluster main" in capsys.readouterr().err


def test_an_outage_of_postgres_is_told_once_and_waited_for(
    monkeypatch: pytest.MonkeyPatch, worker: TailWorker
) -> None:
    looks = TailReader.look
    failures = [DatabaseError("gone"), DatabaseError("gone")]

    def look(self: TailReader, now: float, fleet: object = None) -> object:
        if failures:
            raise failures.pop()
        return looks(self, now, fleet)  # type: ignore[arg-type]

    monkeypatch.setattr(TailReader, "look", look)
    code, _, err = follow(
        monkeypatch,
        lambda: None,
        lambda: None,
        ends(worker),
        worker.turn,
        worker.turn,
    )
    assert code == 0
    assert err.count("Postgres is away") == 1


def test_no_output_steers_a_terminal_and_a_pipe_gets_it_as_it_is() -> None:
    written = Written(stream="stderr", offset=0, left_out=0, text="\x1b]0;owned\x07\n")
    shown = Screen(Terminal(is_terminal=True), Terminal(is_terminal=True))
    shown.show(written)
    assert isinstance(shown.err, Terminal)
    assert shown.err.getvalue() == "\x1b[31m\\x1b]0;owned\\x07\n\x1b[0m"
    piped = Screen(Terminal(), Terminal())
    piped.show(written)
    assert isinstance(piped.err, Terminal)
    assert piped.err.getvalue() == written.text


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["7:100:0", "--cluster", "nobody"], "--cluster: expected one of"),
        (["../etc", "--cluster", "main"], "task: expected an id like 7:100:0"),
    ],
    ids=["cluster", "task"],
)
def test_bad_use_is_named(capsys: pytest.CaptureFixture[str], given: list[str], said: str) -> None:
    with pytest.raises(SystemExit) as ended:
        call_command("tail", *given)
    assert ended.value.code == 2
    assert said in capsys.readouterr().err


def test_ctrl_c_ends_the_lease(worker: TailWorker) -> None:
    worker = BeatingWorker(worker.run)
    at = connection.settings_dict
    url = f"postgresql://{at['USER']}@{at['HOST']}:{at['PORT']}/{at['NAME']}"
    with worker.beating():
        process = subprocess.Popen(
            [sys.executable, "manage.py", "tail", TASK, "--cluster", "main"],
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        assert process.stdout is not None
        while "running at worker-1" not in (line := process.stderr.readline()):
            assert line, "the command ended before it said that the task runs"
        worker.prints(b"printed\n")
        assert process.stdout.readline() == "printed\n"
        assert TailLease.objects.count() == 1
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=WAIT_SECONDS)
    assert process.returncode == 130
    assert "Traceback" not in err
    assert not TailLease.objects.exists()
    assert not TailChunk.objects.exists()
