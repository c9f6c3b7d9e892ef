"""Cgroups of tasks on this machine's own kernel, delegated as systemd does it.

Bounds need the controllers of cgroup v2: where version 1 holds them those tests say so and are
passed over.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.process.test_executor import Tier, on_each_tier
from tests.support import cgroups
from tests.support.cgroup_probe import MIB, running
from tests.support.services import require
from workers.executor.cgroups import TASKS_PREFIX, WORKER_LEAF


@pytest.fixture
def base() -> Iterator[Path]:
    """A delegated cgroup."""
    require("cgroups")
    mount = cgroups.top()[0]
    assert mount is not None
    with cgroups.delegated(mount) as made:
        yield made


@pytest.fixture
def bounded(base: Path) -> Path:
    """A delegated cgroup to which the controllers were handed down."""
    require("cgroup_controllers")
    for name in ("memory", "pids", "cpu"):
        (base.parent / "cgroup.subtree_control").write_text(f"+{name}")
    return base


def probed(base: Path, scenario: str, mode: str, tier: Tier) -> dict[str, Any]:
    done = cgroups.probe(base, scenario, mode, tier)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    assert found["tier"].startswith("tasks")
    return found


@on_each_tier
def test_a_task_is_bounded_with_all_its_processes(bounded: Path, tier: Tier) -> None:
    found = probed(bounded, "bounds", "limited", tier)
    assert found["above"] == "tasks: memory, pids, cpu"
    where, memory, cpu = found["inside"]["out"]
    assert f"/{TASKS_PREFIX}" in where
    assert (memory, cpu) == ("unlimited", "7"), "its memory is bounded by its cgroup only"
    assert found["without"]["out"][0].endswith(f"/{WORKER_LEAF}"), "it asked for no bound"
    for name in ("memory", "two_halves"):
        ended = found[name]
        assert (ended["failure"], ended["code"]) == ("oom", -signal.SIGKILL), name
        assert f"{96 * MIB:,} bytes" in ended["detail"]
        assert ended["out"] == [], "all of the tree is killed, the shell too"
        assert 90 * MIB < ended["peak_bytes"] <= 96 * MIB
    assert found["too_little"]["failure"] in ("spawn", "oom")
    assert "memory_bytes" in found["too_little"]["detail"]
    assert found["processes"]["failure"] == "exit"
    assert "ork" in found["processes"]["err"]
    slowed = found["cpu"]
    assert slowed["failure"] is None
    assert slowed["cpu_seconds"] < 0.5 * slowed["seconds"]


@on_each_tier
def test_what_left_its_group_is_counted_and_ends_with_its_task(base: Path, tier: Tier) -> None:
    found = probed(base, "tree", "all", tier)
    assert found["hidden"]["failure"] is None
    # What is not counted is nothing at all, and times so short differ much from run to run.
    assert found["hidden"]["cpu_seconds"] > 0.3 * found["alone"]["cpu_seconds"]
    assert found["daemon"]["out"] == ["up"]
    assert not found["left"], "it is dead at once, and not a quarter of a second later by its mark"
    assert not list(base.glob(f"{TASKS_PREFIX}*")), "nothing is left of the executor"


@on_each_tier
def test_a_task_may_not_change_its_own_bounds(base: Path, tier: Tier) -> None:
    found = probed(base, "hands_off", "all", tier)
    assert found["isolation"] == tier
    if tier == "pid_namespace":
        assert "Read-only" in found["written"]["err"]
    else:  # Said in docs/security.md.
        assert found["written"]["failure"] is None


@on_each_tier
def test_a_dead_spawner_leaves_no_cgroup(base: Path, tier: Tier) -> None:
    found = probed(base, "lost_spawner", "all", tier)
    assert len(found["made"]) == 1
    assert found["ended"]["failure"] == "lost"
    assert found["after"]["out"] == ["again"]
    assert found["names"] == []


@on_each_tier
def test_what_a_dead_worker_left_is_removed_by_the_next_one(base: Path, tier: Tier) -> None:
    died = cgroups.started(base, "dies", "all", tier)
    died.communicate(timeout=30)
    assert died.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 5.0
    while running(f"622.{died.pid}".encode()):
        assert time.monotonic() < deadline
        time.sleep(0.02)
    (left,) = base.glob(f"{TASKS_PREFIX}*")
    foreign = base / "drakkar-other"
    foreign.mkdir()
    probed(base, "hands_off", "all", tier)
    assert not left.exists()
    assert foreign.exists(), "only ours"


def test_a_worker_that_lives_keeps_its_cgroups(base: Path) -> None:
    """Another worker of the same base starts and ends meanwhile."""
    first = cgroups.started(base, "waits", "all", "groups")
    assert first.stdout is not None
    assert first.stdin is not None
    assert first.stdout.readline() == "up\n"
    (kept,) = base.glob(f"{TASKS_PREFIX}*")
    probed(base, "hands_off", "all", "groups")
    assert kept.exists()
    out, errors = first.communicate("go\n", timeout=30)
    assert first.returncode == 0, errors
    assert json.loads(out)["ended"]["out"] == ["whole"]


def test_nothing_is_taken_that_was_not_given(base: Path) -> None:
    inner = base / "not-given"
    inner.mkdir()
    (inner / "deeper").mkdir()
    done = cgroups.probe(inner / "deeper", "tree", "all", "groups")
    assert done.returncode == 0, done.stderr
    tier = json.loads(done.stdout)["tier"]
    assert tier.startswith("none: ")
    assert tier.endswith("is not delegated to the worker")
    assert not list(base.rglob("drakkar-*"))
