"""Requests of operators to workers: rows that a worker's heartbeat picks up and answers."""

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
    """Action asked of one worker. ``detail`` is the worker's answer in words, ``result``
    a document that some actions answer with.

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
        ]

    def __str__(self) -> str:
        return f"{self.action} of {self.cluster}/{self.worker}: {self.state}"
