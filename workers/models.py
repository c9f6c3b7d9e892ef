"""What people ask for: actions of workers, messages run again, live tails of tasks."""

from __future__ import annotations

import uuid

from django.conf import settings
from django.db import models
from django.db.models.functions import Now


class ControlState(models.TextChoices):
    """Life of a request; the last three are final."""

    REQUESTED = "requested"
    ACCEPTED = "accepted"
    DONE = "done"
    FAILED = "failed"
    EXPIRED = "expired"


class ControlRequest(models.Model):
    """Action asked of one worker, or with an empty ``worker`` of a whole cluster. ``reason`` is why
    in the words of ``actor``, empty where none was given; ``detail`` is the answer in words,
    ``result`` a document that some actions answer with.

    ``key`` makes asking idempotent: a second request with the same key is the first one.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    key = models.CharField(max_length=64, unique=True)
    cluster = models.CharField(max_length=255)
    worker = models.CharField(max_length=255)
    action = models.CharField(max_length=32)
    arguments = models.JSONField(default=dict)
    state = models.CharField(
        max_length=16, choices=ControlState.choices, default=ControlState.REQUESTED
    )
    actor = models.CharField(max_length=255)
    reason = models.CharField(max_length=500, default="", db_default="")
    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.SET_NULL, null=True)
    requested_at = models.DateTimeField(db_default=Now())
    accepted_at = models.DateTimeField(null=True)
    ended_at = models.DateTimeField(null=True)
    run = models.UUIDField(null=True)
    detail = models.TextField(default="")
    result = models.JSONField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["cluster", "worker"],
                name="control_open",
                condition=models.Q(state=ControlState.REQUESTED),
            ),
            models.Index(fields=["-requested_at", "id"], name="control_by_time"),
            models.Index(fields=["cluster", "action", "-requested_at"], name="control_by_action"),
        ]

    def __str__(self) -> str:
        return f"{self.action} of {self.cluster}/{self.worker}: {self.state}"


class StandingPause(models.Model):
    """Pause of a cluster, or of a group or key in it, on all its workers; gone once it is ended.

    ``subject`` is one of ``workers.control.Subject``, ``name`` that of the group or key, empty for
    the cluster. ``request`` is the one that began it, ``reason`` what ``actor`` gave as one.
    """

    cluster = models.CharField(max_length=63)
    subject = models.CharField(max_length=16)
    name = models.CharField(max_length=255, default="")
    actor = models.CharField(max_length=255)
    reason = models.CharField(max_length=500, default="", db_default="")
    since = models.DateTimeField(db_default=Now())
    request = models.UUIDField()

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["cluster", "subject", "name"], name="pause_once")
        ]

    def __str__(self) -> str:
        return f"{self.subject} {self.name} of {self.cluster}"


class RerunState(models.TextChoices):
    """Life of a rerun; the last three are final."""

    QUEUED = "queued"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"


class RerunJob(models.Model):
    """Messages to be run again, asked for by a person; the controller does it.

    ``key`` makes asking idempotent. ``claim`` is the runner's own: who finds another one there has
    lost the job. ``filters`` say which messages (``workers.control_plane.rerun.filters``), and
    ``filter_text`` says it in words. ``messages_total`` is null until the messages are chosen.
    ``only_failed_tasks``: of a message, only the tasks that failed run again.
    ``is_new_identity``: delivery ids are new, so what was stored before is stored again. ``reason``
    is why, in the words of ``actor``; empty where none was given.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    key = models.CharField(max_length=64, unique=True)
    cluster = models.CharField(max_length=63)
    filters = models.JSONField(default=dict)
    filter_text = models.TextField(default="")
    only_failed_tasks = models.BooleanField(default=True)
    is_new_identity = models.BooleanField(default=False)
    rate = models.FloatField()
    actor = models.CharField(max_length=150)
    reason = models.CharField(max_length=500, default="", db_default="")
    state = models.CharField(max_length=16, choices=RerunState.choices, default=RerunState.QUEUED)
    claim = models.UUIDField(null=True)
    is_cancel_asked = models.BooleanField(default=False)
    cancelled_by = models.CharField(max_length=150, default="")
    created_at = models.DateTimeField(db_default=Now())
    progress_at = models.DateTimeField(db_default=Now())
    finished_at = models.DateTimeField(null=True)
    messages_total = models.IntegerField(null=True)
    messages_done = models.IntegerField(default=0)
    error = models.TextField(default="")

    class Meta:
        indexes = [
            models.Index(fields=["state", "created_at"], name="rerun_by_state"),
            models.Index(fields=["created_at", "id"], name="rerun_by_time"),
        ]

    def __str__(self) -> str:
        return f"rerun of {self.cluster}, {self.filter_text}: {self.state}"


