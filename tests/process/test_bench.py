"""The bench's arithmetic, its worker's configuration, and the C floor itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from drakkar_site.config.sources import load
from integration.bench.config import CLUSTER, Topics, settings, worker_environment, write_config
from integration.bench.cpu import CpuSeconds, spent_seconds, tree_usage
from integration.bench.figures import by_thread, median, percentile, ratio
from integration.bench.floor import Floor, FloorFailed, compile_floor, run_floor
from integration.bench.pipeline import PipelineRound
from integration.bench.report import Measured, Noise, floor_share, floor_spread, targets
from integration.bench.rounds import Calm, Peer, Throughput


def a_round(per_second: float, cpu_ms: float) -> Throughput:
    return Throughput(
        per_second=per_second,
        worker_cpu_ms=cpu_ms,
        program_cpu_ms=0.5,
        postgres_cpu_ms=0.1,
        kafka_cpu_ms=0.2,
        threads_us={"loop": 100.0},
        history_bytes=cpu_ms * 2000,
        start_seconds=cpu_ms * 4,
        rss_mib=90.0,
        duplicates=0,
    )


def measured(
    *, floors: list[Floor], cpu_ms: float, latencies_ms: list[float], by_hand: float = 714
) -> Measured:
    rounds = [a_round(900, 9.0), a_round(1000, cpu_ms), a_round(5000, 0.0)]
    hands = [a_round(one.per_second * by_hand / 1000, 0.5) for one in rounds]
    return Measured(
        floors=floors,
        rounds={Peer.RECORDER_OFF: rounds, Peer.RECORDER_ON: rounds, Peer.BY_HAND: hands},
        pipeline=[
            PipelineRound(per_second=per_second, cpu_us={}, history_bytes=0)
            for per_second in (1.0, 13_000.0 * 0.3 / cpu_ms, 90_000.0)
        ],
        calm=Calm(
            start_seconds=9.0,
            rss_mib=cpu_ms * 300,
            idle_cpu_ms=None,
            worker_cpu_ms=cpu_ms * 7,
            p50_ms=latencies_ms[0],
            p99_ms=latencies_ms[-1],
        ),
        noise=Noise(load_before=0.5, load_after=1.5, stolen_seconds=0.0),
    )


FLOORS = [Floor(per_second=2000, program_cpu_ms=0.5), Floor(per_second=1000, program_cpu_ms=0.5)]


def test_percentile_is_a_value_that_was_measured() -> None:
    values = [float(number) for number in range(100, 0, -1)]
    assert percentile(values, 50) == 51.0
    assert percentile(values, 99) == 100.0
    assert percentile([7.0], 99) == 7.0
    with pytest.raises(ValueError, match="no values"):
        percentile([], 50)


def test_median_ignores_one_outlier_on_each_side() -> None:
    rounds = measured(floors=[], cpu_ms=0.3, latencies_ms=[1]).rounds
    assert median(rounds[Peer.RECORDER_ON], "per_second") == 1000


def test_the_ratio_is_the_median_of_the_pairs_own_ratios() -> None:
    ours = [a_round(100, 1), a_round(300, 1), a_round(50, 1)]
    theirs = [a_round(50, 1), a_round(100, 1), a_round(100, 1)]
    assert ratio(ours, theirs, "per_second") == 2.0


def test_a_thread_that_one_round_lacks_counts_as_idle_there() -> None:
    found = by_thread([{"loop": 8, "log": 1}, {"loop": 10}, {"loop": 9, "rdk": 7}])
    assert list(found.items()) == [("loop", 9.0), ("log", 0.0), ("rdk", 0.0)]


def test_overhead_is_our_cpu_and_the_databases_over_that_of_the_programs() -> None:
    assert a_round(1000, 0.3).overhead == pytest.approx((0.3 + 0.1) / 0.5)


def test_all_targets_met() -> None:
    found = targets(measured(floors=FLOORS, cpu_ms=0.30, latencies_ms=[4.5] * 100))
    assert [target.is_met for target in found] == [True] * 13


def test_every_target_can_be_missed() -> None:
    fast = [Floor(per_second=2500, program_cpu_ms=0.5)]
    found = targets(measured(floors=fast, cpu_ms=0.41, latencies_ms=[11.1] * 100, by_hand=900))
    assert [target.is_met for target in found] == [False] * 13


def test_without_gcc_the_share_is_not_measured() -> None:
    without = measured(floors=[], cpu_ms=0.1, latencies_ms=[1.0])
    assert floor_share(without, Peer.RECORDER_ON) is None
    assert [target.is_met for target in targets(without)].count(None) == 2


def test_the_floors_spread_says_how_much_the_machine_moved() -> None:
    assert floor_spread(FLOORS) == 2.0


def test_processes_that_came_or_went_are_not_counted() -> None:
    before = {(1, 0.5): CpuSeconds(1.0, 3.0), (2, 0.5): CpuSeconds(7.0, 0.0)}
    after = {
        (1, 0.5): CpuSeconds(1.25, 3.5),
        (3, 0.5): CpuSeconds(9.0, 1.0),
        (2, 8.0): CpuSeconds(100.0, 9.0),
    }
    assert spent_seconds(before, after) == CpuSeconds(own=0.25, reaped=0.5)


def test_tree_usage_sees_a_child_and_survives_a_dead_root() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        pids = {pid for pid, _ in tree_usage(os.getpid())}
    finally:
        child.communicate()
    assert {os.getpid(), child.pid} <= pids
    assert tree_usage(child.pid) == {}


def test_the_worker_configuration_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "drakkar.yaml"
    content = settings(
        Topics.of("one"),
        brokers="127.0.0.1:9",
        database_url="postgresql://u@127.0.0.1:5432/d",
        folder=tmp_path,
    )
    write_config(path, content)
    state = load(worker_environment({"DRAKKAR_SITE__DEBUG": "true", "PATH": "/bin"}, path))
    assert state.problems == ()
    assert state.config is not None
    assert state.config.clusters[CLUSTER].kafka.topic == "one-in"
    assert state.config.site.debug is False
    assert yaml.safe_load(path.read_text()) == content


def test_no_gcc_means_no_floor(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert compile_floor(tmp_path) is None


@pytest.mark.skipif(shutil.which("gcc") is None, reason="the C floor needs gcc")
def test_the_floor_runs_and_tells_a_failing_program(tmp_path: Path) -> None:
    program = compile_floor(tmp_path)
    assert program is not None
    found = run_floor(program, "/bin/true", 20, 4)
    assert found.per_second > 0
    assert found.program_cpu_ms > 0
    with pytest.raises(FloorFailed, match="20 of 20 runs failed"):
        run_floor(program, "/bin/false", 20, 4)
