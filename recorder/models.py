"""History of all workers: runs, their latest state, and everything that happened."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from django.contrib.postgres.fields import ArrayField
from django.contrib.postgres.indexes import BrinIndex
from django.db import models

from domain.beat import (
    CounterBeat,
    LatencyBeat,
    PartitionBeat,
    PoolBeat,
    RecorderBeat,
    SinkBeat,
)
from recorder.copying import copy_rows
from recorder.fields import record_field, records_field


class Run(models.Model):
    """One life of a worker (or controller) process. The worker makes the id (UUIDv7).

    ``process`` is boot, PID namespace and start of the process, empty where unknown: with ``host``
    and ``pid`` it names the process (``workers.runtime.process_identity``). ``cgroups``: which
    bounds its tasks' cgroups set, or why they have none (``workers.executor.cgroups``); empty where
    it runs no tasks. Versions and ``deployed_by`` are empty where unknown.

    ``run_before`` is the run that it is compared with (``recorder.run_changes``), and the changes
    are lists of ``domain.changes.Change``; null: there was none.
    """

    id = models.UUIDField(primary_key=True)
    cluster = models.CharField(max_length=63)
    worker = models.CharField(max_length=255)
    host = models.CharField(max_length=255)
    pid = models.IntegerField()
    process = models.CharField(max_length=128, default="")
    version = models.CharField(max_length=64)
    isolation = models.CharField(max_length=32)
    cgroups = models.CharField(max_length=255, default="")
    slots = models.IntegerField()
    config_hash = models.CharField(max_length=64)
    config = models.JSONField(default=dict)
    environment = models.JSONField(default=dict)
    handler_version = models.CharField(max_length=200, default="")
    program_version = models.CharField(max_length=200, default="")
    deployed_by = models.CharField(max_length=150, default="")
    run_before = models.UUIDField(null=True)
    version_changes = models.JSONField(null=True)
    config_changes = models.JSONField(null=True)
    started_at = models.DateTimeField()
    recorded_seq = models.BigIntegerField(default=0)

    class Meta:
        indexes = [
            models.Index(fields=["cluster", "worker", "started_at"], name="run_by_worker"),
        ]

    def __str__(self) -> str:
        return f"{self.cluster}/{self.worker} {self.id}"


class StoredRun(models.Model):
    """Number of a run's last stored event, beside its events: moved on, it stores each once.

    Only where the history has a database of its own: else ``Run.recorded_seq`` itself is that, and
    with one it follows this.
    """

    id = models.UUIDField(primary_key=True)
    recorded_seq = models.BigIntegerField(default=0)

    def __str__(self) -> str:
        return f"{self.id} up to {self.recorded_seq}"


class RunStateName(models.TextChoices):
    """Life cycle of a run."""

    STARTING = "starting"
    READY = "ready"
    PAUSED = "paused"
    DRAINING = "draining"
    STOPPED = "stopped"
    LOST = "lost"


class RunState(models.Model):
    """Latest beat of a run: one row, replaced every 2 s. Figures are per-run and monotonic.

    ``state_since`` is when the run came into its state or, ready, began to wait for something.
    """

    run = models.OneToOneField(Run, on_delete=models.CASCADE, primary_key=True, related_name="beat")
    state = models.CharField(max_length=16, choices=RunStateName.choices)
    waiting_for = models.TextField(blank=True, default="")
    state_since = models.DateTimeField(null=True)
    beat_at = models.DateTimeField()
    ended_at = models.DateTimeField(null=True)
    rss_bytes = models.BigIntegerField(null=True)
    counters = record_field(CounterBeat)
    pool = record_field(PoolBeat)
    partitions = records_field(PartitionBeat)
    sinks = records_field(SinkBeat)
    latency = record_field(LatencyBeat)
    recorder = record_field(RecorderBeat)
    metrics = models.JSONField(null=True)

    class Meta:
        indexes = [models.Index(fields=["state", "beat_at"], name="beat_by_state")]

    def __str__(self) -> str:
        return f"{self.run_id} {self.state}"


class PrunedRuns(models.Model):
    """What the runs of a worker's name counted whose rows went with their events.

    ``sinks`` are sums and latest figures of each sink over these runs.
    """

    cluster = models.CharField(max_length=63)
    worker = models.CharField(max_length=255)
    counters = record_field(CounterBeat)
    sinks = records_field(SinkBeat)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cluster", "worker"], name="pruned_runs_once")
        ]

    def __str__(self) -> str:
        return f"pruned runs of {self.cluster}/{self.worker}"


class RunTrack(models.Model):
    """A run's figures over its last ten minutes, one sample each ten seconds, replaced as a whole.

    A sample is ``[UTC epoch seconds, [counters], lag or null, [latency counts] or null, partitions
    owned, spooled bytes or null, events shed or null]``, oldest first; read by position, and an
    older one ends earlier. ``bounds`` are the upper bounds of the latency counts in seconds.
    """

    run = models.OneToOneField(
        Run, on_delete=models.CASCADE, primary_key=True, related_name="track"
    )
    written_at = models.DateTimeField(db_index=True)
    bounds = models.JSONField(default=list)
    samples = models.JSONField(default=list)

    def __str__(self) -> str:
        return f"{self.run_id} at {self.written_at}"


class EventManager(models.Manager["Event"]):
    """Reads are the ORM's; rows are written by COPY on Django's own connection."""

    def copy_in(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Store rows (``recorder.copying.copy_rows``)."""
        copy_rows(Event, rows)


