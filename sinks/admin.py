"""The admin's read-only view of dead letters: no counting, fast on any number of rows."""

from __future__ import annotations

from functools import cached_property
from typing import Any

from django.contrib import admin
from django.core.paginator import Paginator
from django.http import HttpRequest

from sinks.models import DeadLetter, LetterJob, Replay

MANY = 1_000_000


class _Uncounted(Paginator):  # type: ignore[type-arg]
    @cached_property
    def count(self) -> int:
        """Not a count, which would read the whole table: enough pages to go on."""
        return MANY


class _ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    paginator = _Uncounted
    show_full_result_count = False
    list_per_page = 50

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


@admin.register(DeadLetter)
class DeadLetterAdmin(_ReadOnly):
    list_display = ["at", "cluster", "topic", "partition", "offset", "stage", "failure", "state"]
    ordering = ["-at", "-id"]
    exclude = ["key", "value", "headers"]


@admin.register(Replay)
class ReplayAdmin(_ReadOnly):
    list_display = ["asked_at", "actor", "letter_id", "target_topic", "confirmed_at", "error"]
    ordering = ["-id"]
    raw_id_fields = ["letter"]


@admin.register(LetterJob)
class LetterJobAdmin(_ReadOnly):
    list_display = ["created_at", "action", "cluster", "actor", "state", "letters_done", "error"]
    ordering = ["-created_at"]
    exclude = ["key", "claim", "replacement"]
