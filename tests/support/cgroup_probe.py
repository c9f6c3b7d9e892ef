# ruff: noqa: ASYNC110, ASYNC240 - the files of cgroups wake nobody up, and are no disk's
"""``python -m tests.support.cgroup_probe SCENARIO MODE TIER``: an executor in a delegated cgroup.

Told as JSON.

It runs in a process of its own, for an executor moves its process.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from domain.task import Limits, Usage
from tests.support.executors import RoomyExecutor
from workers.executor.base import Exit, Launch

MIB = 1 << 20
WHERE = "sed -n 's/^0:://p' /proc/self/cgroup"
EAT = "python3 -c 'b = bytearray(160 << 20)'"


async def run(executor: RoomyExecutor, script: str, limits: Limits | None = None) -> Exit:
    return await executor.run(
        Launch(
            argv=("/bin/sh", "-c", script),
            env={"PATH": "/usr/local/bin:/usr/bin:/bin"},
            stdin=b"",
            cwd=None,
            timeout_seconds=20.0,
            kill_grace_seconds=0.2,
            max_stdout_bytes=1 << 16,
            max_stderr_bytes=1 << 16,
            limits=limits,
            task_id="",
        )
    )


def told(ended: Exit) -> dict[str, Any]:
    """What a test compares."""
    usage = ended.usage or Usage()
    return {
        "failure": ended.failure,
        "detail": ended.detail,
        "code": ended.exit_code,
        "out": ended.stdout.decode().split(),
        "err": ended.stderr.decode(),
        "cpu_seconds": usage.user_cpu_seconds + usage.system_cpu_seconds,
        "peak_bytes": usage.max_rss_bytes,
        "seconds": ended.duration_seconds,
    }


async def bounds(executor: RoomyExecutor) -> dict[str, Any]:
    """Each bound, on a tree of processes."""
    limits = Limits(memory_bytes=96 * MIB)
    return {
        "inside": told(await run(executor, f"{WHERE}; ulimit -v; ulimit -t", Limits(
            memory_bytes=96 * MIB, processes=9, cpu_seconds=7))),
        "without": told(await run(executor, WHERE)),
        "memory": told(await run(executor, f"{EAT}; echo survived", limits)),
        "two_halves": told(await run(executor, "for n in 1 2; do "
            "python3 -c 'b = bytearray(60 << 20); import time; time.sleep(3)' & done; wait",
            limits)),
        "too_little": told(await run(executor, ":", Limits(memory_bytes=4096))),
        "processes": told(await run(executor, "for n in 1 2 3 4; do sleep 1 & done; wait",
            Limits(processes=3))),
        "cpu": told(await run(executor, "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done",
            Limits(cpu_quota=0.25))),
        "above": str(executor.cgroups),
    }  # fmt: skip


async def tree(executor: RoomyExecutor) -> dict[str, Any]:
    """Account and end of a tree that left its group; every task has a cgroup here."""
    spin = "i=0; while [ $i -lt 60000 ]; do i=$((i+1)); done"
    marker = f"622.{os.getpid()}"
    daemon = f"setsid sleep {marker} </dev/null >/dev/null 2>&1 & sleep 0.2; echo up"
    alone = told(await run(executor, spin))
    aside = f"d=$(mktemp); setsid sh -c '{spin}; rm $0' $d & while [ -e $d ]; do sleep 0.05; done"
    hidden = told(await run(executor, aside))
    ended = told(await run(executor, daemon))
    began = time.monotonic()
    while (left := running(marker.encode())) and time.monotonic() - began < 0.1:
        await asyncio.sleep(0.005)
    return {"alone": alone, "hidden": hidden, "daemon": ended, "left": left}


async def hands_off(executor: RoomyExecutor) -> dict[str, Any]:
    """A task that writes to its own cgroup."""
    folder = os.environ["PROBED_MOUNT"]
    write = f"{WHERE}; echo 5 > {folder}$({WHERE})/cgroup.max.depth"
    return {"written": told(await run(executor, write)), "isolation": executor.isolation}


async def lost_spawner(executor: RoomyExecutor) -> dict[str, Any]:
    """A spawner is killed with a task in a cgroup."""
    running_task = asyncio.create_task(run(executor, "sleep 50"))
    folder = Path(os.environ["PROBED_MOUNT"] + os.environ["PROBED_BASE"])
    while not (made := [path.name for path in folder.glob("drakkar-tasks-*/*-*")]):
        await asyncio.sleep(0.01)
    os.kill(executor.spawner_pids[0], 9)
    ended = await running_task
    after = await run(executor, "echo again")
    began = time.monotonic()
    while names := [path.name for path in folder.glob("drakkar-tasks-*/*-*")]:
        if time.monotonic() - began > 5.0:
            break
        await asyncio.sleep(0.02)
    return {"made": made, "ended": told(ended), "after": told(after), "names": names}


async def dies(executor: RoomyExecutor) -> dict[str, Any]:
    """The worker is killed in the midst of a task."""
    marker = f"622.{os.getpid()}"
    task = asyncio.create_task(run(executor, f"setsid sleep {marker} & sleep 50"))
    while not running(marker.encode()):
        await asyncio.sleep(0.01)
    os.kill(os.getpid(), 9)
    return told(await task)


async def waits(executor: RoomyExecutor) -> dict[str, Any]:
    """A task runs until the test says so."""
    release = Path(f"/tmp/drakkar-probe-{os.getpid()}")
    release.touch()
    task = asyncio.create_task(
        run(executor, f"while [ -e {release} ]; do sleep 0.02; done; echo whole")
    )
    folder = Path(os.environ["PROBED_MOUNT"] + os.environ["PROBED_BASE"])
    while not list(folder.glob("drakkar-tasks-*/*-*")):
        await asyncio.sleep(0.01)
    print("up", flush=True)
    await asyncio.to_thread(sys.stdin.readline)
    release.unlink()
    return {"ended": told(await task)}


def running(marker: bytes) -> bool:
    """Whether a process with this on its command line lives."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_bytes():
                return True
        except OSError:
            continue
    return False


SCENARIOS: dict[str, Callable[[RoomyExecutor], Awaitable[dict[str, Any]]]] = {
    each.__name__: each for each in (bounds, tree, hands_off, lost_spawner, dies, waits)
}


async def main(name: str, mode: Any, tier: Any) -> dict[str, Any]:
    executor = RoomyExecutor(cgroups=mode, prefer=tier)
    await executor.start()
    try:
        found = await SCENARIOS[name](executor)
    finally:
        await executor.close()
    return {"tier": executor.cgroups, "launcher": executor.launcher, **found}


if __name__ == "__main__":
    print(json.dumps(asyncio.run(main(*sys.argv[1:]))))
