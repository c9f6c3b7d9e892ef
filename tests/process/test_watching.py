"""What is heard of a program while it runs, and how it is ended, with real processes."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from domain.failure import FailureKind
from tests.process.test_executor import (
    Losses,
    Tier,
    gone,
    launch,
    on_each_tier,
    seen,
    sh,
    with_executor,
)
from tests.support.executors import RoomyExecutor
from workers.executor.base import Chunk, Exit, Signs

TAG = f"63{os.getpid()}.5"
"""Seconds that the programs of this process sleep: by that they are found."""
LAST_WORDS = f"trap 'echo saved; echo why >&2; exit 0' TERM; echo begun; sleep {TAG} & wait"
KIB = 1024


class Heard:
    """What a watcher and a follower are told of one launch, and a way to await it."""

    def __init__(self) -> None:
        self.starts: list[tuple[int | None, float, int | None]] = []
        self.progress: list[tuple[float | None, str]] = []
        self.ends: list[Exit] = []
        self.told: list[Chunk | Signs | None] = []
        self._news = asyncio.Event()

    def started(self, slot: int | None, taken_at: float, pid: int | None) -> None:
        """See ``Watcher``."""
        self.starts.append((slot, taken_at, pid))
        self._news.set()

    def progressed(self, progress: float | None, note: str) -> None:
        """See ``Watcher``."""
        self.progress.append((progress, note))
        self._news.set()

    def cut_short(self, ended: Exit) -> None:
        """See ``Watcher``."""
        self.ends.append(ended)
        self._news.set()

    def on_chunk(self, told: Chunk | Signs | None) -> None:
        """See ``OnChunk``."""
        self.told.append(told)
        self._news.set()

    async def until(self, is_enough: Callable[[], Any]) -> None:
        """Wait until it heard enough."""
        while not is_enough():
            self._news.clear()
            await self._news.wait()

    def pieces(self, stream: str = "stdout") -> list[Chunk]:
        """The pieces of one stream."""
        return [each for each in self.told if isinstance(each, Chunk) and each.stream == stream]

    def text(self, stream: str = "stdout") -> bytes:
        """What they hold together; each begins where the one before ended, or says what is left
        out."""
        end = 0
        for piece in self.pieces(stream):
            assert piece.offset == end + piece.skipped
            end = piece.offset + len(piece.data)
        return b"".join(piece.data for piece in self.pieces(stream))

    @property
    def signs(self) -> list[Signs]:
        """The signs of life."""
        return [each for each in self.told if isinstance(each, Signs)]


@on_each_tier
def test_a_cancelled_program_is_asked_to_end_and_keeps_its_last_words(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        heard = Heard()
        one = sh(LAST_WORDS, kill_grace_seconds=10.0)
        running = asyncio.create_task(executor.run(one, heard))
        await seen(TAG)
        assert executor.cancel(one.task_id)
        ended = await running
        assert (ended.failure, ended.exit_code) == (FailureKind.CANCELLED, 0)
        assert (ended.stdout, ended.stderr) == (b"begun\nsaved\n", b"why\n")
        assert ended.pid == heard.starts[0][2] is not None
        assert ended.duration_seconds < 9
        await gone(TAG, 0.5)
        assert not executor.cancel(one.task_id)

    with_executor(tier, body)


@on_each_tier
def test_a_cancelled_program_that_does_not_end_is_killed_after_its_grace(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        one = sh(f"trap '' TERM; echo deaf; sleep {TAG}; sleep {TAG}", kill_grace_seconds=0.3)
        running = asyncio.create_task(executor.run(one))
        await seen(TAG)
        began = time.monotonic()
        assert executor.cancel(one.task_id)
        ended = await running
        assert (ended.failure, ended.exit_code) == (FailureKind.CANCELLED, -signal.SIGKILL)
        assert ended.stdout == b"deaf\n"
        assert 0.25 < time.monotonic() - began < 5
        await gone(TAG, 0.5)

    with_executor(tier, body)


@on_each_tier
def test_a_run_that_is_cancelled_kills_at_once_and_tells_how_it_ended(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        heard = Heard()
        one = sh(LAST_WORDS, kill_grace_seconds=30.0)
        running = asyncio.create_task(executor.run(one, heard))
        await seen(TAG)
        executor.cancel(one.task_id)
        running.cancel()
        await asyncio.wait((running,))
        assert running.cancelled()
        await gone(TAG, 0.2)
        (ended,) = heard.ends
        assert ended.failure is FailureKind.CANCELLED
        assert ended.stdout.startswith(b"begun\n")
        assert ended.pid == heard.starts[0][2]
        assert ended.duration_seconds > 0
        assert ended.usage is not None
        assert ended.usage.max_rss_bytes > 0

    with_executor(tier, body)


@on_each_tier
def test_progress_is_told_while_it_runs_and_the_last_is_kept(tier: Tier) -> None:
    script = """
