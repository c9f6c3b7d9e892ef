"""Cluster ``bench``: the least a handler can do, so that what is measured is the worker."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict

from drakkar import (
    Handler,
    KafkaPayload,
    Message,
    Payload,
    Pending,
    Precomputed,
    Task,
    TaskResult,
)

SINK = "results"


class BenchRequest(BaseModel):
    """One message; ``sent_ns`` is on the monotonic clock of the machine and comes back unchanged.

    Negative numbers warm the worker up and are not measured.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    number: int
    sent_ns: int


class BenchHandler(Handler[BenchRequest]):
    """One task a message, with the arguments of ``app.args``, and one record a task."""

    async def arrange(
        self, messages: Sequence[Message[BenchRequest]], pending: Pending
    ) -> Sequence[Task]:
        args = self.settings.get("args", ())
        return [
            Task(args=args, metadata=message.payload, source_offsets=(message.offset,))
            for message in messages
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        request: BenchRequest = result.task.metadata
        return (
            KafkaPayload(sink=SINK, value={"number": request.number, "sent_ns": request.sent_ns}),
        )


class PrecomputedHandler(BenchHandler):
    """As ``BenchHandler``, without a program: what is measured is the history."""

    async def arrange(
        self, messages: Sequence[Message[BenchRequest]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                metadata=message.payload,
                source_offsets=(message.offset,),
                precomputed=Precomputed(),
            )
            for message in messages
        ]
