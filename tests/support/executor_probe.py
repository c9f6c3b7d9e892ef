"""``python -m tests.support.executor_probe TIER``: one executor tried out, told as JSON.

Standard library only, so that any interpreter can run it as any user.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from domain.task import Limits
from tests.support.executors import RoomyExecutor
from workers.executor.base import Exit, Launch

NAMESPACE = Path("/proc/self/ns/user").readlink().name
DAEMON = "setsid setsid sleep 641.1 >/dev/null 2>&1 & sleep 0.2; echo started"
MANY = "for n in 1 2 3 4 5 6 7 8 9; do sleep 0.5 & done; wait"


async def _run(executor: RoomyExecutor, script: str, limits: Limits | None = None) -> Exit:
    return await executor.run(
        Launch(
            task_id="0:0:0",
            argv=("/bin/sh", "-c", script),
            env={"PATH": os.defpath},
            stdin=b"",
            cwd=None,
            timeout_seconds=20.0,
            kill_grace_seconds=0.2,
            max_stdout_bytes=1 << 16,
            max_stderr_bytes=1 << 16,
            limits=limits,
        )
    )


def _is_running(marker: bytes) -> bool:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if marker in path.read_bytes():
                return True
        except OSError:
            continue
    return False


async def _seconds_until_gone(marker: bytes) -> float:
    began = time.monotonic()
    for _ in range(150):
        if not _is_running(marker):
            break
        await asyncio.sleep(0.02)
    return time.monotonic() - began


async def probe(tier: Any) -> dict[str, Any]:
    """What this user gets from this tier."""
    executor = RoomyExecutor(prefer=tier)
    await executor.start()
    try:
        user = await _run(executor, "id -u; readlink /proc/self/ns/user")
        daemon = await _run(executor, DAEMON)
        seconds = await _seconds_until_gone(b"641.1")
        limited = await _run(executor, MANY, Limits(processes=3))
        free = await _run(executor, MANY)
    finally:
        await executor.close()
    return {
        "isolation": executor.isolation,
        "user": user.stdout.decode().split(),
        "own_namespace": NAMESPACE,
        "daemon": daemon.stdout.decode().strip(),
        "daemon_seconds": seconds,
        "is_limited": limited.exit_code != 0 and b"ork" in limited.stderr,
        "is_free": free.exit_code == 0,
    }


if __name__ == "__main__":
    print(json.dumps(asyncio.run(probe(sys.argv[1]))))
