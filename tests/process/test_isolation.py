"""Tiers of isolation, each forced, and the limits of a task's process."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from domain.failure import FailureKind
from domain.task import Limits
from tests.process.test_executor import Losses, Tier, launch, on_each_tier, sh, with_executor
from tests.process.test_watching import Heard
from tests.support.deployments import pods
from tests.support.executors import RoomyExecutor
from tests.support.ordinary_user import CHECKOUT, as_ordinary_user, interpreter, without_rights
from tests.support.services import require

MIB = 1 << 20
NAMESPACE = Path("/proc/self/ns/user").readlink().name


def test_the_executor_needs_no_package_but_in_mode_persistent() -> None:
    """Else the tests of an ordinary user skip where its interpreter has none."""
    look = "import workers.executor.spawn, tests.support.executor_probe"
    # -S: without the packages that are installed.
    argv = [sys.executable, "-S", "-B", "-c", look]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("tier", ["pid_namespace", "groups"])
def test_the_tiers_of_an_ordinary_user(tier: str) -> None:
    require("ordinary_user")
    argv = as_ordinary_user(str(interpreter()), "-B", "-m", "tests.support.executor_probe", tier)
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    user, namespace = found["user"]
    assert user != "0"
    if tier == "groups" or not _has_user_namespaces():
        assert found["isolation"] == "groups"
        assert namespace == found["own_namespace"]
    else:
        assert found["isolation"] == "pid_namespace"
        assert namespace != found["own_namespace"], "it is reached by a user namespace"
    assert found["daemon"] == "started"
    assert found["daemon_seconds"] < 1.0
    assert found["is_limited"]
    assert found["is_free"]


@pytest.mark.parametrize("seccomp", ["RuntimeDefault", "Unconfined"])
def test_the_tier_under_the_security_context_that_we_ship(seccomp: str) -> None:
    """No capability, no way to more rights, no root; of the profile, what refuses namespaces."""
    require("ordinary_user")
    require("confined")
    given = pods()["workers.yaml:StatefulSet/drakkar-worker-main"]
    assert given["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    python = str(interpreter())
    filtered = [python, "-B", "-m", "tests.support.confined"] if seccomp == "RuntimeDefault" else []
    probe = [python, "-B", "-m", "tests.support.executor_probe", "pid_namespace"]
    argv = without_rights(*filtered, *probe)
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    may_make = seccomp == "Unconfined" and _has_user_namespaces()
    assert found["isolation"] == ("pid_namespace" if may_make else "groups")
    assert found["daemon"] == "started"
    assert found["is_limited"]
    assert found["is_free"]


def _has_user_namespaces() -> bool:
    argv = as_ordinary_user("unshare", "--user", "--pid", "--mount", "--fork", "true")
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="only root makes a PID namespace without a user's")
@on_each_tier
def test_the_tiers_of_root_need_no_user_namespace(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        ended = await executor.run(sh("echo $$; readlink /proc/self/ns/user"))
        number, namespace = ended.stdout.decode().split()
        assert executor.isolation == tier
        assert namespace == NAMESPACE
        assert (number != str(ended.pid)) == (tier == "pid_namespace")

    with_executor(tier, body)


@on_each_tier
def test_cpu_time_past_cpu_seconds_ends_the_task(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        ended = await executor.run(sh("while :; do :; done", limits=Limits(cpu_seconds=1)))
        assert (ended.failure, ended.exit_code) == (FailureKind.SIGNAL, -signal.SIGXCPU)
        assert ended.usage is not None
        assert 0.8 < ended.usage.user_cpu_seconds + ended.usage.system_cpu_seconds < 2.5

    with_executor(tier, body)


@on_each_tier
def test_memory_past_memory_bytes_is_refused(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        eat = "dd if=/dev/zero of=/dev/null bs=200M count=1"
        ended = await executor.run(sh(eat, limits=Limits(memory_bytes=64 * MIB)))
        assert ended.failure is FailureKind.EXIT
        assert b"memory exhausted" in ended.stderr
        ended = await executor.run(sh(eat, limits=Limits(memory_bytes=400 * MIB)))
        assert ended.failure is None

    with_executor(tier, body)


@on_each_tier
def test_a_file_past_file_bytes_ends_the_task(tier: Tier, tmp_path: Path) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        target = tmp_path / tier
        write = f"exec head -c 5000 /dev/zero > {target}"
        ended = await executor.run(sh(write, limits=Limits(file_bytes=1000)))
        assert (ended.failure, ended.exit_code) == (FailureKind.SIGNAL, -signal.SIGXFSZ)
        assert target.stat().st_size <= 1000

    with_executor(tier, body)


@on_each_tier
def test_open_files(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        script = "exec 3</dev/null; exec 4</dev/null; exec 5</dev/null"
        ended = await executor.run(sh(script, limits=Limits(open_files=5)))
        assert ended.failure is FailureKind.EXIT
        assert (await executor.run(sh(script))).failure is None

    with_executor(tier, body)


@on_each_tier
def test_limits_hold_for_the_program_only(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        limits = Limits(cpu_seconds=9, memory_bytes=512 * MIB, open_files=32, file_bytes=4096)
        said = await executor.run(sh("ulimit -t; ulimit -v; ulimit -n", limits=limits))
        assert said.stdout.split() == [b"9", b"524288", b"32"]
        free = await executor.run(launch("sh", "-c", "ulimit -t; ulimit -v"))
        assert free.stdout.split() == [b"unlimited", b"unlimited"]

    with_executor(tier, body)


@on_each_tier
def test_tasks_yield_to_the_worker(tier: Tier) -> None:
    """Their niceness counts: all tasks of a spawner are one session, and that yields too."""

    async def body() -> None:
        executor = RoomyExecutor(prefer=tier, nice=7)
        await executor.start()
        try:
            say = sh("sleep 0.1; nice; cat /proc/self/autogroup 2>/dev/null || :")
            one, two = await asyncio.gather(executor.run(say), executor.run(say))
            (spawner,) = executor.spawner_pids
            assert os.getpriority(os.PRIO_PROCESS, spawner) == os.getpriority(os.PRIO_PROCESS, 0)
        finally:
            await executor.close()
        assert one.stdout == two.stdout
        niceness, *session = one.stdout.split()
        assert int(niceness) == max(7, os.getpriority(os.PRIO_PROCESS, 0))
        assert not session or session[-1] == b"7"

    asyncio.run(body())


@pytest.mark.usefixtures("launcher")
def test_many_at_once_end_by_themselves() -> None:
    """Starts, ends and cancels interleave: each gets its own output."""

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        runs = [asyncio.create_task(executor.run(sh(f"echo {n}"))) for n in range(60)]
        for cancelled in runs[::7]:
            cancelled.cancel()
        ended = await asyncio.gather(*runs, return_exceptions=True)
        for number, end in enumerate(ended):
            if number % 7 == 0:
                assert isinstance(end, asyncio.CancelledError)
            else:
                assert not isinstance(end, BaseException)
                assert end.stdout == f"{number}\n".encode()

    with_executor("pid_namespace", body)


@on_each_tier
def test_all_slots_can_be_used_under_a_low_limit_of_open_files(tier: Tier) -> None:
    """The spawner makes room for its pipes; programs have the limit of the worker."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    low = (200, before[1])

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        heard = Heard()
        many = [launch("sleep", "60", task_id=f"0:0:{n}") for n in range(64)]
        runs = [asyncio.create_task(executor.run(each, heard)) for each in many]
        await heard.until(lambda: len(heard.starts) == len(many))
        pids = [pid for _, _, pid in heard.starts if pid is not None]
        assert {psutil.Process(pid).rlimit(resource.RLIMIT_NOFILE) for pid in pids} == {low}
        for each in many:
            executor.cancel(each.task_id)
        ended = await asyncio.gather(*runs)
        assert [end.failure for end in ended] == [FailureKind.CANCELLED] * len(many)
        asked = await executor.run(sh("ulimit -n", limits=Limits(open_files=77)))
        assert asked.stdout == b"77\n"

    resource.setrlimit(resource.RLIMIT_NOFILE, low)
    try:
        with_executor(tier, body)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
