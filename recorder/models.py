"""The history of all workers: runs, their latest state, and everything that happened."""

from __future__ import annotations

from django.db import models


class Run(models.Model):
    """One life of a worker (or controller) process. The worker makes the id (UUIDv7)."""

    id = models.UUIDField(primary_key=True)
    cluster = models.CharField(max_length=63)
    worker = models.CharField(max_length=255)
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    version = models.CharField(max_length=64)
    isolation = models.CharField(max_length=32)
    slots = models.IntegerField()
    config_hash = models.CharField(max_length=64)
    config = models.JSONField(default=dict)
    environment = models.JSONField(default=dict)
    started_at = models.DateTimeField()
    recorded_seq = models.BigIntegerField(default=0)

    class Meta:
        indexes = [
            models.Index(fields=["cluster", "worker", "started_at"], name="run_by_worker"),
        ]

    def __str__(self) -> str:
        return f"{self.cluster}/{self.worker} {self.id}"


class RunStateName(models.TextChoices):
    """The life cycle of a run."""

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    LOST = "lost"


class RunState(models.Model):
    """The latest beat of a run: one row, replaced every 2 s. Figures are per-run and monotonic."""

    run = models.OneToOneField(Run, on_delete=models.CASCADE, primary_key=True, related_name="beat")
    state = models.CharField(max_length=16, choices=RunStateName.choices)
    waiting_for = models.TextField(blank=True, default="")
    beat_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    rss_bytes = models.BigIntegerField(null=True)
    counters = models.JSONField(default=dict)
    pool = models.JSONField(default=dict)
    partitions = models.JSONField(default=list)
    sinks = models.JSONField(default=list)
    latency = models.JSONField(default=dict)
    recorder = models.JSONField(default=dict)
    metrics = models.JSONField(null=True)

    class Meta:
        indexes = [models.Index(fields=["state", "beat_at"], name="beat_by_state")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.state}"


class Event(models.Model):
    """One thing that happened. The table is range-partitioned by day of ``ts``."""

    id = models.BigAutoField(primary_key=True)
    ts = models.DateTimeField()
    run = models.UUIDField()
    seq = models.BigIntegerField()
    kind = models.CharField(max_length=32)
    topic = models.CharField(max_length=249, null=True)
    partition = models.IntegerField(null=True)
    offset = models.BigIntegerField(null=True)
    task_id = models.CharField(max_length=255, null=True)
    slot = models.IntegerField(null=True)
    exit_code = models.IntegerField(null=True)
    pid = models.IntegerField(null=True)
    duration_ms = models.FloatField(null=True)
    queue_ms = models.FloatField(null=True)
    attempt = models.IntegerField(null=True)
    sink = models.CharField(max_length=255, null=True)
    labels = models.JSONField(null=True)
    args = models.JSONField(null=True)
    stdout = models.BinaryField(null=True)
    stderr = models.BinaryField(null=True)
    stdout_size = models.BigIntegerField(null=True)
    stderr_size = models.BigIntegerField(null=True)
    data = models.JSONField(null=True)

    class Meta:
        managed = True

    def __str__(self) -> str:
        return f"{self.kind} {self.topic}:{self.partition}:{self.offset}"
