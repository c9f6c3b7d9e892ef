"""The launcher: one start at a time, and nothing left however it ends."""

from __future__ import annotations

import os
import re
import shlex
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from configparser import RawConfigParser
from contextlib import suppress
from pathlib import Path
from typing import IO

import psutil
import pytest

from integration.demo.faults import is_alive
from integration.demo.plan import Program, program_section, scaled_values
from integration.demo.supervisor import until
from integration.services.base import last_lines
from tests.support.services import require
from workers.version import VERSION

START_SECONDS = 90.0
GONE_SECONDS = 2.0
STOP_SECONDS = 60.0
CHECKOUT = Path(__file__).resolve().parents[2]


class Launcher:
    """``stack up`` with a folder of its own, so that a demo may run beside it."""

    def __init__(self, run: Path, log: IO[bytes]) -> None:
        self.run = run
        self.log_path = Path(str(log.name))
        self.process = self._start("up", "--kafka", "mock", "--messages", "20", out=log)

    def _start(self, *args: str, out: IO[bytes] | int) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "integration.demo", *args],
            cwd=CHECKOUT,
            env={**os.environ, "DRAKKAR_RUN_DIR": str(self.run)},
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def call(self, *args: str) -> tuple[int, str]:
        """Exit code and output of another command on the same folder."""
        process = self._start(*args, out=subprocess.PIPE)
        output, _ = process.communicate(timeout=STOP_SECONDS)
        return process.returncode, output.decode()

    def wait_until_up(self) -> None:
        """The table is printed."""
        assert until(self._is_up, START_SECONDS), last_lines(self.log_path)
        assert self.process.poll() is None, last_lines(self.log_path)

    def _is_up(self) -> bool:
        return self.process.poll() is not None or b"Ctrl-C ends" in self.log_path.read_bytes()

    def descendants(self) -> list[psutil.Process]:
        """Every process below the launcher."""
        return psutil.Process(self.process.pid).children(recursive=True)


@pytest.fixture
def launcher(tmp_path: Path) -> Iterator[Launcher]:
    require("postgres")
    require("mock")
    with (tmp_path / "up.log").open("wb") as log:
        started = Launcher(tmp_path / "run", log)
        try:
            started.wait_until_up()
            yield started
        finally:
            if started.process.poll() is None:
                started.process.terminate()
            started.process.wait(STOP_SECONDS)


def _described(processes: list[psutil.Process]) -> list[str]:
    """Who still lives, with state, parent and command line."""
    found = []
    for process in processes:
        if is_alive(process):
            with process.oneshot(), suppress(psutil.Error):
                command = " ".join(process.cmdline())[:200]
                found.append(f"{process.pid} {process.status()} of {process.ppid()}: {command}")
    return found


def _are_gone(processes: list[psutil.Process]) -> bool:
    return not any(is_alive(process) for process in processes)


@pytest.mark.slow
def test_a_second_start_is_refused_and_stop_leaves_nothing(launcher: Launcher) -> None:
    code, output = launcher.call("up")
    assert code == 2
    assert f"already runs (process {launcher.process.pid})" in output
    code, output = launcher.call("status")
    assert code == 0
    services = {"postgres", "kafka", "redis", "mongo", "webhook"}
    assert {"web", "worker-2", "fast-worker-2"} | services <= {
        line.split()[0] for line in output.split("\n") if line
    }
    lines = {line.split()[0]: line for line in output.split("\n") if line}
    assert re.search(r"RUNNING +pid \d+ +port \d+ +\d+ MB +\d+\.\d+", lines["postgres"])
    assert re.search(r"RUNNING +pid \d+ +port \d+ +\d+ MB +librdkafka \d", lines["kafka"])
    assert lines["worker-2"].endswith(VERSION)
    _stop_by_supervisorctl(launcher, "worker-2")
    _work_in_another_terminal(launcher.run / "env")
    family = launcher.descendants()
    assert launcher.call("stop")[0] == 0
    assert launcher.process.wait(STOP_SECONDS) == 0
    assert _are_gone(family)
    assert launcher.call("status")[0] == 3
    assert not (launcher.run / "env").exists()


