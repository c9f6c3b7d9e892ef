"""Calls the handler's hooks: plain or async, timed, with a deadline, errors counted."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from types import CoroutineType
from typing import Any

from domain.events import HookSlow, Tell
from domain.text_bounds import TextBounds
from domain.tracebacks import error_text, traceback_of
from workers.clock import Clock
from workers.log import log

SLOW_SECONDS = 1.0
LASTING_SECONDS = 60.0
"""After how long a hook that does not return is told."""
SILENT_SECONDS = 60.0
"""Seconds that errors of a hook that cost no message stay unlogged after one that was."""


def is_cancelled() -> bool:
    """Whether this very task is cancelled, though a hook may have swallowed it."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


def is_to_obey(error: BaseException) -> bool:
    """Whether an error that left the user's code is none of it: Ctrl-C, the end of the coroutine,
    or that this very task is cancelled, and not something the hook awaited.

    All others are its failure: a ``sys.exit`` (argparse), a panic of a Rust library.
    """
    if isinstance(error, asyncio.CancelledError):
        return is_cancelled()
    return isinstance(error, (KeyboardInterrupt, GeneratorExit))


class HookFailed(Exception):
    """A hook raised; ``detail`` is one line, ``trace`` the traceback, bounded and masked."""

    def __init__(self, hook: str, error: BaseException) -> None:
        self.hook = hook
        self.detail = f"{hook} raised {error_text(error)}"
        self.trace = traceback_of(error)
        super().__init__(self.detail)


@dataclass(slots=True)
class HookFigures:
    """Calls, errors and seconds of one hook; plain figures, read by the metrics port."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0
    silent_until: float = 0.0


@dataclass(slots=True, eq=False)
class _Call:
    """A call of a hook that has not returned."""

    hook: str
    topic: str | None
    partition: int | None
    began: float
    told_next: float


@dataclass(slots=True, kw_only=True)
class Hooks:
    """The only caller of a handler's hooks."""

    clock: Clock
    tell: Tell
    timeout_seconds: float | None
    figures: dict[str, HookFigures] = field(default_factory=dict)
    bounds: TextBounds = field(default_factory=TextBounds)
    """Of all that the hooks answer with."""
    _running: set[_Call] = field(default_factory=set)

    async def call(
        self,
        hook: Callable[..., Any],
        *args: Any,
        topic: str | None = None,
        partition: int | None = None,
    ) -> Any:
        """Call and await a hook. Raises HookFailed for whatever it raises."""
        name = hook.__name__
        began = self.clock.now()
        figures = self.figures_of(name)
        running = _Call(name, topic, partition, began, began + LASTING_SECONDS)
        self._running.add(running)
        try:
            answer = hook(*args)
            if type(answer) is CoroutineType or isawaitable(answer):
                if self.timeout_seconds is None:
                    answer = await answer
                else:
                    async with asyncio.timeout(self.timeout_seconds):
                        answer = await answer
            return answer
        except BaseException as exc:
            if is_to_obey(exc):
                raise
            figures.errors += 1
            raise HookFailed(name, exc) from exc
        finally:
            self._running.discard(running)
            seconds = self.clock.now() - began
            figures.calls += 1
            figures.seconds += seconds
            if seconds > SLOW_SECONDS:
                self._tell_slow(name, seconds, topic, partition)

    def tell_lasting(self) -> None:
        """Tell of the hooks that have not returned for a minute, and again each time it is twice as
        long: their partitions stand, and nothing else says why."""
        now = self.clock.now()
        for one in [one for one in self._running if now >= one.told_next]:
            one.told_next = now + (now - one.began)
            self._tell_slow(one.hook, now - one.began, one.topic, one.partition)

    async def call_list(
        self,
        hook: Callable[..., Any],
        *args: Any,
        topic: str | None = None,
        partition: int | None = None,
    ) -> list[Any]:
        """As ``call``, for a hook that answers with a list; None is an empty one."""
        answer = await self.call(hook, *args, topic=topic, partition=partition)
        try:
            return [] if answer is None else list(answer)
        except BaseException as exc:
            if is_to_obey(exc):
                raise
            self.figures_of(hook.__name__).errors += 1
            raise HookFailed(hook.__name__, exc) from exc

    def call_now(self, hook: Callable[..., Any], default: Any, *args: Any) -> Any:
        """Call a plain hook whose failure is only counted; ``default`` stands in for its answer."""
        try:
            return hook(*args)
        except BaseException as exc:
            if is_to_obey(exc):
                raise
            self.count_error(hook.__name__, exc)
            return default

    def figures_of(self, name: str) -> HookFigures:
        """The figures of a hook, made with its first use."""
        found = self.figures.get(name)
        if found is None:
            found = self.figures[name] = HookFigures()
        return found

    def count_error(self, name: str, error: BaseException) -> None:
        """Count a hook that raised where somebody else called it.

        No letter tells of such an error: it is logged, once a minute for each hook.
        """
        figures = self.figures_of(name)
        figures.errors += 1
        now = self.clock.now()
        if now >= figures.silent_until:
            figures.silent_until = now + SILENT_SECONDS
            log.warning(
                "hook_failed",
                hook=name,
                detail=error_text(error),
                errors=figures.errors,
                traceback=traceback_of(error),
            )

    def _tell_slow(
        self, name: str, seconds: float, topic: str | None, partition: int | None
    ) -> None:
        self.tell(
            HookSlow(
                at=self.clock.wall(),
                topic=topic,
                partition=partition,
                hook=name,
                duration_ms=seconds * 1000.0,
            )
        )
