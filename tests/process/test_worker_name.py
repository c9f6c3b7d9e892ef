"""Two real workers that want one name."""

from __future__ import annotations

import signal
import time

import pytest

from tests.support.worker_process import Scene, until

AT_ONCE_SECONDS = 6.0
"""Less than three beats on top of what a start takes."""


@pytest.mark.slow
def test_a_live_name_is_refused_and_the_holder_goes_on(scene: Scene) -> None:
    first = scene.worker("twin").ready()
    second = scene.worker("twin")
    assert second.exit_code() == 2
    said = f"--name: 'twin' of cluster 'p' is alive: process {first.process.pid} on "
    assert said in second.log
    assert "Stop it first, or choose another name (--name or WORKER_ID)" in second.log
    scene.produce("echo still mine")
    assert [one.value() for one in scene.results(1)] == [b"still mine\n"]
    first.signal(signal.SIGTERM)
    assert first.exit_code() == 0


def test_a_killed_workers_name_is_free_at_once(scene: Scene) -> None:
    first = scene.worker("heir").ready()
    first.process.kill()
    first.process.wait()
    second = scene.worker("heir")
    began = time.monotonic()
    second.logged("joined")
    assert time.monotonic() - began < AT_ONCE_SECONDS
    assert "waiting for its end" not in second.log


def test_a_signal_ends_the_wait_for_a_name(scene: Scene) -> None:
    scene.worker("busy").ready()
    second = scene.worker("busy")
    until(lambda: "waiting for its end" in second.log, "the wait for the name")
    second.signal(signal.SIGTERM)
    assert second.exit_code() == 0
