"""Tasks and futures of asyncio's kind; all that are woken go on in one callback of the loop.

An ``asyncio.Task`` costs the loop a callback for its start, for each future that wakes it and for
each listener of its end, and what it wakes itself goes on a turn later. A ``LightTask`` stands in a
queue instead, and one callback runs all that stand there, with all that these wake and start. In
every other way it is a task, as asyncio's documentation ("Extending") wants one of a third party to
be: ``asyncio.current_task()`` names it, so ``asyncio.timeout``, ``TaskGroup`` and the like work in
it, and it may await anything. Only a ``LightFuture`` wakes it without a callback of the loop.

All of it belongs to the loop thread. (typeshed knows no tasks of a third party: hence the ignores.)
"""

from __future__ import annotations

import asyncio
from asyncio import isfuture
from asyncio.tasks import _enter_task, _leave_task, _register_task
from collections import deque
from collections.abc import Callable, Coroutine
from contextvars import copy_context
from types import FrameType
from typing import Any, TypeVar

T = TypeVar("T")

STEPS_A_TURN = 256
"""Most steps of light tasks in a turn of the loop; then sockets and timers are served."""


class LightFuture(asyncio.Future[T]):
    """A future that queues the light task that waits for it; all others hear by a callback."""

    waiter: LightTask[Any] | None = None
    """The light task to wake, besides the callbacks that any future has."""

    def set_result(self, result: T) -> None:
        """Make it done. Raises InvalidStateError when it is."""
        super().set_result(result)
        if (waiter := self.waiter) is not None:
            waiter.tasks.wake(waiter)

    def set_exception(self, exception: type | BaseException) -> None:
        """Make it done by an error. Raises InvalidStateError when it is done."""
        super().set_exception(exception)
        if (waiter := self.waiter) is not None:
            waiter.tasks.wake(waiter)

    def cancel(self, msg: Any | None = None) -> bool:
        """Make it done by a CancelledError; False when it is done."""
        if not super().cancel(msg):
            return False
        if (waiter := self.waiter) is not None:
            waiter.tasks.wake(waiter)
        return True


