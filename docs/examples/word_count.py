"""Count the words of files: each message names one file, each result goes to Kafka."""

from __future__ import annotations

from collections.abc import Sequence

from pydantic import BaseModel, Field

from drakkar import (
    DeadLetter,
    FailureKind,
    Handler,
    KafkaPayload,
    Message,
    Payload,
    Pending,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)


class CountRequest(BaseModel):
    """One file to count."""

    file_path: str = Field(min_length=1)


class WordCountHandler(Handler[CountRequest]):
    """One ``wc -w`` a message. The cluster's ``executor.binary`` is ``wc``."""

    async def arrange(
        self, messages: Sequence[Message[CountRequest]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                args=("-w", "--", message.payload.file_path),
                labels={"file": message.payload.file_path},
                metadata=message.payload,
                source_offsets=(message.offset,),
            )
            for message in messages
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        request: CountRequest = result.task.metadata
        words = int(result.stdout_text.split()[0])
        value = {"file_path": request.file_path, "words": words}
        return [KafkaPayload(sink="counts", key=request.file_path, value=value)]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        if failure.kind is FailureKind.EXIT:
            return DeadLetter(reason=f"wc: {failure.detail}")
        return await super().on_error(failure)
