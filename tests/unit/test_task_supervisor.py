"""Children in a worker's group: their errors end it, and it ends no sooner than they."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from workers.clock import Clock
from workers.handler import Handler
from workers.pipeline.hooks import Hooks
from workers.pipeline.task_supervisor import TaskSupervisor


class Plain(Handler[Any]):
    pass


def supervisor() -> TaskSupervisor:
    hooks = Hooks(clock=Clock(), tell=lambda _: None, timeout_seconds=None)
    return TaskSupervisor(Plain({}, max_retries=0), hooks)


async def fail() -> None:
    raise ValueError("not to be lost")


async def wait_and_clean_up(ends: list[str]) -> None:
    try:
        await asyncio.Event().wait()
    finally:
        for _ in range(3):
            await asyncio.sleep(0)
        ends.append("cleaned up")


def test_an_error_in_a_child_ends_the_group_after_the_other_children() -> None:
    ends: list[str] = []

    async def main() -> None:
        children = supervisor()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            children.open(group)
            children.start(wait_and_clean_up(ends))
            children.start(fail())

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [str(error) for error in caught.value.exceptions] == ["not to be lost"]
    assert ends == ["cleaned up"]
