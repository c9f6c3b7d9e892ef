"""The spawn executor with real processes, on both tiers of isolation."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Literal, ParamSpec

import psutil
import pytest

from domain.failure import FailureKind
from domain.task import Limits
from tests.support.executors import RoomyExecutor
from workers.executor import spawn
from workers.executor.base import Launch

Tier = Literal["pid_namespace", "groups"]
P = ParamSpec("P")
Losses = list[tuple[int, int, str]]


def on_each_tier(test: Callable[P, None]) -> Callable[P, None]:
    """Run a test in both tiers of isolation, with both launchers."""
    with_tiers = pytest.mark.parametrize("tier", ["pid_namespace", "groups"])(test)
    tested: Callable[P, None] = pytest.mark.usefixtures("launcher")(with_tiers)
    return tested


def launch(*argv: str, **changes: Any) -> Launch:
    """A launch with small bounds."""
    values: dict[str, Any] = {
        "task_id": "0:0:0",
        "argv": argv,
        "env": {"PATH": os.environ["PATH"]},
        "stdin": b"",
        "cwd": None,
        "timeout_seconds": 20.0,
        "kill_grace_seconds": 0.2,
        "max_stdout_bytes": 1 << 20,
        "max_stderr_bytes": 1000,
        "limits": None,
    }
    return Launch(**(values | changes))


def sh(script: str, **changes: Any) -> Launch:
    """A shell script."""
    return launch("sh", "-c", script, **changes)


def with_executor(tier: Tier, body: Callable[[RoomyExecutor, Losses], Awaitable[None]]) -> None:
    """Run ``body`` on a started executor with one spawner."""

    async def scenario() -> None:
        losses: Losses = []
        executor = RoomyExecutor(on_spawner_lost=lambda *loss: losses.append(loss), prefer=tier)
        await executor.start()
        try:
            async with asyncio.timeout(30):
                await body(executor, losses)
        finally:
            await executor.close()

    asyncio.run(scenario())


async def gone(tag: str, within_seconds: float) -> None:
    """Wait until no process has ``tag`` in its command line."""
    deadline = time.monotonic() + within_seconds
    while alive := _tagged(tag):
        assert time.monotonic() < deadline, f"still alive: {alive}"
        await asyncio.sleep(0.02)


async def seen(tag: str) -> None:
    """Wait until a process has ``tag`` in its command line."""
    deadline = time.monotonic() + 5
    while not _tagged(tag):
        assert time.monotonic() < deadline, "never seen"
        await asyncio.sleep(0.02)


def _tagged(tag: str) -> list[int]:
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        is_alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if is_alive and tag in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


@on_each_tier
def test_each_end_of_a_program_is_told_by_its_kind(tier: Tier, tmp_path: Path) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        assert (await executor.run(launch("true"))).failure is None
        ended = await executor.run(sh("exit 3"))
        assert (ended.failure, ended.exit_code) == (FailureKind.EXIT, 3)
        ended = await executor.run(sh("kill -9 $$"))
        assert (ended.failure, ended.exit_code) == (FailureKind.SIGNAL, -9)
        for argv in (("no-such-program",), ("a\0b",), ("true", "x" * 3_000_000), ("/",)):
            ended = await executor.run(launch(*argv))
            assert ended.failure is FailureKind.SPAWN
            assert ended.spawn_errno
        blob = os.urandom(10_000_000)
        ended = await executor.run(launch("cat", stdin=blob, max_stdout_bytes=len(blob)))
        assert ended.stdout == blob
        ended = await executor.run(launch("pwd", cwd=str(tmp_path)))
        assert ended.stdout.decode().strip() == str(tmp_path)
        ended = await executor.run(launch("/usr/bin/env", env={"A": "1", "B": "ü"}))
        assert sorted(ended.stdout.decode().splitlines()) == ["A=1", "B=ü"]
        ended = await executor.run(sh("ulimit -n", limits=Limits(open_files=77)))
        assert ended.stdout.strip() == b"77"

    with_executor(tier, body)


@on_each_tier
def test_output_caps(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        ended = await executor.run(launch("yes", max_stdout_bytes=1000))
        assert ended.failure is FailureKind.OUTPUT_LIMIT
        assert len(ended.stdout) == 1000 < ended.stdout_size
        ended = await executor.run(sh("printf a >&2; head -c 300000 /dev/zero >&2; printf z >&2"))
        assert ended.failure is None
        assert ended.truncated
        assert ended.stderr_size == 300_002
        assert ended.stderr.startswith(b"a")
        assert ended.stderr.endswith(b"z")
        assert b"cut out" in ended.stderr
        assert len(ended.stderr) < 1100

    with_executor(tier, body)


@on_each_tier
def test_timeout_kills_grandchildren_that_ignore_sigterm(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        script = "trap '' TERM; sleep 611.1 & sleep 611.1"
        ended = await executor.run(sh(script, timeout_seconds=0.2))
        assert ended.failure is FailureKind.TIMEOUT
        assert 0.35 < ended.duration_seconds < 2
        await gone("611.1", 0.5)

    with_executor(tier, body)


@on_each_tier
def test_a_grandchild_with_the_pipe_does_not_hold_the_task(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        ended = await executor.run(sh("sleep 612.2 & echo hi"))
        assert ended.stdout == b"hi\n"
        assert ended.duration_seconds < 1
        await gone("612.2", 0.5)

    with_executor(tier, body)


@on_each_tier
def test_escaped_daemons_die_within_a_second(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        other = asyncio.create_task(executor.run(launch("sleep", "613.4")))
        await executor.run(sh("setsid setsid sleep 613.3 >/dev/null 2>&1 & sleep 0.1"))
        await gone("613.3", 1.0)
        assert not other.done()
        other.cancel()

    with_executor(tier, body)


@on_each_tier
def test_a_daemon_that_changed_its_mark_dies_too(tier: Tier) -> None:
    tag = f"disguised-{tier}-{os.getpid()}"
    script = f"""
