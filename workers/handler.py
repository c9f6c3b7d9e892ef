"""What a user implements: one class that turns messages into tasks and results into payloads.

Hooks may be ``async def`` or ``def``; both run on the worker's loop. Anything that takes long goes
through ``await self.offload(fn, *args)``. A hook that raises dead-letters its message.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, get_args, get_origin

from pydantic import BaseModel

from domain.decision import DeadLetter, DeliveryDecision, Replace, Retry, Skip, TaskDecision
from domain.failure import DeliveryError, FailureKind, TaskFailure
from domain.fate import Fate
from domain.message import Message, Record
from domain.payload import (
    FilePayload,
    HttpPayload,
    KafkaPayload,
    MemoryPayload,
    MongoPayload,
    Payload,
    PostgresPayload,
    RedisPayload,
    Upsert,
)
from domain.period import periodic
from domain.retry import default_decision
from domain.task import Limits, Precomputed, Task, TaskResult, Usage

_OFFLOADING = ThreadPoolExecutor(thread_name_prefix="offload")
"""Not the loop's own threads: those close the worker, and what is offloaded may never end."""

InputT = TypeVar("InputT", bound=BaseModel)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True, kw_only=True)
class Pending:
    """Unfinished tasks of this partition at the moment ``arrange`` is called: labels by task id."""

    tasks: Mapping[str, Mapping[str, str]]


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageGroup(Generic[InputT]):
    """A message all of whose tasks have ended."""

    message: Message[InputT]
    results: Sequence[TaskResult]
    failures: Sequence[TaskFailure]


@dataclass(frozen=True, slots=True, kw_only=True)
class BatchGroup(Generic[InputT]):
    """The messages of one ``arrange`` call, all of whose tasks have ended.

    Where the worker gives the partition up meanwhile, those of them that have ended.
    """

    groups: Sequence[MessageGroup[InputT]]


class Handler(Generic[InputT]):
    """Base of all handlers; only ``arrange`` must be written.

    ``settings`` is the cluster's ``app`` section, validated by ``settings_model`` (the plain
    mapping when there is none). ``max_retries`` is the cluster's ``executor.max_retries``.
    ``version`` is shown with each run; empty: the git commit of the class's file, where it has one.
    """

    version: ClassVar[str] = ""
    settings_model: ClassVar[type[BaseModel] | None] = None
    input_model: ClassVar[type[BaseModel]]

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        for base in getattr(cls, "__orig_bases__", ()):
            model = next(iter(get_args(base)), None)
            origin = get_origin(base)
            is_handler = isinstance(origin, type) and issubclass(origin, Handler)
            if is_handler and isinstance(model, type) and issubclass(model, BaseModel):
                cls.input_model = model

    def __init__(self, settings: Any, *, max_retries: int = 3) -> None:
        self.settings = settings
        self.max_retries = max_retries

    async def arrange(
        self, messages: Sequence[Message[InputT]], pending: Pending
    ) -> Sequence[Task]:
        """Turn messages of one partition into tasks; a message without a task is filtered."""
        raise TypeError(f"{type(self).__name__} must define arrange")

    def parse(self, message: Record) -> InputT:
        """Turn bytes into the input model. Raises ValueError (pydantic's included) on bad data."""
        if message.value is None:
            raise ValueError("value is null; expected JSON")
        return self.input_model.model_validate_json(message.value)  # type: ignore[return-value]

    def message_label(self, message: Message[InputT]) -> str:
        """A short name of a message for people."""
        return f"{message.partition}:{message.offset}"

    def task_priority(self, task: Task) -> float | None:
        """Lower runs first; None means age, the oldest message first across partitions."""
        return task.priority

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """A task ended well: what is to be delivered."""
        return ()

    async def on_message_complete(self, group: MessageGroup[InputT]) -> Sequence[Payload]:
        """All tasks of a message ended (not asked when one of them was dead-lettered)."""
        return ()

    async def on_batch_complete(self, batch: BatchGroup[InputT]) -> Sequence[Payload]:
        """All tasks of one ``arrange`` call ended; its offsets wait for this. A batch that a stop
        or a rebalance cuts is asked about in two parts, here and by the next owner."""
        return ()

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        """An attempt failed: retry with back-off up to ``max_retries``, then dead-letter."""
        return default_decision(failure, self.max_retries)

    async def on_delivery_error(self, error: DeliveryError) -> DeliveryDecision:
        """An attempt to deliver failed: transient errors retry for ever, others dead-letter."""
        return Retry() if error.transient else DeadLetter(reason=error.detail)

    async def on_startup(self) -> None:
        """The worker starts; nothing is connected yet."""

    async def on_ready(self) -> None:
        """The worker joined its group and every sink opened once."""

    async def on_shutdown(self) -> None:
        """The worker has drained and ends."""

    async def on_assign(self, partitions: Sequence[tuple[str, int]]) -> None:
        """These partitions are this worker's from now on."""

    async def on_revoke(self, partitions: Sequence[tuple[str, int]]) -> None:
        """These partitions are no longer this worker's."""

    async def offload(self, fn: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Run something long in a thread, off the loop."""
        call = partial(copy_context().run, fn, *args, **kwargs)
        return await asyncio.get_running_loop().run_in_executor(_OFFLOADING, call)


def overrides(handler: Handler[Any], hook: str) -> bool:
    """Whether a handler has a hook of its own."""
    return getattr(type(handler), hook) is not getattr(Handler, hook)


__all__ = [
    "BatchGroup",
    "DeadLetter",
    "DeliveryDecision",
    "DeliveryError",
    "FailureKind",
    "Fate",
    "FilePayload",
    "Handler",
    "HttpPayload",
    "KafkaPayload",
    "Limits",
    "MemoryPayload",
    "Message",
    "MessageGroup",
    "MongoPayload",
    "Payload",
    "Pending",
    "PostgresPayload",
    "Precomputed",
    "Record",
    "RedisPayload",
    "Replace",
    "Retry",
    "Skip",
    "Task",
    "TaskDecision",
    "TaskFailure",
    "TaskResult",
    "Upsert",
    "Usage",
    "periodic",
]
