"""Calls the handler's hooks: plain or async, timed, with a deadline, errors counted."""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from inspect import isawaitable
from typing import Any

from domain.events import HookSlow, Tell
from domain.text_bounds import TextBounds, described
from workers.clock import Clock

SLOW_SECONDS = 1.0


def _is_ours_to_obey() -> bool:
    """Whether it is this very task that is cancelled, and not something the hook awaited."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0


class HookFailed(Exception):
    """A hook raised; ``detail`` is one line, ``trace`` the whole traceback."""

    def __init__(self, hook: str, error: BaseException) -> None:
        self.hook = hook
        self.detail = f"{hook} raised {described(error)}"
        self.trace = "".join(traceback.format_exception(error))
        super().__init__(self.detail)


@dataclass(slots=True)
class HookFigures:
    """Calls, errors and seconds of one hook; plain figures, read by the metrics port."""

    calls: int = 0
    errors: int = 0
    seconds: float = 0.0


@dataclass(slots=True, kw_only=True)
class Hooks:
    """The only caller of a handler's hooks."""

    clock: Clock
    tell: Tell
    timeout_seconds: float | None
    figures: dict[str, HookFigures] = field(default_factory=dict)
    bounds: TextBounds = field(default_factory=TextBounds)
    """Of all that the hooks answer with."""

    async def call(
        self, hook: Callable[..., Any], *args: Any, topic: str = "", partition: int = -1
    ) -> Any:
        """Call and await a hook. Raises HookFailed for whatever it raises."""
        name = hook.__name__
        began = self.clock.now()
        figures = self.figures.setdefault(name, HookFigures())
        try:
            answer = hook(*args)
            if isawaitable(answer):
                if self.timeout_seconds is None:
                    answer = await answer
                else:
                    async with asyncio.timeout(self.timeout_seconds):
                        answer = await answer
            return answer
        except (Exception, asyncio.CancelledError) as exc:
            if isinstance(exc, asyncio.CancelledError) and _is_ours_to_obey():
                raise
            figures.errors += 1
            raise HookFailed(name, exc) from exc
        finally:
            seconds = self.clock.now() - began
            figures.calls += 1
            figures.seconds += seconds
            if seconds > SLOW_SECONDS:
                self._tell_slow(name, seconds, topic, partition)

    async def call_list(
        self, hook: Callable[..., Any], *args: Any, topic: str = "", partition: int = -1
    ) -> list[Any]:
        """As ``call``, for a hook that answers with a list; None is an empty one."""
        answer = await self.call(hook, *args, topic=topic, partition=partition)
        try:
            return [] if answer is None else list(answer)
        except Exception as exc:
            self.count_error(hook.__name__)
            raise HookFailed(hook.__name__, exc) from exc

    def call_now(self, hook: Callable[..., Any], default: Any, *args: Any) -> Any:
        """Call a plain hook whose failure is only counted; ``default`` stands in for its answer."""
        try:
            return hook(*args)
        except Exception:  # noqa: BLE001 - a user's hook may raise anything; it is counted
            self.count_error(hook.__name__)
            return default

    def count_error(self, name: str) -> None:
        """Count a hook that raised where somebody else called it."""
        self.figures.setdefault(name, HookFigures()).errors += 1

    def _tell_slow(self, name: str, seconds: float, topic: str, partition: int) -> None:
        self.tell(
            HookSlow(
                at=self.clock.wall(),
                topic=topic,
                partition=partition,
                hook=name,
                duration_ms=seconds * 1000.0,
            )
        )
