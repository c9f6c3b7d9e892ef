"""A worker whose log cannot be written any more works, and drains when it is told to."""

from __future__ import annotations

import os
import resource
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.process.conftest import MakeScene
from tests.support.worker_process import CHECKOUT, until


def test_a_worker_whose_log_is_full_delivers_and_drains(make_scene: MakeScene) -> None:
    scene = make_scene()
    worker = scene.worker().ready()
    size = len(worker.log.encode())
    # From here on the kernel refuses each write that would make the log longer.
    psutil.Process(worker.process.pid).rlimit(resource.RLIMIT_FSIZE, (size, size))
    scene.produce("echo one", "exit 3", "echo two")
    until(lambda: scene.committed() == 3, "all three committed")
    assert worker.metric("drakkar_log_lost_lines_total") >= 1
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert len(scene.read()) == 2
    assert len(worker.log.encode()) == size


def test_what_was_written_last_comes_out_at_an_ordinary_end_of_the_process() -> None:
    program = (
        "from workers.runtime.listeners.log import configure, log\n"
        "configure('INFO', 'json')\n"
        "for number in range(2000): log.info('line', number=number)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, capture_output=True, timeout=60, check=True
    )
    assert done.stderr.count(b"\n") == 2000


def test_a_worker_without_standard_streams_gives_their_numbers_to_nobody(
    make_scene: MakeScene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene, start = make_scene(), subprocess.Popen

    def without_streams(argv: list[str], **options: Any) -> subprocess.Popen[bytes]:
        closing = ["/bin/sh", "-c", 'exec "$@" <&- >&- 2>&-', "sh", *argv]
        return start(closing, cwd=options["cwd"], env=options["env"])

    with monkeypatch.context() as patch:
        patch.setattr(subprocess, "Popen", without_streams)
        worker = scene.worker().ready()
    scene.produce("echo one; echo two >&2")
    until(lambda: scene.committed() == 1, "committed")
    streams = [Path(f"/proc/{worker.process.pid}/fd/{number}").readlink() for number in range(3)]
    assert streams == [Path("/dev/null")] * 3
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0


def test_a_worker_without_a_descriptor_to_spare_works_and_drains(make_scene: MakeScene) -> None:
    scene = make_scene()
    worker = scene.worker().ready()
    scene.produce("echo one")
    until(lambda: scene.committed() == 1, "the first committed")
    process = psutil.Process(worker.process.pid)
    before = process.rlimit(resource.RLIMIT_NOFILE)
    process.rlimit(resource.RLIMIT_NOFILE, (process.num_fds(), before[1]))
    scene.produce("sleep 1", "echo two")
    until(lambda: scene.committed() == 3, "all three committed")
    process.rlimit(resource.RLIMIT_NOFILE, before)
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert len(scene.read()) == 3


FORKS = """
import os, sys, threading
from workers.runtime.listeners.streams import queue_standard_streams
queue_standard_streams()
stream = sys.stderr
held, may_end = threading.Event(), threading.Event()
def hold():
    with stream._changed:
        held.set()
        may_end.wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
pid = os.fork()
if not pid:
    print("child", file=sys.stderr, flush=True)
    os._exit(7)
_, status = os.waitpid(pid, 0)
may_end.set()
print("ended with", os.waitstatus_to_exitcode(status), file=sys.stderr)
"""


def test_a_child_that_a_handler_forks_writes_and_waits_for_no_lock_of_its_parent() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", FORKS],
        cwd=CHECKOUT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        try:
            _, told = parent.communicate(timeout=30)
        finally:
            if parent.poll() is None:
                os.killpg(parent.pid, signal.SIGKILL)
    assert told == "child\nended with 7\n"
