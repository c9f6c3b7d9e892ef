"""No more letters are on their way than may come before it is a flood, and nobody waits for
himself."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from domain.flood import MOST_IN_A_ROW, WINDOW, FloodWatch
from domain.message import Message
from workers.pipeline.deliveries import LetterGate
from workers.pipeline.life_cycle import Batch, LiveMessage, LiveTask


def message(offset: int) -> LiveMessage:
    record: Message[None] = Message(
        topic="t", partition=0, offset=offset, key=None, value=b"", headers=[], timestamp=0,
        payload=None,
    )  # fmt: skip
    return LiveMessage(record=record, handed_at=0.0, size_bytes=1)


class Scene:
    """A gate, those who asked to pass, and a loop that turns until nothing moves."""

    def __init__(self) -> None:
        self.flood = FloodWatch()
        self.followers: dict[LiveTask, list[LiveTask]] = {}
        self.gate = LetterGate(self.flood, lambda live: self.followers.get(live, []))
        self.asked: dict[int, asyncio.Task[None]] = {}

    async def ask(self, *messages: LiveMessage) -> bool:
        task = asyncio.create_task(self.gate.admit(messages))
        self.asked[messages[0].record.offset] = task
        await self.turn()
        return task.done()

    async def turn(self) -> None:
        for _ in range(3):
            await asyncio.sleep(0)

    async def dead(self, offset: int) -> None:
        self.flood.add(True)
        self.gate.settled(offset)
        await self.turn()


def run(scenario: Coroutine[Any, Any, None]) -> None:
    asyncio.run(scenario)


def test_as_many_pass_as_may_come_and_the_next_with_each_that_was_none() -> None:
    async def scenario() -> None:
        scene = Scene()
        passed = [await scene.ask(message(n)) for n in range(MOST_IN_A_ROW + 2)]
        assert passed == [True] * MOST_IN_A_ROW + [False] * 2
        await scene.dead(0)
        assert not scene.asked[MOST_IN_A_ROW].done(), "the room went with the place"
        scene.flood.add(False)
        scene.gate.settled(1)
        await scene.turn()
        assert scene.asked[MOST_IN_A_ROW].done()

    run(scenario())


def test_one_that_must_end_with_another_passes_with_it() -> None:
    async def scenario() -> None:
        scene = Scene()
        for _ in range(MOST_IN_A_ROW - 1):
            scene.flood.add(True)
        one, two, three, four = (message(n) for n in range(4))
        one.batch = two.batch = Batch(messages=[one, two], open=2)
        assert await scene.ask(one)
        assert await scene.ask(two), "the batch ends with both"
        assert not await scene.ask(three, four)

    run(scenario())


def test_several_at_once_pass_where_nobody_else_is_on_the_way() -> None:
    async def scenario() -> None:
        scene = Scene()
        assert await scene.ask(*(message(n) for n in range(2 * MOST_IN_A_ROW)))

    run(scenario())


def test_a_shut_gate_opens_for_an_operator_only() -> None:
    async def scenario() -> None:
        scene = Scene()
        scene.gate.shut()
        assert not await scene.ask(message(1))
        await scene.dead(7)
        assert not scene.asked[1].done()
        scene.gate.open()
        await scene.turn()
        assert scene.asked[1].done()

    run(scenario())


def test_at_the_end_what_is_finished_passes_and_the_rest_is_left() -> None:
    async def scenario() -> None:
        scene = Scene()
        scene.gate.shut()
        await scene.ask(message(1))
        await scene.ask(message(2))
        scene.gate.end({2})
        await scene.turn()
        assert scene.asked[1].cancelled()
        assert scene.asked[2].done()
        assert not scene.asked[2].cancelled()
        assert await scene.ask(message(3)), "what ends late is out by its own right"

    run(scenario())


def test_the_room_ends_where_either_rule_does() -> None:
    flood = FloodWatch()
    assert flood.room == MOST_IN_A_ROW
    for n in range(WINDOW):
        flood.add(n % 2 == 0)
    assert flood.room == 1
    assert flood.add(True) is None, "the window lost one of the dead, too"
    flood.add(True)
    assert flood.room == MOST_IN_A_ROW
