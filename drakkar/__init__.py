"""The public face: what the author of a handler imports.

docs/public-api.md says what is promised about it. Nothing is loaded before a name is asked for,
so that ``import drakkar`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from workers.handler import (
        BatchGroup,
        DeadLetter,
        DeliveryDecision,
        DeliveryError,
        FailureKind,
        Fate,
        FilePayload,
        Handler,
        HttpPayload,
        KafkaPayload,
        Limits,
        MemoryPayload,
        Message,
        MessageGroup,
        MongoPayload,
        Payload,
        Pending,
        PostgresPayload,
        Precomputed,
        Record,
        RedisPayload,
        Replace,
        Retry,
        Skip,
        Task,
        TaskDecision,
        TaskFailure,
        TaskResult,
        Upsert,
        Usage,
        periodic,
    )

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


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("workers.handler"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
