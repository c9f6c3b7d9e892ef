"""Dead letters as rows, so that people can find, read and replay them."""

from __future__ import annotations

from django.contrib.postgres.indexes import GinIndex
from django.db import models
from django.db.models.functions import Now


class LetterState(models.TextChoices):
    """State of a letter. ``replayed`` without a confirmed replay: ask Kafka, then decide."""

    OPEN = "open"
    REPLAYED = "replayed"
    RESOLVED = "resolved"
    EXPIRED = "expired"


class DeadLetter(models.Model):
    """One record of a dead-letter topic, named by its place there.

    ``key``, ``value`` and ``headers`` are the original's, their first 64 KiB; ``headers`` is a list
    of ``[name, base64 or null]``. ``traceback`` is that of the handler's error. ``origin`` is
    shared with the letters of its replays: the lineage. ``fingerprint`` is of the whole original;
    ``failure_group`` that of the failure (``recorder.models.FailureGroup``), empty: unknown.
    ``labels`` are those of its task; null: unknown.
    """

    cluster = models.CharField(max_length=63)
    letter_topic = models.CharField(max_length=249)
    letter_partition = models.IntegerField()
    letter_offset = models.BigIntegerField()
    at = models.DateTimeField()
    topic = models.CharField(max_length=249)
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    origin = models.CharField(max_length=600)
    stage = models.CharField(max_length=16)
    failure = models.CharField(max_length=16)
    reason = models.TextField(blank=True)
    attempts = models.IntegerField()
    task_id = models.CharField(max_length=255, blank=True)
    sink = models.CharField(max_length=255, blank=True)
    worker = models.CharField(max_length=255)
    delivery_id = models.TextField(blank=True)
    traceback = models.TextField(blank=True, default="", db_default="")
    key = models.BinaryField(null=True)
    value = models.BinaryField(null=True)
    headers = models.JSONField(default=list)
    size_bytes = models.BigIntegerField()
    is_whole = models.BooleanField()
    fingerprint = models.CharField(max_length=64)
    failure_group = models.CharField(max_length=20, blank=True, default="", db_default="")
    labels = models.JSONField(null=True)
    state = models.CharField(max_length=16, choices=LetterState.choices, default=LetterState.OPEN)
    resolved_at = models.DateTimeField(null=True)
    resolved_by = models.CharField(max_length=150, blank=True, default="")
    resolution = models.TextField(blank=True, default="")

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["cluster", "letter_topic", "letter_partition", "letter_offset"],
                name="letter_by_place",
            ),
        ]
        indexes = [
            models.Index(fields=["at", "id"], name="letter_by_time"),
            models.Index(fields=["cluster", "state", "at", "id"], name="letter_by_state"),
            models.Index(fields=["topic", "partition", "offset"], name="letter_by_message"),
            models.Index(fields=["origin"], name="letter_by_origin"),
            models.Index(fields=["failure_group", "at", "id"], name="letter_by_failure"),
            GinIndex(fields=["labels"], name="letter_by_label", opclasses=["jsonb_path_ops"]),
        ]

    def __str__(self) -> str:
        return f"{self.letter_topic}:{self.letter_partition}:{self.letter_offset}"


class Replay(models.Model):
    """One time a letter was sent again: to a topic, or, as ``sink NAME``, straight to its sink.

    Made before the record is produced; ``confirmed_at`` and ``target_*`` come with the delivery
    report, ``error`` when the record surely was not written. Neither: the sender died in between.
    ``job`` is what sent it, null for a command.
    """

    letter = models.ForeignKey(DeadLetter, on_delete=models.CASCADE, related_name="replays")
    job = models.ForeignKey(
        "LetterJob", null=True, on_delete=models.SET_NULL, related_name="replays"
    )
    actor = models.CharField(max_length=150)
    target_topic = models.CharField(max_length=249)
    target_partition = models.IntegerField(null=True)
    target_offset = models.BigIntegerField(null=True)
    asked_at = models.DateTimeField()
    confirmed_at = models.DateTimeField(null=True)
    error = models.TextField(blank=True)

    class Meta:
        indexes = [models.Index(fields=["letter", "asked_at"], name="replay_by_letter")]

    def __str__(self) -> str:
        return f"{self.letter_id} to {self.target_topic}:{self.target_partition}"


class LetterAction(models.TextChoices):
    """Actions on letters."""

    SOURCE = "source"
    SINK = "sink"
    RESOLVE = "resolve"
    EDIT = "edit"


class LetterJobState(models.TextChoices):
    """Life of a job; the last two are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


class LetterJob(models.Model):
    """Letters to replay or to resolve, asked for on a page; the controller does it.

    ``key`` makes asking idempotent. ``claim`` is the runner's own: who finds another one there has
    lost the job. ``result`` counts what became of the letters. ``replacement`` is what an edited
    replay sends (``sinks.letter_edit.Edit``).
    """

    id = models.UUIDField(primary_key=True)
    key = models.CharField(max_length=64, unique=True)
    action = models.CharField(max_length=16, choices=LetterAction.choices)
    cluster = models.CharField(max_length=63)
    selection = models.JSONField(default=dict)
    replacement = models.JSONField(null=True)
    reason = models.TextField(blank=True, default="")
    rate = models.FloatField()
    actor = models.CharField(max_length=150)
    state = models.CharField(
        max_length=16, choices=LetterJobState.choices, default=LetterJobState.QUEUED
    )
    claim = models.UUIDField(null=True)
    created_at = models.DateTimeField(db_default=Now())
    progress_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    letters_total = models.IntegerField()
    letters_done = models.IntegerField(default=0)
    result = models.JSONField(default=dict)
    error = models.TextField(blank=True, default="")

    class Meta:
        indexes = [models.Index(fields=["state", "created_at"], name="letter_job_by_state")]

    def __str__(self) -> str:
        return f"{self.action} of {self.letters_total} letters: {self.state}"
