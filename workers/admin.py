"""The admin's read-only view of what was asked of workers."""

from __future__ import annotations

from django.contrib import admin

from recorder.admin import ReadOnly
from workers.models import ControlRequest


@admin.register(ControlRequest)
class ControlRequestAdmin(ReadOnly):
    list_display = ["requested_at", "action", "cluster", "worker", "state", "actor", "detail"]
    ordering = ["-requested_at", "id"]
    exclude = ["key"]