class RerunMessageState(models.TextChoices):
    """State of one message of a rerun; ``sending`` without a runner: it may have arrived."""

    WAITING = "waiting"
    SENDING = "sending"
    SENT = "sent"
    GONE = "gone"
    REFUSED = "refused"
    LEFT_OUT = "left_out"


class RerunMessage(models.Model):
    """One message of a rerun, named by its place, and the place where it was stored again.

    ``tasks`` are the numbers of the tasks that run again (``0,3``); empty: all. ``timestamp`` is
    the record time that the history tells, null where it tells none: another record at that place
    is another message. ``fate`` and ``has_failed`` are how the message ended at its new place;
    empty and null until it has.
    """

    job = models.ForeignKey(RerunJob, on_delete=models.CASCADE, related_name="messages")
    cluster = models.CharField(max_length=63)
    topic = models.CharField(max_length=249)
    partition = models.IntegerField()
    offset = models.BigIntegerField()
    timestamp = models.BigIntegerField(null=True)
    tasks = models.TextField(default="")
    failure = models.CharField(max_length=16, default="")
    state = models.CharField(
        max_length=16, choices=RerunMessageState.choices, default=RerunMessageState.WAITING
    )
    detail = models.TextField(default="")
    sent_at = models.DateTimeField(null=True)
    target_topic = models.CharField(max_length=249, default="")
    target_partition = models.IntegerField(null=True)
    target_offset = models.BigIntegerField(null=True)
    fate = models.CharField(max_length=16, default="")
    has_failed = models.BooleanField(null=True)
    looked_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(fields=["job", "state", "id"], name="rerun_message_by_state"),
            models.Index(fields=["topic", "partition", "offset"], name="rerun_message_by_place"),
            models.Index(
                fields=["looked_at", "id"],
                name="rerun_message_open",
                condition=models.Q(state=RerunMessageState.SENT, has_failed=None),
            ),
        ]

    def __str__(self) -> str:
        return f"{self.topic} {self.partition}:{self.offset}: {self.state}"


