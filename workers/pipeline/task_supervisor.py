"""The one task group of a worker: what runs in it or beside it, and the failure that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

from workers.consumer.ownership import Claim
from workers.handler import Handler
from workers.light_task import LightTask, LightTasks
from workers.log import log
from workers.pipeline.hooks import HookFailed, Hooks


class TaskSupervisor:
    """Starts child tasks, among them the hooks nobody waits for. Loop thread only."""

    def __init__(self, handler: Handler[Any], hooks: Hooks) -> None:
        self._handler = handler
        self._hooks = hooks
        self._group: asyncio.TaskGroup | None = None
        self._light: LightTasks | None = None
        self._light_tasks: set[LightTask[None]] = set()
        self._is_aborting = False
        self._has_failed = asyncio.Event()
        self.failure: BaseException | None = None
        """What ends the worker, or None."""

    def open(self, group: asyncio.TaskGroup) -> None:
        """The group that runs them."""
        self._group = group
        self._light = LightTasks(asyncio.get_running_loop())

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it; after ``abort`` it is dropped."""
        assert self._group is not None
        if self._is_aborting:
            coroutine.close()
            return
        self._group.create_task(coroutine)

    def start(
        self, coroutine: Coroutine[Any, Any, None], ended: Callable[[LightTask[None]], object]
    ) -> LightTask[None]:
        """Run it as a light task; ``ended`` is called with it in the end. What it raises ends the
        worker."""
        assert self._light is not None
        task = self._light.create_task(coroutine, ended=partial(self._ended, ended))
        self._light_tasks.add(task)
        return task

    def _ended(self, ended: Callable[[LightTask[None]], object], task: LightTask[None]) -> None:
        self._light_tasks.discard(task)
        ended(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self.fail(error)

    async def end_light_tasks(self) -> None:
        """Wait to be cancelled, with the group; then cancel the light tasks and see them end."""
        try:
            await asyncio.Event().wait()
        finally:
            while self._light_tasks:
                for task in self._light_tasks:
                    task.cancel()
                await asyncio.wait(self._light_tasks)

    def abort(self) -> None:
        """The group is ending by a failure: a task more would keep it."""
        self._is_aborting = True

    def fail(self, error: BaseException) -> None:
        """Something the worker cannot work without is gone: end, exit code 1. The first one is
        named."""
        self.failure = self.failure or error
        self._has_failed.set()

    async def raise_failure(self) -> None:
        """Wait for a failure and raise it."""
        await self._has_failed.wait()
        assert self.failure is not None
        raise self.failure

    def tell_claims(self, hook: str, claims: Sequence[Claim]) -> None:
        """Ask a hook that is told of partitions, without waiting for it."""
        if claims and self._group is not None and not self._has_failed.is_set():
            partitions = [(claim.topic, claim.partition) for claim in claims]
            self.spawn(self.hook(hook, partitions))

    async def hook(self, name: str, *args: Any) -> None:
        """Call a hook of the worker's life; what it raises is logged and counted only."""
        try:
            await self._hooks.call(getattr(self._handler, name), *args)
        except HookFailed as failed:
            log.warning(
                "hook_failed", hook=failed.hook, detail=failed.detail, traceback=failed.trace
            )