say() { echo "$1" >&"$DRAKKAR_PROGRESS_FD"; }
say '{"progress": 0.25, "note": "loading"}'; sleep 0.6
say garbage; say '{"progress": 7}'; say '{"progress": 0.5}'; sleep 0.6
say '{"progress": 1, "note": "a\\u001bb"}'
"""

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        heard = Heard()
        env = {"PATH": os.environ["PATH"], "DRAKKAR_PROGRESS_FD": "3"}
        ended = await executor.run(sh(script, env=env), heard)
        assert heard.progress == [(0.25, "loading"), (0.5, "loading")]
        assert (ended.progress, ended.note, ended.progress_invalid) == (1.0, "a\\x1bb", 2)
        assert (ended.failure, ended.stdout, ended.stderr) == (None, b"", b"")
        short = await executor.run(sh("""echo '{"progress": 0.5}' >&3"""), heard)
        assert (short.progress, short.note, short.progress_invalid) == (0.5, "", 0)
        silent = await executor.run(sh("true"), heard)
        assert (silent.progress, silent.note, silent.progress_invalid) == (None, "", 0)

    with_executor(tier, body)


@on_each_tier
@pytest.mark.parametrize("sign", ["echo x", "echo x >&2", """echo '{"progress": 0.1}' >&3"""])
def test_a_program_that_gives_no_sign_of_life_is_ended_as_stalled(tier: Tier, sign: str) -> None:
    script = f"for n in 1 2 3; do sleep 0.5; {sign}; done; trap 'echo bye; exit' TERM; sleep {TAG}"

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        stalled = sh(f"{script} & wait", stall_timeout_seconds=1.0, kill_grace_seconds=5.0)
        ended = await executor.run(stalled)
        assert ended.failure is FailureKind.STALLED
        assert ended.detail == "no output and no progress for 1 s"
        assert ended.stdout.endswith(b"bye\n")
        assert 2.4 < ended.duration_seconds < 6
        await gone(TAG, 0.5)

    with_executor(tier, body)


@on_each_tier
def test_output_is_followed_from_what_was_written_before_to_the_end(tier: Tier) -> None:
    script = "echo one; sleep 0.6; echo two; echo oops >&2; sleep 0.6; echo three; exit 3"

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        watcher, early, late = Heard(), Heard(), Heard()
        one = sh(script)
        running = asyncio.create_task(executor.run(one, watcher))
        await watcher.until(lambda: watcher.starts)
        assert executor.follow(one.task_id, early.on_chunk)
        await early.until(lambda: b"two" in early.text())
        assert executor.follow(one.task_id, late.on_chunk)
        await late.until(lambda: late.told)
        executor.unfollow(one.task_id, watcher.on_chunk)
        ended = await running
        for heard in (early, late):
            assert heard.text() == ended.stdout == b"one\ntwo\nthree\n"
            assert heard.text("stderr") == ended.stderr == b"oops\n"
            assert heard.told[-1] is None
            assert heard.told.count(None) == 1
        assert early.pieces("stderr")[0].data == b"", "nothing was written yet, and it is said"
        assert early.signs
        assert not executor.follow(one.task_id, early.on_chunk)

    with_executor(tier, body)


FLOOD = """
import os
line = b'{"progress": 0.5, "note": "' + b"x" * (1 << 20) + b'"}\\n'
while True:
    os.write(3, line)
