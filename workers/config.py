"""The configuration of one cluster (docs/configuration.md), frozen after start."""

from __future__ import annotations

import hashlib
import os
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from domain.group_rule import GroupRule
from domain.task import MAX_CPUS, MAX_LIMIT, MAX_NAME_BYTES, MAX_SECONDS, MIN_CPUS, Limits
from recorder.config import RecorderConfig
from sinks.config import MIB, Brokers, DeadLettersConfig
from sinks.registry import SinkSection

CgroupMode = Literal["off", "limited", "all"]

Milliseconds = Annotated[int, Field(ge=1)]
Seconds = Annotated[float, Field(gt=0)]


class Section(BaseModel):
    """Base of every section: unknown keys are errors, values are frozen."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class KafkaConfig(Section):
    """The source topic and the consumer group."""

    brokers: Brokers = "localhost:9092"
    client: dict[str, Any] = Field(default_factory=dict)
    topic: str = Field(min_length=1, max_length=249)
    group: str = Field(min_length=1, max_length=255)
    group_protocol: Literal["auto", "consumer", "classic"] = "auto"
    session_timeout_ms: Milliseconds | None = None
    heartbeat_interval_ms: Milliseconds | None = None
    max_poll_interval_ms: Milliseconds = 300_000
    max_poll_records: int = Field(500, ge=1, le=100_000)
    start_at: Literal["earliest", "latest", "error"] = "earliest"
    on_parse_error: Literal["dead_letter", "skip", "park"] = "dead_letter"


class RetryBackoffConfig(Section):
    """Wait between the attempts of a task."""

    initial_seconds: float = Field(1.0, ge=0)
    factor: float = Field(2.0, ge=1)
    max_seconds: float = Field(60.0, ge=0)
    jitter: float = Field(0.2, ge=0, le=1)


class LimitsConfig(Section):
    """Resource limits of each task."""

    cpu_seconds: int | None = Field(None, ge=1, le=MAX_SECONDS)
    memory_bytes: int | None = Field(None, ge=1024, le=MAX_LIMIT)
    open_files: int | None = Field(None, ge=3, le=MAX_LIMIT)
    file_bytes: int | None = Field(None, ge=0, le=MAX_LIMIT)
    processes: int | None = Field(None, ge=1, le=MAX_LIMIT)
    cpu_quota: float | None = Field(None, ge=MIN_CPUS, le=MAX_CPUS)

    def to_domain(self) -> Limits:
        """The same as a domain value."""
        return Limits(**self.model_dump())


class PersistentConfig(Section):
    """The processes of ``mode: persistent``."""

    args: tuple[str, ...] = ()
    max_requests: int | None = Field(None, ge=1)
    await_ready: bool = False
    ready_timeout_seconds: Seconds = 60.0


GroupName = Annotated[str, Field(min_length=1, max_length=MAX_NAME_BYTES)]
"""The name of a group of tasks, or ``*`` for those that have no entry."""


class KeysConfig(Section):
    """How tasks of one key follow each other."""

    max_running_per_key: int = Field(1, ge=1, le=1024)


class GroupConfig(Section):
    """What one group of tasks may have in one worker."""

    max_running: int | None = Field(None, ge=1, le=1024)
    weight: float = Field(1.0, ge=0.01, le=100, allow_inf_nan=False)


def _default_spawners() -> int:
    return max(1, min(4, (os.cpu_count() or 1) // 2))


class ExecutorConfig(Section):
    """How tasks are run."""

    binary: str | None = None
    version_command: tuple[str, ...] | None = Field(None, min_length=1, max_length=64)
    max_executors: int = Field(4, ge=1, le=1024)
    mode: Literal["spawn", "persistent"] = "spawn"
    persistent: PersistentConfig = PersistentConfig()
    task_timeout_seconds: Seconds = 120.0
    kill_grace_seconds: float = Field(5.0, ge=0)
    stall_timeout_seconds: float | None = Field(None, ge=1, le=MAX_SECONDS)
    max_retries: int = Field(3, ge=0)
    retry_backoff: RetryBackoffConfig = RetryBackoffConfig()
    retry_in_place_seconds: float = Field(60.0, ge=0)
    max_stdout_bytes: int = Field(16 * MIB, ge=0)
    max_stderr_bytes: int = Field(1 * MIB, ge=0)
    env: dict[str, str] = Field(default_factory=dict)
    env_pass: tuple[str, ...] = ("PATH", "HOME", "LANG", "LC_*", "TZ", "TMPDIR")
    cwd: str | None = None
    limits: LimitsConfig = LimitsConfig()
    keys: KeysConfig = KeysConfig()
    groups: dict[GroupName, GroupConfig] = Field(default_factory=dict)
    cgroups: CgroupMode = "limited"
    nice: int = Field(10, ge=0, le=19)
    spawners: int = Field(default_factory=_default_spawners, ge=1, le=64)

    @field_validator("mode")
    @classmethod
    def _has_program(cls, mode: str, info: ValidationInfo) -> str:
        if mode == "persistent" and info.data.get("binary", "") is None:
            what = "'spawn', or executor.binary set to the program of the persistent processes"
            raise PydanticCustomError("no_program", what)
        return mode

    def group_rule(self, name: str) -> GroupRule:
        """Return what a named group may have: its entry, else that of ``*``, key by key."""
        given, own = self.groups.get("*", GroupConfig()), self.groups.get(name)
        if own is not None:
            given = given.model_copy(update=own.model_dump(exclude_unset=True))
        return GroupRule(max_running=given.max_running, weight=given.weight)


class RetryConfig(Section):
    """Where messages wait whose retries are far away; ``topic`` None: in their own place."""

    topic: str | None = Field(None, min_length=1, max_length=249)


class BatchConfig(Section):
    """What one ``arrange`` call gets."""

    max_messages: int = Field(100, ge=1)
    linger_ms: float = Field(0, ge=0)


class BackpressureConfig(Section):
    """High marks per worker; ``high_messages`` None means max(1000, 64 x max_executors)."""

    high_messages: int | None = Field(None, ge=1)
    high_bytes: int = Field(64 * MIB, ge=1024)


class MetricsConfig(Section):
    """The worker's own port; 0 takes a free one."""

    host: str = "127.0.0.1"
    port: int = Field(9090, ge=0, le=65_535)


