"""A light task does what an ``asyncio.Task`` does: programs of both kinds leave the same trace."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Coroutine, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import Any

from hypothesis import example, given
from hypothesis import strategies as st

from workers.light_task import LightFuture, LightTasks

FUTURES = range(3)
TURNS_TO_SETTLE = 25
"""More turns of the loop than any program needs to come to rest."""

Step = tuple[Any, ...]
seen: ContextVar[int] = ContextVar("seen", default=0)
branch: ContextVar[str] = ContextVar("branch", default="")
"""Which of the programs beside each other this is: in what order they go on, nobody promises."""


class Boom(Exception):
    """An error of a program's own."""


@dataclass
class Run:
    """One run of a program, in a task of one kind."""

    create_task: Callable[[Coroutine[Any, Any, Any]], Any]
    own: Sequence[asyncio.Future[Any]]
    plain: Sequence[asyncio.Future[Any]]
    traces: defaultdict[str, list[Any]] = field(default_factory=lambda: defaultdict(list))
    task: Any = None

    async def program(self, steps: Sequence[Step], path: str = "") -> str:
        for number, (name, *arguments) in enumerate(steps):
            here = f"{path}/{number}:{name}"
            self.say(here)
            self.say(here, await getattr(self, name)(here, *arguments))
        return f"end of {path or 'all'}"

    async def beside(self, steps: Sequence[Step], path: str) -> str:
        branch.set(path)
        return await self.program(steps, path)

    def say(self, *what: Any) -> None:
        self.traces[branch.get()].append(what)

    async def await_own(self, _: str, number: int) -> Any:
        return await self.own[number]

    async def await_plain(self, _: str, number: int) -> Any:
        return await self.plain[number]

    async def shield(self, _: str, number: int) -> Any:
        return await asyncio.shield(self.own[number])

    async def sleep(self, _: str) -> None:
        await asyncio.sleep(0)

    async def fail(self, here: str) -> None:
        raise Boom(here)

    async def end(self, here: str) -> None:
        raise asyncio.CancelledError(here)

    async def nested(self, here: str, steps: Sequence[Step]) -> Any:
        return await self.program(steps, here)

    async def keep_on(self, here: str, steps: Sequence[Step], times_taken_back: int) -> Any:
        try:
            return await self.program(steps, here)
        except asyncio.CancelledError as exc:
            for _ in range(times_taken_back):
                self.current.uncancel()
            return exc.args, self.current.cancelling()

    async def clean_up(self, here: str, steps: Sequence[Step], after: Sequence[Step]) -> Any:
        try:
            return await self.program(steps, here)
        finally:
            await self.program(after, f"{here}/finally")

    async def timed(self, here: str, steps: Sequence[Step]) -> Any:
        try:
            async with asyncio.timeout(0):
                return await self.program(steps, here)
        except TimeoutError:
            return "timeout", self.current.cancelling()

    async def gather(self, here: str, programs: Sequence[Sequence[Step]]) -> Any:
        coroutines = (self.beside(steps, f"{here}/{n}") for n, steps in enumerate(programs))
        answers = await asyncio.gather(*coroutines, return_exceptions=True)
        return [repr(answer) for answer in answers]

    async def group(self, here: str, programs: Sequence[Sequence[Step]]) -> Any:
        try:
            async with asyncio.TaskGroup() as group:
                for n, steps in enumerate(programs):
                    group.create_task(self.beside(steps, f"{here}/{n}"))
        except* Boom as exc:
            self.say(len(exc.exceptions))

    async def cancel_itself(self, here: str) -> bool:
        return bool(self.current.cancel(here))

    async def await_itself(self, here: str) -> Any:
        try:
            return await self.current
        except RuntimeError:
            return "refused"

    async def set_context(self, _: str) -> int:
        seen.set(seen.get() + 1)
        return seen.get()

    @property
    def current(self) -> Any:
        task = asyncio.current_task()
        assert task is not None
        return task

    async def driven(self, actions: Sequence[Step]) -> dict[str, list[Any]]:
        """Run the task by these actions to its end; return all that was said."""
        for action in (*actions, ("settle",)):
            await self.act(*action)
        for future in (*self.own, *self.plain):
            if not future.done():
                future.set_result("late")
        for number in range(50):
            await self.act("settle")
            if self.task.done():
                break
            self.act_on_task("cancel", f"last {number}")
        assert self.task.done()
        self.say(outcome(self.task), self.task.cancelling(), seen.get())
        return self.traces

    async def act(self, name: str, *arguments: Any) -> None:
        if name == "settle":
            for _ in range(TURNS_TO_SETTLE):
                await asyncio.sleep(0)
            self.say("at rest")
        elif name in ("cancel", "uncancel"):
            self.act_on_task(name, *arguments)
        else:
            kind, number = arguments
            future = getattr(self, kind)[number]
            if future.done():
                return
            if name == "resolve":
                future.set_result(number)
            elif name == "break":
                future.set_exception(Boom(number))
                future.exception()
            else:
                future.cancel("from outside")

    def act_on_task(self, name: str, *arguments: Any) -> None:
        self.say(name, getattr(self.task, name)(*arguments))