"""


@on_each_tier
def test_a_flood_of_progress_disturbs_nobody_and_fails_nothing(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        floods = [
            asyncio.create_task(executor.run(launch(sys.executable, "-c", FLOOD))) for _ in range(4)
        ]
        slowest = 0.0
        for _number in range(40):
            began = time.monotonic()
            assert (await executor.run(launch("true"))).failure is None
            slowest = max(slowest, time.monotonic() - began)
        assert slowest < 2, "the programs wait for their pipes, and the spawner for nobody"
        executor.cancel("0:0:0")
        for flood in floods:
            flood.cancel()
        await asyncio.wait(floods)
        spawner = psutil.Process(executor.spawner_pids[0])
        family = [spawner, *spawner.children(recursive=True)]
        assert sum(each.memory_info().rss for each in family) < 200 << 20
        many = "import os\nfor n in range(300): os.write(3, b'x' * 5000 + b'\\n')"
        ended = await executor.run(launch(sys.executable, "-c", many))
        assert (ended.failure, ended.progress) == (None, None)
        assert ended.progress_invalid > 0

    with_executor(tier, body)


def test_the_examples_of_the_guide_tell_their_progress() -> None:
    guide = Path("docs/handler-guide.md").read_text().partition("## Progress of a program")[2]
    shell, python = (
        part.partition("```")[0] for part in re.split("```(?:text|python)\n", guide)[1:3]
    )

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        env = {"PATH": os.environ["PATH"], "DRAKKAR_PROGRESS_FD": "3"}
        for argv in (("sh", "-c", shell), (sys.executable, "-c", python)):
            ended = await executor.run(launch(*argv, env=env))
            assert (ended.failure, ended.stderr) == (None, b"")
            assert (ended.progress, ended.note) == (0.4, "second pass")

    with_executor("groups", body)


@on_each_tier
def test_signs_of_life_are_those_of_the_whole_group(tier: Tier) -> None:
    async def body(executor: RoomyExecutor, _: Losses) -> None:
        heard = Heard()
        one = sh(f"sleep {TAG} & sleep {TAG} & while :; do :; done")
        running = asyncio.create_task(executor.run(one, heard))
        await seen(TAG)
        executor.follow(one.task_id, heard.on_chunk)
        await heard.until(lambda: len(heard.signs) == 2)
        first, second = heard.signs
        assert second.processes == 3
        assert second.elapsed_seconds > first.elapsed_seconds + 0.7
        assert second.cpu_seconds is not None
        assert 0 < second.cpu_seconds <= second.elapsed_seconds + 0.1
        assert second.rss_bytes is not None
        assert second.rss_bytes > 100 * KIB
        executor.unfollow(one.task_id, heard.on_chunk)
        running.cancel()
        await asyncio.wait((running,))
        assert None not in heard.told

    with_executor(tier, body)


@on_each_tier
def test_a_flood_of_output_is_followed_at_a_bounded_rate_with_gaps_marked(tier: Tier) -> None:
    script = "while :; do head -c 200000 /dev/zero >&2; sleep 0.02; done"

    async def body(executor: RoomyExecutor, _: Losses) -> None:
        heard = Heard()
        one = sh(script, max_stderr_bytes=256 * KIB, timeout_seconds=3.2)
        running = asyncio.create_task(executor.run(one, heard))
        await heard.until(lambda: heard.starts)
        executor.follow(one.task_id, heard.on_chunk)
        ended = await running
        followed = len(heard.text("stderr"))
        assert 128 * KIB < followed < 64 * KIB * (ended.duration_seconds + 3)
        assert sum(piece.skipped for piece in heard.pieces("stderr")) + followed == (
            ended.stderr_size
        )

    with_executor(tier, body)
