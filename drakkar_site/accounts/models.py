"""API tokens: the secret is shown once, only its digest is stored."""

from __future__ import annotations

from datetime import datetime

from django.conf import settings
from django.db import models

SCOPES = ("read", "export", "operate", "admin")


class Token(models.Model):
    """A secret of 256 bits that acts as its user, within its scopes, until it ends."""

    user = models.ForeignKey(settings.AUTH_USER_MODEL, on_delete=models.CASCADE)
    prefix = models.CharField(max_length=8)
    digest = models.CharField(max_length=64, unique=True)
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
