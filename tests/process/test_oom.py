"""Whom a SIGKILL is put down to: a file stands in for the kernel's count."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from domain.failure import FailureKind
from tests.support.executors import RoomyExecutor
from workers.executor.base import Exit, Launch
from workers.executor.oom import REMEMBERED_NOTES, OomWatch, kill_counter


def counted(path: Path, kills: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"low 0\nhigh 0\nmax 7\noom 9\noom_kill {kills}\noom_group_kill 0\n")
    return path


def test_each_kill_explains_one_death_and_old_ones_none(tmp_path: Path) -> None:
    path = counted(tmp_path / "memory.events", 3)
    watch = OomWatch(path)
    assert not watch.explains(), "what was counted before we began is not ours"
    counted(path, 5)
    watch.note()
    assert [watch.explains() for _ in range(3)] == [True, True, False]
    counted(path, 6)
    for _ in range(REMEMBERED_NOTES):
        watch.note()
    assert watch.explains(), "still young"
    counted(path, 7)
    for _ in range(REMEMBERED_NOTES + 1):
        watch.note()
    assert not watch.explains(), "somebody else's, long ago"


@pytest.mark.parametrize("text", [None, "", "under_oom 0\n"])
def test_where_nothing_is_counted_nothing_is_called_oom(tmp_path: Path, text: str | None) -> None:
    path = tmp_path / "memory.events"
    if text is not None:
        path.write_text(text)
    assert not OomWatch(path).explains()
    assert not OomWatch(None).explains()


@pytest.mark.parametrize(
    ("line", "file"),
    [
        ("0::/a/b", "a/b/memory.events"),
        ("0::/outside/only", "memory.events"),
        ("4:memory:/a", "memory/a/memory.oom_control"),
        ("4:cpu,memory:/outside", "memory/memory.oom_control"),
    ],
)
def test_the_counter_is_found_in_both_hierarchies(tmp_path: Path, line: str, file: str) -> None:
    groups = tmp_path / "cgroup"
    groups.write_text(f"9:name=systemd:/x\n{line}\n")
    found = counted(tmp_path / "mount" / file, 0)
    assert kill_counter(groups, tmp_path / "mount") == found
    assert kill_counter(groups, tmp_path / "none") is None
    assert kill_counter(tmp_path / "absent", tmp_path / "mount") is None


def shot(script: str, counter: Path) -> Exit:
    async def scenario() -> Exit:
        executor = RoomyExecutor(oom_counter=counter)
        await executor.start()
        try:
            return await executor.run(
                Launch(
                    task_id="0:0:0",
                    argv=("/bin/sh", "-c", script),
                    env={"PATH": "/usr/bin:/bin", "COUNTER": str(counter)},
                    stdin=b"",
                    cwd=None,
                    timeout_seconds=10,
                    kill_grace_seconds=0.2,
                    max_stdout_bytes=1000,
                    max_stderr_bytes=1000,
                    limits=None,
                )
            )
        finally:
            await executor.close()

    return asyncio.run(scenario())


def test_a_sigkill_with_a_counted_kill_is_oom_and_one_without_is_a_signal(tmp_path: Path) -> None:
    counter = counted(tmp_path / "memory.events", 1)
    counts = 'echo "oom_kill 2" > "$COUNTER"; kill -KILL $$'
    killed = shot(counts, counter)
    assert killed.failure is FailureKind.OOM
    assert killed.exit_code == -9
    assert "memory" in killed.detail
    assert shot("kill -KILL $$", counter).failure is FailureKind.SIGNAL
    counted(counter, 1)
    ended = shot('echo "oom_kill 2" > "$COUNTER"; kill -TERM $$', counter)
    assert ended.failure is FailureKind.SIGNAL, "only SIGKILL is the kernel's"