class LoggingConfig(Section):
    """What is logged, and how."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["json", "console"] = "json"


class CustomLink(Section):
    """A link shown on the pages; ``{worker}`` and ``{cluster}`` are filled in."""

    name: str = Field(min_length=1, max_length=80)
    url: str = Field(pattern=r"^https?://")


class LinksConfig(Section):
    """Links to other tools."""

    kafka_ui: str | None = None
    mongo_ui: str | None = None
    redis_ui: str | None = None
    prometheus: str | None = None
    custom: tuple[CustomLink, ...] = ()


class ClusterConfig(Section):
    """One cluster: a handler, its topic, its program and its sinks."""

    handler: str = Field(pattern=r"^[\w.]+:\w+$")
    app: dict[str, Any] = Field(default_factory=dict)
    kafka: KafkaConfig
    executor: ExecutorConfig = ExecutorConfig()
    retry: RetryConfig = RetryConfig()
    batch: BatchConfig = BatchConfig()
    backpressure: BackpressureConfig = BackpressureConfig()
    drain_timeout_seconds: Seconds = 30.0
    revoke_timeout_seconds: Seconds = 5.0
    hook_timeout_seconds: Seconds | None = None
    links: LinksConfig = LinksConfig()
    sinks: dict[str, SinkSection] = Field(min_length=1)
    dead_letters: DeadLettersConfig = DeadLettersConfig()
    recorder: RecorderConfig = RecorderConfig()
    metrics: MetricsConfig = MetricsConfig()
    logging: LoggingConfig = LoggingConfig()

    @property
    def fingerprint(self) -> str:
        """Equal for equal work, over hosts: where a process listens, where it spools and what it
        took from the number of cores is left out."""
        apart: dict[str, Any] = {"metrics": True, "recorder": {"spool_dir"}}
        if "spawners" not in self.executor.model_fields_set:
            apart["executor"] = {"spawners"}
        text = self.model_dump_json(exclude=apart)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    @property
    def high_messages(self) -> int:
        """The message mark in force."""
        given = self.backpressure.high_messages
        return given if given is not None else max(1000, 64 * self.executor.max_executors)

    @property
    def dead_letter_topic(self) -> str:
        """The dead-letter topic in force."""
        return self.dead_letters.topic or f"{self.kafka.topic}_dlq"
