"""The one task group of a worker: what runs in it, and the failure that ends it."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Sequence
from typing import Any

from workers.consumer.ownership import Claim
from workers.handler import Handler
from workers.log import log
from workers.pipeline.hooks import HookFailed, Hooks


class TaskSupervisor:
    """Starts child tasks, among them the hooks nobody waits for. Loop thread only."""

    def __init__(self, handler: Handler[Any], hooks: Hooks) -> None:
        self._handler = handler
        self._hooks = hooks
        self._group: asyncio.TaskGroup | None = None
        self._is_aborting = False
        self._has_failed = asyncio.Event()
        self.failure: BaseException | None = None
        """What ends the worker, or None."""

    def open(self, group: asyncio.TaskGroup) -> None:
        """The group that runs them."""
        self._group = group

    def spawn(self, coroutine: Coroutine[Any, Any, None]) -> None:
        """Run it; after ``abort`` it is dropped."""
        assert self._group is not None
        if self._is_aborting:
            coroutine.close()
            return
        self._group.create_task(coroutine)

    def start(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run it; what it raises ends the worker."""
        assert self._group is not None
        return self._group.create_task(coroutine)

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
