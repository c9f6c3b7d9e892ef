"""``recorder`` section of a cluster's configuration (docs/configuration.md)."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

MIB = 1024 * 1024


class RecorderConfig(BaseModel):
    """Rules by which events are buffered, spooled and thinned out. Sizes in bytes, durations in
    ms."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    flush_interval_ms: int = Field(250, ge=10, le=60_000)
    max_buffer_bytes: int = Field(32 * MIB, ge=64 * 1024)
    spool_dir: Path = Path(".spool")
    spool_max_bytes: int = Field(1024 * MIB, ge=64 * 1024)
    log_min_duration_ms: float = Field(500, ge=0)
    ws_min_duration_ms: float = Field(500, ge=0)
    event_min_duration_ms: float = Field(0, ge=0)
    output_min_duration_ms: float = Field(500, ge=0)
    output_max_bytes: int = Field(65_536, ge=0)
    expose_env: tuple[str, ...] = ()