import os, resource, subprocess
resource.setrlimit(resource.RLIMIT_RTTIME, (-1, -1))
null = subprocess.DEVNULL
subprocess.Popen(["sh", "-c", "sleep 60; :", "{tag}"], stdin=null, stdout=null, stderr=null,
                 start_new_session=True)
"""

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        ended = await executor.run(launch(sys.executable, "-c", script))
        assert (ended.failure, ended.stderr) == (None, b"")
        await gone(tag, 3)

    with_executor(tier, body)


@on_each_tier
def test_a_directory_is_entered_anew_for_each_task(tier: Tier, tmp_path: Path) -> None:
    """It may have been made again, or its link may lead elsewhere by now."""
    for name in ("old", "new"):
        (tmp_path / name).mkdir()
    current = tmp_path / "current"
    current.symlink_to("old")

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        places = [(await executor.run(sh("pwd -P", cwd=str(current)))).stdout]
        current.unlink()
        current.symlink_to("new")
        places.append((await executor.run(sh("pwd -P", cwd=str(current)))).stdout)
        (tmp_path / "new").rmdir()
        (tmp_path / "new").mkdir()
        written = await executor.run(sh("echo x >made", cwd=str(current)))
        assert places == [f"{tmp_path}/{name}\n".encode() for name in ("old", "new")]
        assert (written.failure, written.stderr) == (None, b"")
        assert (tmp_path / "new" / "made").read_text() == "x\n"
        home = await executor.run(sh("pwd"))
        assert home.stdout == f"{Path.cwd()}\n".encode()

    with_executor(tier, body)


@on_each_tier
@pytest.mark.parametrize("which", ["spawner", "keeper"])
def test_a_stopped_process_of_ours_does_not_keep_the_executor_open(
    tier: Tier, which: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # A namespace takes its time to end where the machine is busy.
    monkeypatch.setattr(spawn, "_CLOSE_SECONDS", 20.0)

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        keeper = psutil.Process(executor.spawner_pids[0])
        stopped = keeper if which == "keeper" else keeper.children()[0]
        stopped.suspend()
        await executor.close()
        assert not stopped.is_running()

    with_executor(tier, body)


@on_each_tier
def test_a_daemon_is_hunted_when_its_task_dies_in_the_round_of_a_hunt(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        last = {"timeout_seconds": 0.5, "kill_grace_seconds": 0.0}
        running = asyncio.create_task(executor.run(sh("setsid sleep 613.5 & sleep 613.6", **last)))
        await seen("613.5")
        # Frozen over the deadline and the hunt, the spawner serves both in one round.
        os.kill(executor.spawner_pids[0], signal.SIGSTOP)
        await asyncio.wait((running,), timeout=0.8)
        os.kill(executor.spawner_pids[0], signal.SIGCONT)
        assert (await running).failure is FailureKind.TIMEOUT
        await gone("613.5", 1.0)

    with_executor(tier, body)


@on_each_tier
def test_cancel_waits_for_the_death(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        running = asyncio.create_task(executor.run(sh("trap '' TERM; sleep 614.4; true")))
        await seen("614.4")
        running.cancel()
        await asyncio.wait((running,))
        assert running.cancelled()
        await gone("614.4", 0.2)

    with_executor(tier, body)


@on_each_tier
def test_a_dead_spawner_loses_only_its_tasks(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, losses: Losses) -> None:
        running = asyncio.create_task(executor.run(launch("sleep", "615.5")))
        await seen("615.5")
        os.kill(executor.spawner_pids[0], signal.SIGKILL)
        assert (await running).failure is FailureKind.LOST
        assert [loss[1] for loss in losses] == [1]
        await gone("615.5", 2.0)
        assert (await executor.run(launch("true"))).failure is None

    with_executor(tier, body)