class LightTasks:
    """The light tasks of one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._woken: deque[LightTask[Any]] = deque()
        self._has_turn = False
        """Whether somebody runs what is woken, or a callback of the loop will."""

    def create_task(
        self,
        coroutine: Coroutine[Any, Any, T],
        ended: Callable[[LightTask[T]], object] | None = None,
    ) -> LightTask[T]:
        """Start a task; its first step comes when the caller has returned to the loop or waits.
        ``ended`` is called with it in the step that is its last."""
        task = LightTask(coroutine, self, ended)
        self.wake(task)
        return task

    def wake(self, task: LightTask[Any]) -> None:
        """Queue the next step of a task."""
        self._woken.append(task)
        if not self._has_turn:
            self._has_turn = True
            self.loop.call_soon(self._run)

    def call(self, callback: Callable[..., object], *args: Any) -> None:
        """Call back, and run in the same turn what that wakes; for callbacks of the loop only."""
        had_turn, self._has_turn = self._has_turn, True
        try:
            callback(*args)
        finally:
            if not had_turn:
                self._run()

    def _run(self) -> None:
        woken, steps = self._woken, STEPS_A_TURN
        try:
            while woken and steps:
                steps -= 1
                task = woken.popleft()
                task.context.run(task.step)
        finally:
            self._has_turn = bool(woken)
            if woken:
                self.loop.call_soon(self._run)


class LightTask(asyncio.Future[T]):
    """A coroutine on its way; made by ``LightTasks.create_task``.

    As with ``asyncio.Task``, it waits for ``_fut_waiter``, or its next step is queued, or it runs.
    ``asyncio.all_tasks()`` has it from its first wait for anything but a light future.
    ``_fut_waiter`` and ``_must_cancel`` are named as there: anyio (httpx) reads both.
    """

    __slots__ = (
        "_cancel_message", "_cancels", "_coro", "_ended", "_fut_waiter", "_must_cancel", "_name",
        "context", "tasks",
    )  # fmt: skip

    def __init__(
        self,
        coroutine: Coroutine[Any, Any, T],
        tasks: LightTasks,
        ended: Callable[[LightTask[T]], object] | None,
    ) -> None:
        super().__init__(loop=tasks.loop)
        self.context = copy_context()
        self.tasks = tasks
        self._coro = coroutine
        self._name = ""
        self._ended = ended
        self._fut_waiter: asyncio.Future[Any] | None = None
        self._cancels = 0
        self._must_cancel = False
        self._cancel_message: Any = None

    # -- the interface of asyncio.Task ---------------------------------------------------------

    def get_coro(self) -> Coroutine[Any, Any, T]:
        """Return the coroutine."""
        return self._coro

    def get_name(self) -> str:
        """Return the name; without one that says where it lies in memory."""
        return self._name or f"LightTask-{id(self):x}"

    def set_name(self, value: object) -> None:
        """Set the name."""
        self._name = str(value)

    def get_stack(self, *, limit: int | None = None) -> list[FrameType]:
        """Return the frame in which it waits; empty once it is done."""
        frame = getattr(self._coro, "cr_frame", None)
        return [] if frame is None or limit == 0 else [frame]

    def cancel(self, msg: Any | None = None) -> bool:
        """Raise CancelledError where it waits, in its next step; False when it is done."""
        if self.done():
            return False
        self._cancels += 1
        if self._fut_waiter is None or not self._fut_waiter.cancel(msg):
            self._must_cancel, self._cancel_message = True, msg
        return True

    def cancelling(self) -> int:
        """Return how many calls of ``cancel`` were not taken back."""
        return self._cancels

    def uncancel(self) -> int:
        """Take a call of ``cancel`` back; return how many are left."""
        self._cancels = max(0, self._cancels - 1)
        return self._cancels

    def set_result(self, result: object) -> None:
        """Raise RuntimeError: its result is what the coroutine returns."""
        raise RuntimeError("a task does not support set_result")

    def set_exception(self, exception: object) -> None:
        """Raise RuntimeError: its exception is what the coroutine raises."""
        raise RuntimeError("a task does not support set_exception")

    # -- its steps -----------------------------------------------------------------------------

    def step(self) -> None:
        """Run the coroutine to its next wait, or to its end; within ``context``."""
        error: BaseException | None = None
        if self._fut_waiter is not None:
            try:
                self._fut_waiter.result()
            except BaseException as exc:  # noqa: BLE001 - raised where it waits
                error = exc
            self._fut_waiter = None
        if self._must_cancel:
            self._must_cancel = False
            if not isinstance(error, asyncio.CancelledError):
                message = self._cancel_message
                error = asyncio.CancelledError(*(() if message is None else (message,)))
        loop = self.tasks.loop
        _enter_task(loop, self)  # type: ignore[arg-type]
        try:
            awaited = self._coro.send(None) if error is None else self._coro.throw(error)
        except StopIteration as stop:
            if self._must_cancel:
                super().cancel(self._cancel_message)
            else:
                super().set_result(stop.value)
        except asyncio.CancelledError as exc:
            super().cancel(*exc.args[:1])
        except (KeyboardInterrupt, SystemExit) as exc:
            super().set_exception(exc)
            raise
        except BaseException as exc:  # noqa: BLE001 - for whoever awaits the task
            super().set_exception(exc)
        else:
            if type(awaited) is LightFuture and awaited.waiter is None and not self._must_cancel:
                awaited._asyncio_future_blocking = False
                awaited.waiter, self._fut_waiter = self, awaited
            else:
                self._wait_for(awaited)
        finally:
            error = None  # Its traceback holds this frame.
            _leave_task(loop, self)  # type: ignore[arg-type]
            if self._ended is not None and self.done():
                self._ended(self)

    def _wait_for(self, awaited: Any) -> None:
        """Wait for what the loop wakes it from; for anything when a cancel is due."""
        loop = self.tasks.loop
        _register_task(self)  # type: ignore[arg-type]
        is_fit = isfuture(awaited) and awaited._asyncio_future_blocking
        if is_fit and awaited is not self and awaited.get_loop() is loop:
            awaited._asyncio_future_blocking = False
            awaited.add_done_callback(self._wake_by_loop)
            self._fut_waiter = awaited
            if self._must_cancel and awaited.cancel(self._cancel_message):
                self._must_cancel = False
            return
        if awaited is not None:  # None is what asyncio.sleep(0) yields.
            self._fut_waiter = loop.create_future()
            message = f"{self.get_name()} cannot await {awaited!r}"
            self._fut_waiter.set_exception(RuntimeError(message))
        loop.call_soon(self._wake_by_loop)

    def _wake_by_loop(self, _: object = None) -> None:
        self.tasks.call(self.tasks.wake, self)
