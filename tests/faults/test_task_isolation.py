"""What a task can see, and what it escapes: kind I of the issue about things not done."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.test_executor import Losses, Tier, on_each_tier, sh, with_executor
from tests.support.executors import RoomyExecutor
from tests.support.ordinary_user import CHECKOUT, NOBODY, as_ordinary_user, interpreter
from tests.support.services import require
from tests.support.worker_process import Scene, until
from workers.executor.isolation import OF_THE_MACHINE
from workers.executor.launching import Child
from workers.executor.native import make_launcher

SECRET = f"THE_SECRET_OF_THE_WORKER_{os.getpid()}"
"""Of this test process: another one may look at the same time."""
LOOK = rf"""
for file in /proc/[0-9]*/environ; do
  if tr '\0' '\n' <"$file" 2>/dev/null | grep -q '^{SECRET}='; then echo "secret in $file"; fi
done
for name in environ mem maps; do
  if (: <"/proc/$PPID/$name") 2>/dev/null; then echo "open /proc/$PPID/$name"; fi
done
for name in cwd root fd/0 fd/7; do
  if readlink "/proc/$PPID/$name" >/dev/null 2>&1; then echo "seen /proc/$PPID/$name"; fi
done
if tr '\0' '\n' </proc/$PPID/cmdline | grep -q '{SECRET}'; then echo "on a command line"; fi
echo looked
"""
WORKER = """
import asyncio, json, sys
from workers.executor import isolation
from workers.executor.base import Launch
from tests.support.executors import RoomyExecutor

async def main(tier, script):
    executor = RoomyExecutor(prefer=tier, nice=10)
    await executor.start()
    ended = await executor.run(Launch(
        task_id="0:0:0",
        argv=("/bin/sh", "-c", script), env={"PATH": "/usr/bin:/bin"}, stdin=b"", cwd=None,
        timeout_seconds=20, kill_grace_seconds=0.2, max_stdout_bytes=65536, max_stderr_bytes=65536,
        limits=None))
    print(json.dumps([executor.isolation, ended.pid, ended.stdout.decode().splitlines()]))
    await executor.close()

