"""A real worker's ends: drained, killed by a second signal, by SIGKILL, by its last resort."""

from __future__ import annotations

import signal
import time

import pytest

from tests.process.conftest import MakeScene
from tests.support.worker_process import Scene, delivery_ids, tagged, until

BEHIND_THE_HEAD = 250
OUTLIVED_SECONDS = 2.0


@pytest.mark.slow
def test_sigterm_drains(scene: Scene) -> None:
    worker = scene.worker().ready()
    scene.produce(*(f"sleep 0.7; echo {n}" for n in range(8)))
    worker.busy(2)
    family = worker.family()
    worker.signal(signal.SIGTERM)
    assert worker.exit_code() == 0
    assert family.orphans(0.5) == []
    done = scene.read()
    assert 2 <= len(done) < 8, "what ran is delivered, what waited is left to the next owner"
    assert scene.committed() == len(done)

    scene.worker("w2").ready()
    everything = scene.results(8)
    assert sorted(int(one.value() or b"") for one in everything) == list(range(8))
    assert len(set(delivery_ids(everything))) == 8


def test_sigint_is_the_same_as_sigterm(scene: Scene) -> None:
    worker = scene.worker().ready()
    scene.produce("sleep 0.5; echo done")
    worker.busy(1)
    worker.signal(signal.SIGINT)
    assert worker.exit_code() == 0
    assert [one.value() for one in scene.read()] == [b"done\n"]
    assert scene.committed() == 1


def test_a_second_signal_kills_at_once(scene: Scene) -> None:
    worker = scene.worker().ready()
    scene.produce("sleep 621.1")
    worker.busy(1)
    worker.signal(signal.SIGTERM)
    worker.logged("draining")
    began = time.monotonic()
    worker.signal(signal.SIGTERM)
    assert worker.exit_code(5) == 1
    assert time.monotonic() - began < 3.5
    assert tagged("621.1") == []
    assert scene.read() == []
    assert scene.committed() <= 0, "at most the owner's word, at the first offset"


def test_past_the_deadline_groups_are_killed_and_nothing_of_theirs_is_committed(
    make_scene: MakeScene,
) -> None:
    scene = make_scene(cluster={"drain_timeout_seconds": 1})
    worker = scene.worker().ready()
    scene.produce("trap '' TERM; sleep 622.2 & sleep 622.2; echo late")
    worker.busy(1)
    worker.signal(signal.SIGTERM)
    assert worker.exit_code(10) == 1
    assert tagged("622.2") == []
    assert scene.read() == []
    assert scene.committed() <= 0, "at most the owner's word, at the first offset"


def test_the_last_resort_ends_a_worker_whose_loop_hangs(make_scene: MakeScene) -> None:
    scene = make_scene(
        cluster={
            "drain_timeout_seconds": 1,
            "handler": "tests.support.worker_process:HangingHandler",
        }
    )
    worker = scene.worker().ready()
    scene.produce("sleep 623.3")
    worker.busy(1)
    family = worker.family()
    worker.signal(signal.SIGTERM)
    assert worker.exit_code(15) == 1
    assert "ending the process" in worker.log
    assert family.orphans(OUTLIVED_SECONDS) == []


@pytest.mark.slow
def test_sigkill_leaves_nothing_and_the_next_worker_finishes_with_equal_ids(scene: Scene) -> None:
    worker = scene.worker().ready()
    hidden = "setsid setsid sleep 624.4 >/dev/null 2>&1 & "
    scene.produce("echo 0", f"{hidden}sleep 1; echo 1", "sleep 1; echo 2", "echo 3")
    worker.busy(2)
    until(lambda: tagged("624.4"), "the daemon of a task")
    first = scene.results(1)
    family = worker.family()
    worker.signal(signal.SIGKILL)
    assert worker.exit_code() == -signal.SIGKILL
    assert family.orphans(OUTLIVED_SECONDS) == []
    assert tagged("624.4") == []

    scene.worker("w2").ready()
    until(lambda: scene.committed() == 4, "everything committed")
    found = scene.read()
    assert {int(one.value() or b"") for one in found} == {0, 1, 2, 3}
    ids = delivery_ids(found)
    assert len(set(ids)) == 4, "a message run again has the id it had"
    assert set(delivery_ids(first)) <= set(ids)


@pytest.mark.slow
def test_sigkill_behind_a_slow_head_has_nothing_done_again(make_scene: MakeScene) -> None:
    scene = make_scene(executor={"max_executors": 8})
    worker = scene.worker().ready()
    scene.produce("sleep 625.5", *(f"echo {n}" for n in range(1, BEHIND_THE_HEAD + 1)))
    scene.results(BEHIND_THE_HEAD)
    until(lambda: scene.settled() == ((1, BEHIND_THE_HEAD),), "the group knows what is done")
    assert scene.committed() == 0
    worker.signal(signal.SIGKILL)
    assert worker.exit_code() == -signal.SIGKILL
    until(lambda: tagged("625.5") == [], "the slow program is gone")

    heir = scene.worker("w2").ready()
    heir.busy(1)
    scene.produce("echo last")
    scene.results(BEHIND_THE_HEAD + 1)
    found = [one.value() or b"" for one in scene.read()]
    assert sorted(found) == sorted(
        f"{n}\n".encode() for n in (*range(1, BEHIND_THE_HEAD + 1), "last")
    )
