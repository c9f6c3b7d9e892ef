"""Cluster ``main``: each message asks for a ripgrep search; its result goes to every sink."""

from __future__ import annotations

import logging
import shutil
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import ClassVar

from prometheus_client import Counter, Histogram
from pydantic import BaseModel, ConfigDict, Field

from drakkar import (
    DeadLetter,
    DeliveryDecision,
    DeliveryError,
    FailureKind,
    FilePayload,
    Handler,
    HttpPayload,
    KafkaPayload,
    Message,
    MongoPayload,
    Payload,
    Pending,
    PostgresPayload,
    RedisPayload,
    Retry,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
    Upsert,
    periodic,
)
from integration.demo.clusters import (
    FILE_OVER,
    HIGH_MATCHES_FILE,
    SUMMARY_PREFIX,
    SUMMARY_TTL_SECONDS,
    WEBHOOK_OVER,
    is_in_order,
)

logger = logging.getLogger("drakkar.search")

RETRIED_KINDS = ("http", "redis")
PERMANENT_RETRIES = 3
"""A receiver that refuses may be of another mind soon; a table or topic is not."""


class SearchRequest(BaseModel):
    """One search: ``repeat`` makes it slow on purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    request_id: str = Field(min_length=1, max_length=100)
    pattern: str = Field(min_length=1, max_length=1000)
    file_path: str = Field(min_length=1, max_length=1000)
    repeat: int = Field(ge=1, le=1000)


class SearchSettings(BaseModel):
    """The ``app`` section of cluster ``main``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    fail_chance: float = Field(0.05, ge=0, le=1)
    order_by_file: bool = False
    """Whether searches in one file run one after another."""
    group_by_pattern: bool = False
    """Whether searches for one pattern share the slots with those for others."""


class SearchHandler(Handler[SearchRequest]):
    """One task a message; results by match count."""

    settings_model = SearchSettings
    settings: SearchSettings

    matches: ClassVar[Histogram] = Histogram(
        "search_match_count", "Matching lines per search.", buckets=(0, 5, 20, 50, 100, 500)
    )
    errors: ClassVar[Counter] = Counter("search_errors", "Failed attempts by kind.", ["kind"])

    _searches = 0

    async def arrange(
        self, messages: Sequence[Message[SearchRequest]], pending: Pending
    ) -> Sequence[Task]:
        return [self._task(message) for message in messages]

    def _task(self, message: Message[SearchRequest]) -> Task:
        request = message.payload
        return Task(
            args=(
                str(request.repeat),
                request.pattern,
                request.file_path,
                f"--fail={self.settings.fail_chance}",
            ),
            labels={"request_id": request.request_id, "pattern": request.pattern},
            env={"REQUEST_ID": request.request_id},
            metadata=request,
            source_offsets=(message.offset,),
            key=request.file_path if self._is_in_order(request) else None,
            group=request.pattern if self.settings.group_by_pattern else None,
        )

    def _is_in_order(self, request: SearchRequest) -> bool:
        return self.settings.order_by_file and is_in_order(request.file_path)

    def message_label(self, message: Message[SearchRequest]) -> str:
        return message.payload.request_id

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        request: SearchRequest = result.task.metadata
        count = result.stdout.count(b"\n")
        self.matches.observe(count)
        self._searches += 1
        summary = {
            "request_id": request.request_id,
            "pattern": request.pattern,
            "match_count": count,
            "duration_seconds": round(result.duration_seconds, 6),
        }
        whole = {**summary, "file_path": request.file_path, "attempt": result.attempt}
        created_at = datetime.now(UTC)
        payloads: list[Payload] = [
            KafkaPayload(sink="results", key=request.request_id, value=whole),
            PostgresPayload(
                sink="metrics",
                row={**summary, "created_at": created_at},
                on_conflict=Upsert(keys=("request_id",)),
            ),
            MongoPayload(sink="archive", document={**whole, "created_at": created_at}),
            RedisPayload(
                sink="summaries",
                key=SUMMARY_PREFIX + request.request_id,
                value=summary,
                ttl_seconds=SUMMARY_TTL_SECONDS,
            ),
        ]
        if count > WEBHOOK_OVER:
            payloads.append(HttpPayload(sink="webhook", json=whole))
        if count > FILE_OVER:
            payloads.append(FilePayload(sink="files", path=HIGH_MATCHES_FILE, record=whole))
        return payloads

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        self.errors.labels(failure.kind.value).inc()
        stderr = failure.result.stderr if failure.result is not None else b""
        if b"SIMULATED FAILURE" in stderr and failure.attempt <= self.max_retries:
            return Retry()
        if failure.kind is FailureKind.TIMEOUT:
            return DeadLetter(reason=f"timed out: {failure.detail}")
        return await super().on_error(failure)

    async def on_delivery_error(self, error: DeliveryError) -> DeliveryDecision:
        is_worth_it = error.kind in RETRIED_KINDS and error.attempt <= PERMANENT_RETRIES
        if error.transient or is_worth_it:
            return Retry()
        return DeadLetter(reason=error.detail)

    @periodic(seconds=10)
    async def log_stats(self) -> None:
        """Log what this worker found since the last time."""
        logger.info("searches since the last time: %d", self._searches)
        self._searches = 0

    @periodic(seconds=30, per="cluster")
    async def health_check(self) -> None:
        """One worker looks whether the searched program is there."""
        beside = Path(sys.executable).with_name("rg")
        if shutil.which("rg") is None and not beside.exists():
            raise FileNotFoundError(f"rg: expected on the PATH or as {beside}; found neither")
