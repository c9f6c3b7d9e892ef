"""Cluster ``fast``: counts the characters of each requested file; one short task a message."""

from __future__ import annotations

from collections.abc import Sequence

import orjson
from pydantic import BaseModel, ConfigDict, Field

from drakkar import Handler, KafkaPayload, Message, Payload, Pending, Task, TaskResult


class CountRequest(BaseModel):
    """Part of a search request that this cluster reads."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    request_id: str = Field(min_length=1, max_length=100)
    file_path: str = Field(min_length=1, max_length=1000)


class SymbolCount(BaseModel):
    """Output of count-symbols.sh."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    file_path: str
    symbol_count: int = Field(ge=0)


class SymbolCountHandler(Handler[CountRequest]):
    """The file goes in on standard input, the count comes out on standard output."""

    async def arrange(
        self, messages: Sequence[Message[CountRequest]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                stdin=orjson.dumps({"file_path": message.payload.file_path}),
                labels={"request_id": message.payload.request_id},
                metadata=message.payload,
                source_offsets=(message.offset,),
            )
            for message in messages
        ]

    def message_label(self, message: Message[CountRequest]) -> str:
        return message.payload.request_id

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        request: CountRequest = result.task.metadata
        count = SymbolCount.model_validate_json(result.stdout)
        value = {"request_id": request.request_id, **count.model_dump()}
        return (KafkaPayload(sink="counts", key=request.request_id, value=value),)
