"""What every sink's configuration has in common; each backend adds its own keys."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class SinkConfig(BaseModel):
    """Base of each backend's configuration model: identity, timeouts and the lane around the
    sink."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    kind: str
    timeout_seconds: float = Field(10.0, gt=0, le=600)
    max_batch: int = Field(500, ge=1, le=100_000)
    linger_ms: float = Field(5.0, ge=0, le=60_000)
    queue_bytes: int = Field(16 * MIB, ge=1024)
    failure_threshold: int = Field(5, ge=1)
    cooldown_seconds: float = Field(10.0, gt=0, le=3600)

    @property
    def lane_threads(self) -> int:
        """Most threads (each with a connection of its own) that deliver at once."""
        return 1


class DeadLettersConfig(BaseModel):
    """Where dead letters go; None means the source's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = None
    brokers: str | None = None
    client: dict[str, Any] = Field(default_factory=dict)
