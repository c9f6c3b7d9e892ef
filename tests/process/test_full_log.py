"""A worker whose log cannot be written any more works, and drains when it is told to."""

from __future__ import annotations

import resource
import signal

import psutil

from tests.process.conftest import MakeScene
from tests.support.worker_process import until


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
