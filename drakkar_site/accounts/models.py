"""API tokens (only a digest of the secret is stored), failed attempts, the audit, and what readers
keep for themselves."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models
from django.db.models.functions import Now

SCOPES = ("read", "export", "operate", "admin")
MAX_KEY_LENGTH = 64
MAX_VIEW_NAME, MAX_VIEW_QUERY = 60, 2_000


class Token(models.Model):
    """A secret of 256 bits that acts as its user, within its scopes, until it ends.

    ``key`` is of the form that asked for it, so that a form sent again issues no other.
    """

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    prefix = models.CharField(max_length=8)
    digest = models.CharField(max_length=64, unique=True)
    key = models.CharField(max_length=MAX_KEY_LENGTH, null=True, unique=True)
    scopes = models.JSONField(default=list)
    created_at = models.DateTimeField(auto_now_add=True)
    expires_at = models.DateTimeField(null=True)
    last_used_at = models.DateTimeField(null=True)
    revoked_at = models.DateTimeField(null=True)

    def __str__(self) -> str:
        return f"{self.prefix}… of {self.user}"

    def is_valid(self, now: datetime) -> bool:
        """Whether the token opens anything at this moment."""
        is_expired = self.expires_at is not None and self.expires_at <= now
        return self.revoked_at is None and not is_expired


class FailedAccess(models.Model):
    """A failed login or token; kept for the minute in which it counts."""

    address = models.CharField(max_length=64)
    at = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["address", "at"], name="failed_by_address")]

    def __str__(self) -> str:
        return f"{self.address} at {self.at}"


class Outcome(models.TextChoices):
    """End of a request; failed is our fault."""

    DONE = "done"
    REFUSED = "refused"
    FAILED = "failed"


class AuditEntry(models.Model):
    """A request that changed something or tried to; secrets are masked before it is stored.

    ``via`` is how the actor was known: a session, a token by its number, ``site.auth_token``.
    """

    at = models.DateTimeField(db_default=Now())
    actor = models.CharField(max_length=255)
    via = models.CharField(max_length=64)
    address = models.CharField(max_length=64)
    method = models.CharField(max_length=8)
    path = models.CharField(max_length=500)
    target = models.CharField(max_length=500)
    status = models.PositiveSmallIntegerField()
    outcome = models.CharField(max_length=8, choices=Outcome.choices)
    request_id = models.CharField(max_length=32)

    class Meta:
        verbose_name_plural = "audit entries"
        indexes = [
            models.Index(fields=["at", "id"], name="audit_by_time"),
            models.Index(fields=["actor", "at"], name="audit_by_actor"),
        ]

    def __str__(self) -> str:
        return f"{self.actor}: {self.method} {self.path}"

    @property
    def line(self) -> str:
        """All of it but the time, for the log where the table cannot take it."""
        who = f"{self.actor} ({self.via}) from {self.address}: {self.method} {self.path}"
        return f"{who}, {self.target}: {self.outcome} {self.status}, request {self.request_id}"


class SavedView(models.Model):
    """Filters of the history that a reader named: the query of its address. ``is_shared``: all who
    may read see it; else its owner alone."""

    owner = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    name = models.CharField(max_length=MAX_VIEW_NAME)
    query = models.CharField(max_length=MAX_VIEW_QUERY, blank=True)
    is_shared = models.BooleanField(default=False)
    saved_at = models.DateTimeField(auto_now=True)

    class Meta:
        constraints = [models.UniqueConstraint(fields=["owner", "name"], name="view_by_name")]
        indexes = [
            models.Index(
                fields=["name", "id"], name="view_shared", condition=models.Q(is_shared=True)
            )
        ]

    def __str__(self) -> str:
        return f"{self.name} of {self.owner}"
