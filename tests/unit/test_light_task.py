"""What of a light task its trace does not show: turns of the loop, its interface, its errors."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Coroutine
from typing import Any

import anyio
import pytest

from workers.light_task import STEPS_A_TURN, LightFuture, LightTask, LightTasks


def in_loop(test: Callable[[LightTasks], Coroutine[Any, Any, None]]) -> Callable[[], None]:
    def run() -> None:
        async def main() -> None:
            await test(LightTasks(asyncio.get_running_loop()))

        asyncio.run(main())

    run.__name__ = test.__name__
    return run


async def wait_for(future: asyncio.Future[Any]) -> Any:
    return await future


@in_loop
async def test_what_a_callback_wakes_goes_on_in_the_same_turn(tasks: LightTasks) -> None:
    first: LightFuture[str] = LightFuture()
    second: LightFuture[str] = LightFuture()

    async def relay() -> None:
        second.set_result(await first)

    relayed, ended = tasks.create_task(relay()), tasks.create_task(wait_for(second))
    await asyncio.sleep(0)
    asyncio.get_running_loop().call_soon(tasks.call, first.set_result, "through both")
    asyncio.get_running_loop().call_soon(lambda: seen.append((relayed.done(), ended.done())))
    seen: list[tuple[bool, bool]] = []
    await asyncio.sleep(0)
    assert seen == [(True, True)]
    assert ended.result() == "through both"


@in_loop
async def test_a_task_first_runs_when_its_creator_waits(tasks: LightTasks) -> None:
    ran: list[str] = []

    async def say() -> None:
        ran.append("task")

    tasks.create_task(say())
    ran.append("creator")
    await asyncio.sleep(0)
    assert ran == ["creator", "task"]


@in_loop
async def test_sockets_and_timers_are_served_between_many_steps(
    tasks: LightTasks,
) -> None:
    steps = 0
    is_stopped = False

    async def wake_each_other() -> None:
        nonlocal steps
        while not is_stopped:
            steps += 1
            again: LightFuture[None] = LightFuture()
            tasks.create_task(give(again))
            await again

    async def give(future: LightFuture[None]) -> None:
        future.set_result(None)

    endless = tasks.create_task(wake_each_other())
    await asyncio.sleep(0)
    assert 0 < steps <= STEPS_A_TURN
    is_stopped = True
    await endless


def test_an_exit_leaves_the_other_tasks_their_steps() -> None:
    async def interrupt() -> None:
        raise KeyboardInterrupt

    async def main(tasks: LightTasks) -> None:
        interrupted.append(tasks.create_task(interrupt()))
        interrupted.append(tasks.create_task(asyncio.sleep(0, "went on")))
        await asyncio.sleep(0)

    interrupted: list[LightTask[Any]] = []
    loop = asyncio.new_event_loop()
    with pytest.raises(KeyboardInterrupt):
        loop.run_until_complete(main(LightTasks(loop)))
    exit_, other = interrupted
    assert isinstance(exit_.exception(), KeyboardInterrupt)
    assert loop.run_until_complete(other) == "went on"
    loop.close()


@in_loop
async def test_its_end_is_told_in_its_last_step_and_no_task_is_current_then(
    tasks: LightTasks,
) -> None:
    ends: list[tuple[LightTask[Any], bool, Any]] = []

    def note(task: LightTask[Any]) -> None:
        ends.append((task, task.cancelled(), asyncio.current_task()))

    well = tasks.create_task(asyncio.sleep(0), ended=note)
    cancelled = tasks.create_task(wait_for(LightFuture()), ended=note)
    tasks.create_task(wait_for(well)).add_done_callback(lambda _: cancelled.cancel())
    await asyncio.wait({well, cancelled})
    assert ends == [(well, False, None), (cancelled, True, None)]


@in_loop
async def test_all_tasks_has_what_waits_for_more_than_light_futures(
    tasks: LightTasks,
) -> None:
    light = tasks.create_task(wait_for(LightFuture()))
    other = tasks.create_task(asyncio.sleep(60))
    other.set_name("sleeper")
    await asyncio.sleep(0)
    assert {task.get_name() for task in asyncio.all_tasks()} >= {"sleeper"}
    assert light.get_name() not in {task.get_name() for task in asyncio.all_tasks()}
    for task in (light, other):
        (frame,) = task.get_stack()
        assert frame is getattr(task.get_coro(), "cr_frame", None)
        task.cancel()
    await asyncio.wait({light, other})
    assert light.get_stack() == other.get_stack() == []
    assert light.cancel() is False


@in_loop
async def test_it_can_be_named(tasks: LightTasks) -> None:
    task = tasks.create_task(asyncio.sleep(0))
    assert task.get_name().startswith("LightTask-")
    task.set_name("collect")
    assert task.get_name() == "collect"
    await task


@in_loop
async def test_only_its_coroutine_ends_it(tasks: LightTasks) -> None:
    task = tasks.create_task(asyncio.sleep(0))
    with pytest.raises(RuntimeError, match="set_result"):
        task.set_result(None)
    with pytest.raises(RuntimeError, match="set_exception"):
        task.set_exception(ValueError())
    await task


@in_loop
async def test_a_future_of_another_loop_is_refused(tasks: LightTasks) -> None:
    other = asyncio.new_event_loop()
    task = tasks.create_task(wait_for(other.create_future()))
    with pytest.raises(RuntimeError, match="cannot await"):
        await task
    other.close()


@in_loop
async def test_an_error_that_nobody_asks_for_reaches_the_loops_handler(tasks: LightTasks) -> None:
    async def fail() -> None:
        raise ValueError("nobody asks")

    said: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda _, context: said.append(context))
    tasks.create_task(fail())
    await asyncio.sleep(0)
    gc.collect()
    assert [str(context["exception"]) for context in said] == ["nobody asks"]


@in_loop
async def test_a_task_and_a_light_task_may_wait_for_one_future(tasks: LightTasks) -> None:
    future: LightFuture[str] = LightFuture()
    waiting = [
        tasks.create_task(wait_for(future)),
        tasks.create_task(wait_for(future)),
        asyncio.create_task(wait_for(future)),
    ]
    await asyncio.sleep(0)
    future.set_result("all")
    assert await asyncio.gather(*waiting) == ["all"] * 3


@in_loop
async def test_a_deadline_of_anyio_holds_in_it(tasks: LightTasks) -> None:
    """Clients built on it (httpx) are what hooks call."""

    async def call() -> bool:
        with anyio.move_on_after(0.01) as scope:
            await asyncio.sleep(30)
        return scope.cancelled_caught

    async with asyncio.timeout(10):
        assert await tasks.create_task(call())
