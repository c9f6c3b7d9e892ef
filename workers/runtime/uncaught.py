"""Errors that nobody caught: each ends the worker, or is counted; never only
printed (docs/decisions/0020).

A callback that raised was half done, and nobody knows which half: a partition nobody works on, a
stored payload whose outcome is never told. So the worker ends, and another one does it again. A
thread of ours that dies ends the worker too. What cannot have been a step of a message (a task
of the handler's own that nobody awaits, a callback or a thread of a library, a finalizer) is
counted and said.
"""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from workers.log import log
from workers.runtime.listeners.counters import Counters

OUR_THREADS = ("kafka-", "lane-", "dead-letters", "recorder", "heartbeat", "health")
"""Starts of the names of threads without which the worker does not do its work."""

OUR_PACKAGES = tuple(
    str(Path(__file__).resolve().parents[1] / name) + "/"
    for name in ("domain", "recorder", "sinks", "workers")
)


class Uncaught(Exception):
    """Error that left a callback or a thread of ours, as the cause of this one."""


class UncaughtErrors:
    """Hears of the errors that nobody caught. ``fail`` is called on the loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        counters: Counters,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._counters = counters
        self._fail = fail

    @contextmanager
    def heard(self) -> Iterator[None]:
        """Hear of them meanwhile; whoever heard of them before hears of them after."""
        before = self._loop.get_exception_handler()
        threads, finalizers = threading.excepthook, sys.unraisablehook
        self._loop.set_exception_handler(self.in_loop)
        threading.excepthook, sys.unraisablehook = self.in_thread, self.in_finalizer
        try:
            yield
        finally:
            if self._loop.get_exception_handler() == self.in_loop:
                self._loop.set_exception_handler(before)
            if threading.excepthook == self.in_thread:
                threading.excepthook = threads
            if sys.unraisablehook == self.in_finalizer:
                sys.unraisablehook = finalizers

    def in_loop(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Take what the loop's exception handler is given."""
        error, message = context.get("exception"), str(context.get("message", ""))
        if error is None or "handle" not in context:
            self._note("task", message, error)
            return
        self._note("callback", message, error)
        if not is_of_a_library(context["handle"], error):
            self._end(f"a callback failed: {message}", error)

    def in_thread(self, told: threading.ExceptHookArgs) -> None:
        """Take what ``threading.excepthook`` is given."""
        name = told.thread.name if told.thread is not None else "?"
        self._note("thread", f"thread {name} ended by an error", told.exc_value)
        if name.startswith(OUR_THREADS) and told.exc_value is not None:
            with suppress(RuntimeError):  # the loop is closed: the worker has ended
                self._loop.call_soon_threadsafe(
                    self._end, f"thread {name} ended by an error", told.exc_value
                )

    def in_finalizer(self, told: Any) -> None:
        """Take what ``sys.unraisablehook`` is given."""
        self._note("finalizer", told.err_msg or "in a finalizer", told.exc_value)

    def _note(self, where: str, message: str, error: BaseException | None) -> None:
        self._counters.uncaught[where] += 1
        with suppress(Exception):
            log.error("uncaught_error", where=where, detail=message, exc_info=error)

    def _end(self, what: str, error: BaseException) -> None:
        failure = Uncaught(f"{what}: {type(error).__name__}: {error}")
        failure.__cause__ = error
        self._fail(failure)


def is_of_a_library(handle: asyncio.Handle, error: BaseException) -> bool:
    """Whether a callback belongs to asyncio or an installed package, and passed no code of ours.

    Their transports and futures raise now and then when a connection ends; nothing of ours is half
    done by that.
    """
    if any(frame.f_code.co_filename.startswith(OUR_PACKAGES) for frame, _ in _frames(error)):
        return False
    root = _module_of(getattr(handle, "_callback", None)).partition(".")[0]
    if root in ("asyncio", "_asyncio"):
        return True
    file = getattr(sys.modules.get(root), "__file__", None) or ""
    return bool({"site-packages", "dist-packages"} & set(Path(file).parts))


def _frames(error: BaseException) -> Iterator[tuple[Any, int]]:
    return traceback.walk_tb(error.__traceback__)


def _module_of(callback: Any) -> str:
    while isinstance(callback, functools.partial):
        callback = callback.func
    owner = getattr(callback, "__self__", None)
    if owner is None or isinstance(owner, type(sys)):
        return getattr(callback, "__module__", None) or ""
    return type(owner).__module__
