"""More launches than slots: what waits in the spawner, with real processes."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Awaitable, Callable
from itertools import pairwise
from pathlib import Path

from domain.failure import FailureKind
from tests.process.test_executor import launch, seen, sh
from tests.support.executors import UNWATCHED, Unwatched
from workers.executor.base import Exit
from workers.executor.slots import Slots
from workers.executor.spawn import SpawnExecutor


def with_slots(count: int, body: Callable[[SpawnExecutor], Awaitable[None]]) -> None:
    """Run ``body`` on a started executor with one spawner and so many slots."""

    async def scenario() -> None:
        executor = SpawnExecutor(spawners=1, slots=count, on_spawner_lost=lambda *_: None)
        await executor.start()
        try:
            async with asyncio.timeout(30):
                await body(executor)
        finally:
            await executor.close()

    asyncio.run(scenario())


class Started(Unwatched):
    """The starts of one launch: slots, and a way to await the first."""

    def __init__(self) -> None:
        self.slots: list[int | None] = []
        self.was_told = asyncio.Event()

    def started(self, slot: int | None, taken_at: float, pid: int | None) -> None:
        """See ``Watcher``."""
        self.slots.append(slot)
        self.taken_at = taken_at
        self.was_told.set()


def test_all_end_once_in_the_order_given_and_no_two_hold_a_slot_together() -> None:
    async def body(executor: SpawnExecutor) -> None:
        slots, spans = Slots(2, ahead=5), []

        async def one(number: int) -> Exit:
            turn = None
            while True:
                turn = await slots.acquire(owner=number % 3, priority=0, turn=turn)
                started = Started()
                ended = await executor.run(sh(f"echo {number}"), started)
                slots.release(number % 3, ran_seconds=0.001)
                if ended is not None:
                    (slot,) = started.slots
                    end = ended.started_at + ended.duration_seconds
                    spans.append((slot, started.taken_at, end))
                    return ended
                assert started.slots == []

        ends = await asyncio.gather(*(one(number) for number in range(80)))
        assert [end.stdout for end in ends] == [f"{n}\n".encode() for n in range(80)]
        for slot in (0, 1):
            of_slot = sorted(span[1:] for span in spans if span[0] == slot)
            assert len(of_slot) > 10
            for (_, end), (begin, _) in pairwise(of_slot):
                assert end <= begin
        assert {span[0] for span in spans} == {0, 1}

    with_slots(2, body)


def test_what_finds_no_slot_is_given_back_and_never_ran(tmp_path: Path) -> None:
    async def body(executor: SpawnExecutor) -> None:
        first, second = Started(), Started()
        long = asyncio.create_task(executor.run(launch("sleep", "651.1"), first))
        await asyncio.sleep(0)
        given_back = await executor.run(sh(f"touch {tmp_path}/ran"), second)
        assert given_back is None
        await first.was_told.wait()
        assert (first.slots, second.slots) == ([0], [])
        long.cancel()
        await asyncio.wait((long,))
        assert (await executor.run(launch("true"), UNWATCHED)) is not None

    with_slots(1, body)
    assert list(tmp_path.iterdir()) == []


def test_a_launch_cancelled_while_it_waits_never_ran(tmp_path: Path) -> None:
    async def body(executor: SpawnExecutor) -> None:
        for number in range(10):
            long = launch("sleep", "60", task_id=f"long:0:{number}")
            first = asyncio.create_task(executor.run(long, UNWATCHED))
            started = Started()
            waiting = asyncio.create_task(executor.run(sh(f"touch {tmp_path}/ran"), started))
            await asyncio.sleep(0)
            waiting.cancel()
            await asyncio.wait((waiting,))
            assert waiting.cancelled()
            assert started.slots == []
            executor.cancel(long.task_id)
            await first

    with_slots(1, body)
    assert list(tmp_path.iterdir()) == []


def test_a_recall_gives_back_what_waits_and_tells_what_runs(tmp_path: Path) -> None:
    async def body(executor: SpawnExecutor) -> None:
        told, waiting = Started(), Started()
        running = asyncio.create_task(executor.run(launch("sleep", "651.2"), told))
        ahead = asyncio.create_task(executor.run(sh(f"touch {tmp_path}/ran"), waiting))
        await asyncio.sleep(0)
        await executor.recall()
        assert told.slots == [0]
        assert await ahead is None
        assert waiting.slots == []
        assert not running.done()
        running.cancel()
        await asyncio.wait((running,))

    with_slots(1, body)


def test_a_recall_tells_what_runs_where_nothing_waits() -> None:
    """A slot that came free in the same turn looks to its task like a place ahead."""

    async def body(executor: SpawnExecutor) -> None:
        told = Started()
        running = asyncio.create_task(executor.run(launch("sleep", "651.4"), told))
        await asyncio.sleep(0)
        await executor.recall()
        assert told.slots == [0]
        running.cancel()
        await asyncio.wait((running,))

    with_slots(1, body)


def test_a_dead_spawner_loses_what_ran_and_gives_back_what_waited() -> None:
    async def body(executor: SpawnExecutor) -> None:
        told, waiting = Started(), Started()
        running = asyncio.create_task(executor.run(launch("sleep", "651.3"), told))
        await seen("651.3")
        ahead = asyncio.create_task(executor.run(launch("true"), waiting))
        os.kill(executor.spawner_pids[0], signal.SIGKILL)
        ended = await running
        assert ended is not None
        assert ended.failure is FailureKind.LOST
        assert len(told.slots) == 1
        assert await ahead is None
        assert waiting.slots == []

    with_slots(1, body)


def test_more_spawners_than_slots_are_not_started() -> None:
    async def scenario() -> None:
        executor = SpawnExecutor(spawners=5, slots=3, on_spawner_lost=lambda *_: None)
        await executor.start()
        try:
            assert len(executor.spawner_pids) == 3
            told = [Started() for _ in range(3)]
            runs = [asyncio.create_task(executor.run(launch("sleep", "1"), one)) for one in told]
            async with asyncio.timeout(10):
                for one in told:
                    await one.was_told.wait()
            assert sorted(one.slots[0] or 0 for one in told) == [0, 1, 2]
            for run in runs:
                run.cancel()
            await asyncio.wait(runs)
        finally:
            await executor.close()

    asyncio.run(scenario())