class Event(models.Model):
    """One thing that happened, or all of a message that went as usual (``recorder.message_row``).

    The table is range-partitioned by day of ``ts``. The database counts ``id`` up, and keeps no
    key: nothing but the admin looks a row up by it.
    """

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

    objects = EventManager()

    class Meta:
        indexes = [
            models.Index(fields=["ts", "id"], name="event_by_time"),
            models.Index(fields=["partition", "offset"], name="event_by_offset"),
            models.Index(
                fields=["task_id"], name="event_by_task", condition=models.Q(task_id__isnull=False)
            ),
            models.Index(
                fields=["kind", "partition", "ts", "id"],
                name="event_by_kind_unfolded",
                condition=~models.Q(kind="message"),
            ),
            BrinIndex(fields=["id"], name="event_by_id", autosummarize=True),
            models.Index(fields=["run", "seq"], name="event_by_run"),
        ]

    def __str__(self) -> str:
        return f"{self.kind} {self.topic}:{self.partition}:{self.offset}"


class RollupSource(models.Model):
    """Where rolled up events came from: what charts can be asked for and parted by."""

    id = models.AutoField(primary_key=True)
    cluster = models.CharField(max_length=63)
    worker = models.CharField(max_length=255)
    host = models.CharField(max_length=255)
    handler_version = models.CharField(max_length=200, default="")
    program_version = models.CharField(max_length=200, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cluster", "worker", "host", "handler_version", "program_version"],
                name="rollup_source_once",
            )
        ]

    def __str__(self) -> str:
        return f"{self.cluster}/{self.worker} on {self.host}"


class Rollup(models.Model):
    """Sums of events over a minute, an hour or a day (``step`` seconds from ``start``, UTC epoch
    seconds), written with the events (``recorder.rollups.projection``).

    ``run`` is that of a minute's events; hours and days have none. ``subject`` and the other parts
    of the key: ``recorder.rollups.sums``. Sums are whole microseconds; ``durations`` and ``waits``
    are counts by bucket (``domain.log_buckets``), and end with the last that is not 0.
    """

    id = models.BigAutoField(primary_key=True)
    step = models.IntegerField()
    start = models.BigIntegerField()
    run = models.UUIDField()
    source = models.IntegerField()
    subject = models.CharField(max_length=16)
    outcome = models.CharField(max_length=32)
    failure = models.CharField(max_length=32)
    sink = models.CharField(max_length=255)
    label = models.CharField(max_length=255)
    value = models.CharField(max_length=255)
    count = models.BigIntegerField()
    duration_us = models.BigIntegerField()
    wait_us = models.BigIntegerField()
    cpu_us = models.BigIntegerField(null=True)
    peak_rss_bytes = models.BigIntegerField(null=True)
    output_bytes = models.BigIntegerField()
    durations = ArrayField(models.IntegerField())
    waits = ArrayField(models.IntegerField())

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=[
                    "step", "subject", "start", "source", "run", "outcome", "failure", "sink",
                    "label", "value",
                ],
                name="rollup_once",
            )
        ]  # fmt: skip

    def __str__(self) -> str:
        return f"{self.count} of {self.subject} from {self.start} on"


