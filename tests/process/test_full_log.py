"""A worker whose log cannot be written any more works, and drains when it is told to."""

from __future__ import annotations

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
        "from workers.runtime.listeners.log import configure; import structlog\n"
        "configure('INFO', 'json')\n"
        "for number in range(2000): structlog.get_logger().info('line', number=number)\n"
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
