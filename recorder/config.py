"""``recorder`` section of a cluster's configuration (docs/configuration.md)."""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, field_validator
from pydantic_core import PydanticCustomError

MIB = 1024 * 1024
RULES = ("failed", "retried", "lettered", "slow")
ALWAYS_KEPT = ("failed", "lettered")
"""Failure groups and dead letters are made of these messages' events."""
LABEL_RULE = "label="


MAX_ROLLUP_LABELS = 3
MAX_LABEL_NAME = 255


class SampleConfig(BaseModel):
    """Rule by which whole messages are left out of the store: all that ``keep`` names are kept,
    and of the others one in ``one_in``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    one_in: int = Field(1, ge=1, le=1_000_000)
    keep: tuple[str, ...] = Field(RULES, max_length=50)
    slow_ms: float = Field(500, ge=1, le=30_000)

    @field_validator("keep")
    @classmethod
    def _knows(cls, keep: tuple[str, ...]) -> tuple[str, ...]:
        expected = f"{', '.join(RULES)} or {LABEL_RULE}name:value"
        for rule in keep:
            name, _, value = rule.removeprefix(LABEL_RULE).partition(":")
            if rule not in RULES and not (rule.startswith(LABEL_RULE) and name and value):
                raise PydanticCustomError(
                    "no_rule", "{expected}; {got} is none", {"expected": expected, "got": rule[:80]}
                )
        for rule in ALWAYS_KEPT:
            if rule not in keep:
                raise PydanticCustomError(
                    "needed", "{rule} among them: pages of failures and dead letters need those",
                    {"rule": rule},
                )  # fmt: skip
        return keep

    @property
    def labels(self) -> tuple[tuple[str, str], ...]:
        """Name and value of each label by which messages are kept."""
        rules = [rule.removeprefix(LABEL_RULE) for rule in self.keep if rule not in RULES]
        return tuple((name, value) for name, _, value in (rule.partition(":") for rule in rules))


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
    sample: SampleConfig = SampleConfig()
    rollup_labels: tuple[str, ...] = Field((), max_length=MAX_ROLLUP_LABELS)
    expose_env: tuple[str, ...] = ()

    @field_validator("rollup_labels")
    @classmethod
    def _are_names(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if not 0 < len(name) <= MAX_LABEL_NAME:
                raise PydanticCustomError(
                    "no_label", "names of labels, of 1 to {most} characters; {got} is none",
                    {"most": MAX_LABEL_NAME, "got": repr(name[:80])},
                )  # fmt: skip
        if len(set(names)) < len(names):
            raise PydanticCustomError("twice", "each name once")
        return names