def _work_in_another_terminal(env: Path) -> None:
    """As the quick start says: a shell that knows nothing but the file."""
    assert stat.S_IMODE(env.stat().st_mode) == 0o600
    typed = (
        f"source {shlex.quote(str(env))}; set -e; "
        "python manage.py migrate --check; python manage.py send search-requests '{}'; "
        'test "$DRAKKAR_CLUSTERS__FAST__KAFKA__BROKERS" = "$DRAKKAR_BROKERS"; '
        'curl -sf -H "Authorization: Bearer $DRAKKAR_TOKEN" "$DRAKKAR_URL/api/v1/dashboard"'
    )
    alone = {name: value for name, value in os.environ.items() if not name.startswith("DRAKKAR_")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{alone['PATH']}"
    done = subprocess.run(
        ["bash", "-c", typed],
        cwd=CHECKOUT,
        env={**alone, "PATH": path},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "stored as search-requests:" in done.stdout


def _stop_by_supervisorctl(launcher: Launcher, name: str) -> None:
    """As docker compose stop would: it ends, and stays down."""
    argv = [sys.executable, "-W", "ignore", "-m", "supervisor.supervisorctl"]
    argv += ["-c", str(launcher.run / "supervisord.conf")]
    done = subprocess.run([*argv, "stop", name], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (0, f"{name}: stopped\n"), done.stderr
    _, output = launcher.call("status")
    assert re.search(rf"^{name} +STOPPED ", output, re.MULTILINE)
    done = subprocess.run([*argv, "start", name], capture_output=True, text=True, timeout=60)
    assert done.stdout == f"{name}: started\n"


@pytest.mark.slow
def test_a_mock_that_ended_ends_the_demo_and_says_why(launcher: Launcher) -> None:
    _, output = launcher.call("status")
    found = re.search(r"^kafka .* pid (\d+)", output, re.MULTILINE)
    assert found is not None
    os.kill(int(found[1]), signal.SIGKILL)
    assert launcher.process.wait(STOP_SECONDS) == 1
    assert b"the mock Kafka ended, and with it its topics" in launcher.log_path.read_bytes()


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
@pytest.mark.parametrize("victim", ["launcher", "supervisord"])
def test_a_kill_leaves_nothing(launcher: Launcher, victim: str) -> None:
    family = launcher.descendants()
    supervisord = int((launcher.run / "supervisord.pid").read_text())
    pid = launcher.process.pid if victim == "launcher" else supervisord
    os.kill(pid, signal.SIGKILL)
    assert until(lambda: _are_gone(family), GONE_SECONDS), _described(family)
    launcher.process.wait(STOP_SECONDS)
    assert launcher.process.returncode == (-signal.SIGKILL if victim == "launcher" else 1)


def test_percent_and_quotes_survive_the_configuration(tmp_path: Path) -> None:
    program = Program(
        name="odd", argv=("env", "A=100% 'of' it", "true"), log_path=tmp_path / "odd.log"
    )
    parsed = RawConfigParser()
    parsed.read_string(program_section(program))
    command = parsed["program:odd"]["command"]
    assert command == "env 'A=100%% '\"'\"'of'\"'\"' it' true"
    assert parsed["program:odd"]["autorestart"] == "false"


def test_speed_never_goes_below_the_brokers_session_bound() -> None:
    values = scaled_values(20)
    assert values["DRAKKAR_CLUSTERS__MAIN__KAFKA__SESSION_TIMEOUT_MS"] == "6000"
    assert values["DRAKKAR_CLUSTERS__MAIN__EXECUTOR__TASK_TIMEOUT_SECONDS"] == "2.25"
    assert values["DRAKKAR_CLUSTERS__MAIN__EXECUTOR__ENV__RUN_RG_PAUSE_SECONDS"] == "0.01"
    assert values["DRAKKAR_CLUSTERS__MAIN__RECORDER__LOG_MIN_DURATION_MS"] == "25"
    assert values["DRAKKAR_CLUSTERS__FAST__RECORDER__LOG_MIN_DURATION_MS"] == "5"