def outcome(task: asyncio.Future[Any]) -> Any:
    if task.cancelled():
        return "cancelled"
    error = task.exception()
    return (type(error), error.args) if error is not None else task.result()


def traced(
    steps: Sequence[Step], actions: Sequence[Step], *, is_light: bool
) -> dict[str, list[Any]]:
    async def main() -> dict[str, list[Any]]:
        loop = asyncio.get_running_loop()
        tasks = LightTasks(loop)
        create_future = LightFuture if is_light else loop.create_future
        run = Run(
            create_task=tasks.create_task if is_light else loop.create_task,
            own=[create_future() for _ in FUTURES],
            plain=[loop.create_future() for _ in FUTURES],
        )
        run.task = run.create_task(run.program(steps))
        return await run.driven(actions)

    return asyncio.run(main())


numbers = st.sampled_from(FUTURES)
simple = st.one_of(
    st.tuples(st.sampled_from(("await_own", "await_plain", "shield")), numbers),
    st.tuples(
        st.sampled_from(("sleep", "fail", "end", "cancel_itself", "await_itself", "set_context"))
    ),
)


def deeper(step: st.SearchStrategy[Step]) -> st.SearchStrategy[Step]:
    steps = st.lists(step, max_size=3)
    return st.one_of(
        st.tuples(st.sampled_from(("nested", "timed")), steps),
        st.tuples(st.just("keep_on"), steps, st.integers(0, 2)),
        st.tuples(st.just("clean_up"), steps, steps),
        st.tuples(st.sampled_from(("gather", "group")), st.lists(steps, max_size=2)),
    )


programs = st.lists(st.recursive(simple, deeper, max_leaves=8), max_size=4)
actions = st.lists(
    st.one_of(
        st.just(("settle",)),
        st.tuples(st.just("cancel"), st.sampled_from((None, "a", "b"))),
        st.just(("uncancel",)),
        st.tuples(
            st.sampled_from(("resolve", "break", "cancel_future")),
            st.sampled_from(("own", "plain")),
            numbers,
        ),
    ),
    max_size=8,
)


@given(programs, actions)
@example([("await_own", 0)], [("cancel", "before it starts")])
@example([("await_own", 0)], [("settle",), ("resolve", "own", 0), ("cancel", "too late?")])
@example([("keep_on", [("await_own", 0)], 0), ("await_own", 1)], [("settle",), ("cancel", None)])
@example([("cancel_itself",)], [])
@example([("cancel_itself",), ("await_own", 0)], [])
@example([("timed", [("await_own", 0)])], [])
@example([("await_own", 0), ("sleep",), ("fail",)], [("settle",), ("resolve", "own", 0)])
def test_a_light_task_leaves_the_trace_of_an_asyncio_task(
    steps: list[Step], actions: list[Step]
) -> None:
    assert traced(steps, actions, is_light=True) == traced(steps, actions, is_light=False)
