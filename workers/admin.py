"""The admin's read-only view of what was asked of workers, and of dead letters."""

from __future__ import annotations

from django.contrib import admin

from recorder.admin import ReadOnly
from sinks.models import DeadLetter, LetterJob, Replay
from workers.models import ControlRequest, RerunJob, RerunMessage


@admin.register(ControlRequest)
class ControlRequestAdmin(ReadOnly):
    list_display = ["requested_at", "action", "cluster", "worker", "state", "actor", "detail"]
    ordering = ["-requested_at", "id"]
    exclude = ["key"]


@admin.register(DeadLetter)
class DeadLetterAdmin(ReadOnly):
    list_display = ["at", "cluster", "topic", "partition", "offset", "stage", "failure", "state"]
    ordering = ["-at", "-id"]
    exclude = ["key", "value", "headers"]


@admin.register(Replay)
class ReplayAdmin(ReadOnly):
    list_display = ["asked_at", "actor", "letter_id", "target_topic", "confirmed_at", "error"]
    ordering = ["-id"]
    raw_id_fields = ["letter"]


@admin.register(LetterJob)
class LetterJobAdmin(ReadOnly):
    list_display = ["created_at", "action", "cluster", "actor", "state", "letters_done", "error"]
    ordering = ["-created_at"]
    exclude = ["key", "claim", "replacement"]


@admin.register(RerunJob)
class RerunJobAdmin(ReadOnly):
    list_display = ["created_at", "cluster", "filter_text", "actor", "state", "messages_done"]
    ordering = ["-created_at"]
    exclude = ["key", "claim"]


@admin.register(RerunMessage)
class RerunMessageAdmin(ReadOnly):
    list_display = ["id", "topic", "partition", "offset", "state", "target_offset", "fate"]
    ordering = ["-id"]
    raw_id_fields = ["job"]