class TailLease(models.Model):
    """Wish of one reader to see what a task of a run prints while it runs, until ``expires_at``.

    Readers renew theirs; several of one task share its chunks. The table is unlogged, as that of
    chunks is: a crash of Postgres empties both, and the next renewal begins anew.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4)
    run = models.UUIDField()
    task_id = models.CharField(max_length=255)
    began_at = models.DateTimeField(db_default=Now())
    expires_at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["run", "task_id"], name="tail_lease_of_task")]

    def __str__(self) -> str:
        return f"tail of {self.task_id}"


class TailChunk(models.Model):
    """Piece of a live tail, written by the run while a lease stands and gone with it.

    ``seq`` grows within a task of a run. ``facts`` say how the task stands; ``data`` are bytes that
    the attempt wrote to ``stream`` from ``offset`` on. Of ``facts`` and ``data`` one is set.
    """

    run = models.UUIDField()
    task_id = models.CharField(max_length=255)
    seq = models.BigIntegerField()
    attempt = models.IntegerField(null=True)
    stream = models.CharField(max_length=6, default="")
    offset = models.BigIntegerField(default=0)
    data = models.BinaryField(null=True)
    facts = models.JSONField(null=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(fields=["run", "task_id", "seq"], name="tail_chunk_in_order")
        ]

    def __str__(self) -> str:
        return f"chunk {self.seq} of {self.task_id}"


class MarkKind(models.TextChoices):
    """What somebody asked of a finding: not to tell of its growth, or nothing of it at all."""

    ACKNOWLEDGED = "acknowledged"
    SILENCED = "silenced"


class FindingMark(models.Model):
    """Finding that somebody has taken on, or silenced, until a time; gone after it.

    ``key`` is that of the finding, ``seen_at`` when the finding was last there. That it is
    acknowledged ends with the finding too; a silence stands for when it comes again.
    """

    key = models.CharField(max_length=300, unique=True)
    cluster = models.CharField(max_length=63)
    title = models.TextField()
    kind = models.CharField(max_length=16, choices=MarkKind.choices)
    owner = models.CharField(max_length=255)
    reason = models.CharField(max_length=500)
    since = models.DateTimeField(db_default=Now())
    until = models.DateTimeField()
    seen_at = models.DateTimeField(db_default=Now())

    def __str__(self) -> str:
        return f"{self.kind} by {self.owner}: {self.title}"


class FindingEpisode(models.Model):
    """Time for which one finding lasts (``domain.episode``); ``ended_at`` is null until its end.

    ``told_severity`` is empty until it was told. Texts are those of when it was last seen.
    """

    key = models.CharField(max_length=300)
    kind = models.CharField(max_length=32)
    cluster = models.CharField(max_length=63)
    severity = models.CharField(max_length=8)
    magnitude = models.FloatField(null=True)
    title = models.TextField()
    detail = models.TextField()
    path = models.TextField()
    anchor = models.CharField(max_length=80)
    began_at = models.DateTimeField()
    seen_at = models.DateTimeField()
    gone_at = models.DateTimeField(null=True)
    told_severity = models.CharField(max_length=8, default="")
    told_magnitude = models.FloatField(null=True)
    ended_at = models.DateTimeField(null=True, db_index=True)

    class Meta:
        constraints = [
            models.UniqueConstraint(
                fields=["key"], condition=models.Q(ended_at=None), name="episode_once"
            )
        ]

    def __str__(self) -> str:
        return f"{self.title}, since {self.began_at}"


class NoticeState(models.TextChoices):
    """Life of a notice; the last two are final. ``dropped``: too many waited already."""

    QUEUED = "queued"
    SENT = "sent"
    DROPPED = "dropped"


class Notice(models.Model):
    """One change of a finding that one receiver is told, with others in one message.

    ``message`` is the message it was last sent with; of a queued one: whether that arrived is
    unknown, for its sender ended meanwhile.
    """

    receiver = models.CharField(max_length=63)
    change = models.CharField(max_length=8)
    severity = models.CharField(max_length=8)
    cluster = models.CharField(max_length=63, default="")
    title = models.TextField()
    detail = models.TextField(default="")
    path = models.TextField(default="")
    anchor = models.CharField(max_length=80, default="")
    created_at = models.DateTimeField(db_default=Now())
    state = models.CharField(max_length=8, choices=NoticeState.choices, default=NoticeState.QUEUED)
    attempts = models.IntegerField(default=0)
    message = models.UUIDField(null=True)
    sent_at = models.DateTimeField(null=True)

    class Meta:
        indexes = [
            models.Index(
                fields=["receiver", "id"],
                name="notice_queued",
                condition=models.Q(state=NoticeState.QUEUED),
            ),
            models.Index(fields=["created_at", "id"], name="notice_by_time"),
        ]

    def __str__(self) -> str:
        return f"{self.change} to {self.receiver}: {self.title}"


class NoticeReceiver(models.Model):
    """How sending to one receiver goes; ``claim`` is the sender's own, until ``claimed_until``."""

    name = models.CharField(max_length=63, primary_key=True)
    claim = models.UUIDField(null=True)
    claimed_until = models.DateTimeField(null=True)
    next_at = models.DateTimeField(null=True)
    failures_in_a_row = models.IntegerField(default=0)
    sent_at = models.DateTimeField(null=True)
    error = models.TextField(default="")
    error_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return self.name