getattr(isolation, "hide_from_tasks", int)()
asyncio.run(main(*sys.argv[1:]))
"""


def seen_by_a_task(tier: str, script: str, *, is_ordinary: bool) -> tuple[str, int, list[str]]:
    """Tier in force, host's number of the task and what it wrote, below a process with a secret."""
    python = str(interpreter()) if is_ordinary else sys.executable
    argv = [python, "-B", "-c", WORKER, tier, script]
    done = subprocess.run(
        as_ordinary_user(*argv) if is_ordinary else argv,
        cwd=CHECKOUT,
        env={**os.environ, SECRET: "x"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    isolation, pid, lines = json.loads(done.stdout)
    return isolation, pid, lines


@pytest.mark.parametrize("is_ordinary", [False, True], ids=["this user", "ordinary user"])
@on_each_tier
def test_a_task_reads_neither_worker_nor_spawner(tier: Tier, is_ordinary: bool) -> None:
    if is_ordinary:
        require("ordinary_user")
    _, pid, seen = seen_by_a_task(tier, LOOK, is_ordinary=is_ordinary)
    assert seen == ["looked"]
    assert pid > 1, "the host's number is known though the spawner's /proc files are not its own"


@pytest.mark.parametrize("is_ordinary", [False, True], ids=["this user", "ordinary user"])
@on_each_tier
def test_a_task_becomes_no_more_than_its_worker(tier: Tier, is_ordinary: bool) -> None:
    if is_ordinary:
        require("ordinary_user")
    _, _, seen = seen_by_a_task(tier, "grep NoNewPrivs /proc/self/status", is_ordinary=is_ordinary)
    assert [line.split() for line in seen] == [["NoNewPrivs:", "1"]]


@on_each_tier
def test_a_set_user_id_program_makes_no_task_root(tier: Tier) -> None:
    require("ordinary_user")
    if os.geteuid() != 0:
        pytest.skip("only root can make a set-user-ID program of root's")
    program = Path("/tmp") / f"drakkar-set-user-id-{os.getpid()}"
    shutil.copy("/usr/bin/id", program)
    try:
        program.chmod(0o4755)
        argv = as_ordinary_user("sh", "-c", f"{program} -u")
        done = subprocess.run(argv, capture_output=True, text=True, check=True)
        if done.stdout.strip() != "0":
            pytest.skip("/tmp lets no program set its user here (nosuid)")
        _, _, seen = seen_by_a_task(tier, f"{program} -u", is_ordinary=True)
        assert seen == [str(NOBODY)]
    finally:
        program.unlink()


@pytest.mark.parametrize("is_ordinary", [False, True], ids=["this user", "ordinary user"])
def test_a_task_sets_nothing_of_the_machine(is_ordinary: bool) -> None:
    """Asked by access(2), which tells of a read-only mount: nothing is ever written."""
    if is_ordinary:
        require("ordinary_user")
    places = " ".join([*OF_THE_MACHINE, "/proc/sys/kernel/core_pattern", "/proc/sys/vm/swappiness"])
    look = f"""
    for place in {places}; do if test -w $place; then echo "writable $place"; fi; done
    test -r /proc/sys/kernel/core_pattern && test -w /proc/self/oom_score_adj && echo looked
    """
    tier, _, seen = seen_by_a_task("pid_namespace", look, is_ordinary=is_ordinary)
    if tier != "pid_namespace":
        pytest.skip("this kernel lets us make no PID namespace")
    assert seen == ["looked"]


def test_a_task_of_a_real_worker_finds_none_of_its_secrets(scene: Scene) -> None:
    scene.worker("caged", **{SECRET: "x"}).ready()
    scene.produce(LOOK)
    (found,) = scene.results(1)
    assert (found.value() or b"").decode().splitlines() == ["looked"]


def test_the_spawner_gets_nothing_of_the_environment(scene: Scene) -> None:
    worker = scene.worker("bare", **{SECRET: "x"}).ready()
    for pid in (worker.spawner(), worker.inner_spawner()):
        assert set(psutil.Process(pid).environ()) <= {"LD_LIBRARY_PATH", "LC_CTYPE"}


@on_each_tier
def test_a_task_holds_its_streams_and_its_progress_and_no_other_descriptor(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        ended = await executor.run(sh("exec ls /proc/self/fd"))
        assert ended.stdout.split() == [b"0", b"1", b"2", b"3", b"4"], "4 is the listed folder"

    with_executor(tier, body)


def test_limits_hold_from_the_first_instruction(
    launcher: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the spawner does after the start comes late here: a child is out by then."""
    later = resource.prlimit

    def slow(*args: Any) -> Any:
        time.sleep(0.5)
        return later(*args)

    monkeypatch.setattr(resource, "prlimit", slow)
    child = Child(1, 1, 0)
    child.expect(b"", 1 << 16, 1 << 16, 0.0, None)
    script = "ulimit -n; setsid sh -c 'sleep 0.7; ulimit -n; ulimit -t; ulimit -v'"
    make_launcher(launcher, 1 << 62, None, nice=0, cgroups=None).launch(
        child, ("sh", "-c", script), {"PATH": os.defpath}, None, (9, 1 << 30, 33, None, None), None
    )
    os.waitpid(child.pid, 0)
    assert os.read(child.output_fd, 4096).split() == [b"33", b"33", b"9", b"1048576"]


@on_each_tier
def test_a_worker_whose_tasks_could_carry_no_mark_does_not_start(tier: Tier) -> None:
    """As under LimitRTTIME of systemd: each message was blamed for it."""
    require("ordinary_user")
    limited = [
        "prlimit",
        "--rttime=1000000:1000000",
        str(interpreter()),
        "-B",
        "-c",
        WORKER,
        tier,
        "",
    ]
    done = subprocess.run(
        as_ordinary_user(*limited), cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
        check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert "RLIMIT_RTTIME: expected an unlimited hard limit" in done.stderr
    assert "ExecutorUnavailable" in done.stderr


@on_each_tier
def test_tasks_yield_as_much_as_a_worker_that_yields_more(tier: Tier) -> None:
    """Who is no root may not take niceness back: not one task could be started."""
    require("ordinary_user")
    argv = ["nice", "-n", "15", str(interpreter()), "-B", "-c", WORKER, tier, "nice"]
    done = subprocess.run(
        as_ordinary_user(*argv), cwd=CHECKOUT, capture_output=True, text=True, timeout=60,
        check=True,
    )  # fmt: skip
    _, _, said = json.loads(done.stdout)
    assert said == [str(min(19, os.getpriority(os.PRIO_PROCESS, 0) + 15))]


class Container:
    """A ``runworker`` that is process 1 of a PID namespace of its own."""

    def __init__(self, scene: Scene, number: int) -> None:
        self._path = scene.folder / f"container-{number}.log"
        config = scene.folder / "drakkar.yaml"
        config.write_text(scene.configuration())
        argv = ["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", sys.executable]
        argv += ["manage.py", "runworker", "--cluster", "p", "--name", "twin"]
        ports = {"DRAKKAR_CLUSTERS__P__METRICS__PORT": "0"}
        outer = {k: v for k, v in os.environ.items() if not k.startswith("DRAKKAR_")}
        with self._path.open("wb") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=CHECKOUT,
                env={**outer, "DRAKKAR_CONFIG": str(config), **ports},
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    @property
    def log(self) -> str:
        """What it said."""
        return self._path.read_text()


def _no_namespaces() -> str | None:
    if shutil.which("unshare") is None:
        return "unshare is not installed"
    argv = ["unshare", "--pid", "--fork", "--mount-proc", "true"]
    is_refused = subprocess.run(argv, capture_output=True, check=False).returncode != 0
    return "this user cannot make a PID namespace" if is_refused else None


def test_two_containers_of_one_host_name_do_not_take_each_others_name(scene: Scene) -> None:
    if reason := _no_namespaces():
        pytest.skip(reason)
    first = Container(scene, 1)
    second = None
    try:
        until(lambda: '"joined"' in first.log or first.process.poll(), "the first worker")
        second = Container(scene, 2)
        with suppress(subprocess.TimeoutExpired):
            second.process.wait(20)
        assert second.process.returncode == 2, (first.log, second.log)
        assert "'twin' of cluster 'p' is alive: process 1 on " in second.log
        assert first.process.poll() is None
    finally:
        for one in (first, second):
            if one is not None:
                one.process.kill()
                one.process.wait()


def test_a_program_that_cannot_be_read_hides_its_environment(tmp_path: Path) -> None:
    """What the image does with tini, its process 1, tried on this kernel."""
    assert "chmod 711 /usr/bin/tini" in (CHECKOUT / "Dockerfile").read_text()
    require("ordinary_user")
    if os.geteuid() != 0:
        pytest.skip("only root can make a program that its own user may not read")
    program = Path("/tmp") / f"drakkar-unreadable-{os.getpid()}"
    shutil.copy("/bin/sleep", program)
    try:
        program.chmod(0o711)
        # By a shell: the program that changes the user keeps root's rights up to its own exec.
        argv = as_ordinary_user("sh", "-c", f"exec {program} 30")
        sleeping = subprocess.Popen(argv, env={SECRET: "x"})
        try:
            until(lambda: psutil.Process(sleeping.pid).name().startswith("drakkar-unr"), "the exec")
            argv = as_ordinary_user("cat", f"/proc/{sleeping.pid}/environ")
            done = subprocess.run(argv, capture_output=True, text=True, check=False)
            assert done.stdout == ""
            assert "Permission denied" in done.stderr
        finally:
            sleeping.kill()
            sleeping.wait()
    finally:
        program.unlink()
