"""Light tasks beside a worker's group: their errors end it, and it ends no sooner than they."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from workers.clock import Clock
from workers.handler import Handler
from workers.light_task import LightFuture, LightTask
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
        await LightFuture()
    finally:
        for _ in range(3):
            await asyncio.sleep(0)
        ends.append("cleaned up")


def test_an_error_in_a_light_task_ends_the_group_after_the_other_light_tasks() -> None:
    ends: list[str] = []

    def note(task: LightTask[None]) -> None:
        ends.append("cancelled" if task.cancelled() else "failed")

    async def main() -> None:
        children = supervisor()
        async with asyncio.timeout(10), asyncio.TaskGroup() as group:
            children.open(group)
            group.create_task(children.raise_failure())
            group.create_task(children.end_light_tasks())
            await asyncio.sleep(0)
            children.start(wait_and_clean_up(ends), note)
            children.start(fail(), note)

    with pytest.raises(ExceptionGroup) as caught:
        asyncio.run(main())
    assert [str(error) for error in caught.value.exceptions] == ["not to be lost"]
    assert ends == ["failed", "cleaned up", "cancelled"]
