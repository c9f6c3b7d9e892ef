"""Taps of live tails, filled by a worker: memory broker, real processes."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from domain.live_tail import Piece, TailFacts, TailState, TailText
from tests.support.pipeline import (
    TOPIC,
    Request,
    Running,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from tests.worker.test_command_executor import on_a_loop
from workers.executor.base import Executor
from workers.handler import Message, Pending, Task
from workers.runtime.live_tails import Tap
from workers.runtime.output_follower import OutputFollower

TASK = "0:0:0"
LOOK_SECONDS = 0.05
WAIT_SECONDS = 20.0


class Watched:
    """A tap with all that it was told, looked at as the heartbeat's thread does."""

    def __init__(self, live: Running, task_id: str = TASK) -> None:
        self.tap = Tap(task_id)
        self.follower = OutputFollower(
            asyncio.get_running_loop(), live.worker.executor, lambda: live.worker.partitions
        )
        self.facts: TailFacts | None = None
        self.pieces: list[Piece] = []

    async def until(self, holds: Callable[[], bool]) -> None:
        async with asyncio.timeout(WAIT_SECONDS):
            while not holds():
                await asyncio.to_thread(self.follower.look, [self.tap])
                await asyncio.sleep(LOOK_SECONDS)
                self.take()

    def take(self) -> None:
        facts, pieces = self.tap.take()
        self.facts = facts or self.facts
        self.pieces += pieces

    def stands(self, state: TailState) -> bool:
        return self.facts is not None and self.facts.state == state

    def text(self, attempt: int = 1, stream: str = "stdout") -> str:
        shown = TailText()
        mine = [each for each in self.pieces if (each.attempt, each.stream) == (attempt, stream)]
        return "".join(found.text for each in mine if (found := shown.add(each)))


def script(text: str) -> bytes:
    return b'{"script": "' + text.encode() + b'"}'


@on_a_loop
async def test_what_a_program_prints_is_told_while_it_runs(tmp_path: Path) -> None:
    gate, cluster = tmp_path / "gate", new_cluster(1)
    async with running(cluster) as live:
        asked = f"echo early; while [ ! -e {gate} ]; do sleep 0.02; done; echo late >&2; sleep 60"
        cluster.produce(TOPIC, 0, script(asked))
        watched = Watched(live)
        await watched.until(lambda: watched.text() == "early\n")
        await watched.until(lambda: watched.facts is not None and watched.facts.pid is not None)
        facts = watched.facts
        assert facts is not None
        assert (facts.state, facts.attempt, facts.slot) == (TailState.RUNNING, 1, 0)
        assert (facts.stdout_bytes, facts.stderr_bytes) == (6, 0)
        gate.touch()
        await watched.until(lambda: watched.text(stream="stderr") == "late\n")
        await watched.until(lambda: watched.facts is not None and bool(watched.facts.rss_bytes))
        assert watched.facts is not None
        assert watched.facts.elapsed_seconds is not None
        assert watched.facts.processes is not None
        watched.follower.leave(watched.tap)


@on_a_loop
async def test_a_tail_goes_on_with_the_next_attempt(tmp_path: Path) -> None:
    marker, cluster = tmp_path / "tried", new_cluster(1)
    async with running(cluster, cluster_config(max_retries=1)) as live:
        watched = Watched(live)
        watched.follower.follow(watched.tap)
        asked = (
            f"if [ -e {marker} ]; then echo second; sleep 60; fi;"
            f" touch {marker}; echo first; sleep 0.5; exit 1"
        )
        cluster.produce(TOPIC, 0, script(asked))
        await watched.until(lambda: watched.text(1) == "first\n")
        await watched.until(lambda: watched.text(2) == "second\n")
        assert watched.facts is not None
        assert watched.facts.attempt == 2


@on_a_loop
async def test_a_task_that_waits_and_one_that_is_not_there_are_told_apart() -> None:
    cluster = new_cluster(1)
    async with running(cluster, cluster_config(max_executors=1)) as live:
        gone = Watched(live, "0:99:0")
        await gone.until(lambda: gone.stands(TailState.ABSENT))
        for _ in range(2):
            cluster.produce(TOPIC, 0, script("sleep 60"))
        waiting = Watched(live, "0:1:0")
        await waiting.until(lambda: waiting.stands(TailState.WAITING))
        assert waiting.facts is not None
        assert waiting.facts.stdout_bytes is None
        assert waiting.facts.pid is None


class OneKey(ShellHandler):
    """Gives all tasks one key."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [replace(task, key="k") for task in await super().arrange(messages, pending)]


@on_a_loop
async def test_the_key_that_a_task_waits_for_is_named() -> None:
    cluster = new_cluster(1)
    async with running(cluster, handler=OneKey({}, max_retries=0)) as live:
        for _ in range(2):
            cluster.produce(TOPIC, 0, script("sleep 60"))
        waiting = Watched(live, "0:1:0")
        await waiting.until(lambda: waiting.facts is not None and waiting.facts.detail is not None)
        assert waiting.facts is not None
        assert (waiting.facts.state, waiting.facts.detail) == (TailState.WAITING, "key k")


@on_a_loop
async def test_two_taps_of_one_task_hear_the_same_and_one_that_left_hears_no_more(
    tmp_path: Path,
) -> None:
    gate, cluster = tmp_path / "gate", new_cluster(1)
    async with running(cluster) as live:
        asked = f"echo one; while [ ! -e {gate} ]; do sleep 0.02; done; echo two; sleep 60"
        cluster.produce(TOPIC, 0, script(asked))
        stays, leaves = Watched(live), Watched(live)
        await stays.until(lambda: stays.text() == "one\n")
        await leaves.until(lambda: leaves.text() == "one\n")
        leaves.follower.leave(leaves.tap)
        await stays.until(lambda: stays.stands(TailState.RUNNING))
        gate.touch()
        await stays.until(lambda: stays.text() == "one\ntwo\n")
        leaves.take()
        assert leaves.text() == "one\n"


@on_a_loop
async def test_a_loop_that_ended_is_no_failure() -> None:
    executor: Executor
    async with running(new_cluster(1)) as live:
        executor = live.worker.executor
    loop = asyncio.new_event_loop()
    loop.close()
    follower = OutputFollower(loop, executor, dict)
    follower.look([Tap(TASK)])
    follower.leave(Tap(TASK))
