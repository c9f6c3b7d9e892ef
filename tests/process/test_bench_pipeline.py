"""The bench of the pipeline alone: its arithmetic, and one round of each mode."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest

from integration.bench.pipeline import (
    HERE,
    Mode,
    Side,
    in_turns,
    pipeline_round,
)
from integration.bench.threads import spent_by_name, thread_seconds
from integration.bench.traffic import BenchFailed
from integration.bench.worker import CHECKOUT


def test_threads_of_one_name_count_together_and_the_busiest_is_first() -> None:
    before = {(1, "loop"): 1.0, (2, "lane-a"): 2.0, (3, "gone"): 9.0}
    after = {(2, "lane-a"): 2.25, (1, "loop"): 2.0, (4, "lane-a"): 0.125}
    assert list(spent_by_name(before, after).items()) == [("loop", 1.0), ("lane-a", 0.375)]


def test_the_main_thread_is_the_loop_and_others_have_their_own_names() -> None:
    started, ended = threading.Event(), threading.Event()

    def run() -> None:
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text("a-thread")
        started.set()
        ended.wait()

    thread = threading.Thread(target=run)
    thread.start()
    started.wait()
    found = thread_seconds(os.getpid())
    ended.set()
    thread.join()
    assert found[os.getpid(), "loop"] > 0
    assert (thread.native_id, "a-thread") in found


@pytest.mark.slow
def test_each_mode_runs_in_turns(tmp_path: Path) -> None:
    sides = [Side.prepared(HERE, CHECKOUT, tmp_path, None)]
    told: list[str] = []
    found = in_turns(sides, list(Mode), messages=100, rounds=1, tell=told.append)
    assert len(told) == len(found)
    assert list(found) == [(mode, HERE) for mode in Mode]
    for (only,), mode in zip(found.values(), Mode, strict=True):
        assert only.per_second > 0
        assert only.cpu_us["loop"] > 0
        assert only.cpu_us["postgres"] == only.history_bytes == 0
        assert (only.cpu_us["spawners"] > 0) <= (mode in (Mode.SPAWN, Mode.PERSISTENT))


def test_a_round_that_cannot_run_says_why(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    side = Side.prepared(HERE, tmp_path / "empty", tmp_path, None)
    with pytest.raises(BenchFailed, match="No module named"):
        pipeline_round(side, Mode.FAKE, 100)