class Gauge(models.Model):
    """A figure of a run over a minute, an hour or a day: ``count`` looks at it, their sum, the
    least, the most, and the last. A minute of which nothing is known has no row."""

    id = models.BigAutoField(primary_key=True)
    step = models.IntegerField()
    start = models.BigIntegerField()
    run = models.UUIDField()
    source = models.IntegerField()
    name = models.CharField(max_length=32)
    count = models.IntegerField()
    total = models.FloatField()
    least = models.FloatField()
    most = models.FloatField()
    last = models.FloatField()

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["step", "name", "start", "source", "run"], name="gauge_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} from {self.start} on: {self.last}"


class FailureState(models.TextChoices):
    """Life of a failure group, as a person sees it; ``open`` too for one that came back."""

    OPEN = "open"
    ACKNOWLEDGED = "acknowledged"
    RESOLVED = "resolved"
    IGNORED = "ignored"


class FailureGroup(models.Model):
    """Failures of one cause (``domain.fingerprint``) in a cluster.

    ``count`` are its failures since ``first_seen``, ``letters`` the dead letters that it made. A
    resolved one that fails again is open again, and ``came_back_at`` says when; an ignored one is
    when it reaches ``ignored_count`` or fails after ``ignored_until``.
    """

    fingerprint = models.CharField(max_length=20, primary_key=True)
    cluster = models.CharField(max_length=63)
    kind = models.CharField(max_length=16)
    title = models.CharField(max_length=300)
    first_seen = models.DateTimeField()
    last_seen = models.DateTimeField()
    count = models.BigIntegerField(default=0)
    letters = models.BigIntegerField(default=0)
    state = models.CharField(max_length=16, choices=FailureState.choices, default=FailureState.OPEN)
    owner = models.CharField(max_length=150, blank=True, default="")
    note = models.TextField(blank=True, default="")
    changed_at = models.DateTimeField(null=True)
    changed_by = models.CharField(max_length=150, blank=True, default="")
    resolved_at = models.DateTimeField(null=True)
    ignored_until = models.DateTimeField(null=True)
    ignored_count = models.BigIntegerField(null=True)
    came_back_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["last_seen", "fingerprint"], name="failure_by_time"),
            models.Index(fields=["first_seen", "fingerprint"], name="failure_by_start"),
            models.Index(fields=["count", "fingerprint"], name="failure_by_count"),
        ]

    def __str__(self) -> str:
        return f"{self.fingerprint} {self.title}"


class FailureCount(models.Model):
    """Failures of a group in a run over five minutes from ``start`` on.

    ``labels`` counts them by a label's name and value, a bounded number of each
    (``recorder.failures.counting``); ``samples`` are the latest of them, oldest first.
    """

    group = models.CharField(max_length=20)
    run = models.UUIDField()
    start = models.DateTimeField()
    count = models.BigIntegerField(default=0)
    letters = models.BigIntegerField(default=0)
    labels = models.JSONField(default=dict)
    samples = models.JSONField(default=list)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["group", "start", "run"], name="failure_count_once")
        ]
        indexes = [models.Index(fields=["start"], name="failure_count_by_time")]

    def __str__(self) -> str:
        return f"{self.count} of {self.group} from {self.start} on"


class ExportState(models.TextChoices):
    """Life cycle of an export."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


class ExportJob(models.Model):
    """An export that somebody asked for; the controller runs it.

    ``claim`` is the runner's own key: who finds another one there has lost the job. ``name`` is
    only what the download is called.
    """

    id = models.UUIDField(primary_key=True)
    name = models.CharField(max_length=100)
    format = models.CharField(max_length=16)
    selection = models.JSONField(default=dict)
    actor = models.CharField(max_length=150)
    state = models.CharField(max_length=16, choices=ExportState.choices, default=ExportState.QUEUED)
    claim = models.UUIDField(null=True)
    created_at = models.DateTimeField()
    progress_at = models.DateTimeField()
    finished_at = models.DateTimeField(null=True)
    expires_at = models.DateTimeField(null=True)
    events_done = models.BigIntegerField(default=0)
    events_total = models.BigIntegerField(null=True)
    size_bytes = models.BigIntegerField(null=True)
    error = models.TextField(blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["state", "created_at"], name="export_by_state")]

    def __str__(self) -> str:
        return f"{self.name} {self.state}"
