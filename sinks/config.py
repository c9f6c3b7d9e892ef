"""Base of every sink's configuration; each backend adds its own keys."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

MIB = 1024 * 1024


def _brokers(text: str) -> str:
    """Refuse an IPv6 address without brackets: the client takes its port for a part of it."""
    for broker in text.split(","):
        address = broker.strip().rpartition("://")[2]
        if address.count(":") > 1 and not address.startswith("["):
            raise ValueError(f"expected an IPv6 address in brackets, as [::1]:9092, got {address}")
    return text


Brokers = Annotated[str, AfterValidator(_brokers)]
"""Bootstrap servers: ``host:port`` or ``[address]:port``, several with commas between."""


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
    """Topic of dead letters; None means the source's own."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    topic: str | None = None
    brokers: Brokers | None = None
    client: dict[str, Any] = Field(default_factory=dict)
