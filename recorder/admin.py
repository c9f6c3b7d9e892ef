"""Read-only view in the admin of the history: no counting, fast on any number of rows."""

from __future__ import annotations

from functools import cached_property
from itertools import islice
from typing import Any

from django.contrib import admin
from django.core.paginator import Page, Paginator
from django.db.models import QuerySet
from django.http import HttpRequest

from domain.masking import mask_args
from recorder.message_row import expand
from recorder.models import Event, ExportJob, Run, RunState
from recorder.reading import newest, row_with_id

MANY = 1_000_000
MOST_EVENTS = 2_000


class UncountedPaginator(Paginator):  # type: ignore[type-arg]
    """Says "many" where counting would read the whole table."""

    @cached_property
    def count(self) -> int:
        """Not a count: enough pages to go on."""
        return MANY


class EventPaginator(UncountedPaginator):
    """Pages of events, where one row may stand for several; ``/history`` goes further back."""

    count = MOST_EVENTS

    def page(self, number: Any) -> Page[Event]:
        """Return the events of a page, newest first."""
        rows: QuerySet[Event] = self.object_list  # type: ignore[assignment]
        if rows.model is not Event:  # the list of what was done to one
            return super().page(number)
        first = (self.validate_number(number) - 1) * self.per_page
        events = list(islice(newest(rows), first, first + self.per_page))
        return Page(events, number, self)


class ReadOnly(admin.ModelAdmin):  # type: ignore[type-arg]
    """Shows rows; nothing can be added, changed or deleted."""

    paginator = UncountedPaginator
    show_full_result_count = False

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Never."""
        return False


@admin.register(Run)
class RunAdmin(ReadOnly):
    list_display = ["id", "cluster", "worker", "host", "pid", "version", "started_at"]
    ordering = ["-started_at"]
    exclude = ["config", "environment"]


@admin.register(RunState)
class RunStateAdmin(ReadOnly):
    list_display = ["run", "state", "waiting_for", "beat_at", "ended_at"]
    ordering = ["-beat_at"]


@admin.register(Event)
class EventAdmin(ReadOnly):
    list_display = ["ts", "kind", "topic", "partition", "offset", "task_id", "sink"]
    ordering = ["-ts", "-id"]
    exclude = ["stdout", "stderr", "args"]
    readonly_fields = ["command_line"]
    paginator = EventPaginator

    def get_object(
        self, request: HttpRequest, object_id: str, from_field: str | None = None
    ) -> Event | None:
        """Return the event of that id; None where there is none."""
        number = int(object_id) if object_id.isdecimal() else 0
        row = row_with_id(number)
        return next((event for event in expand(row) if event.pk == number), None) if row else None

    @admin.display(description="args")
    def command_line(self, event: Event) -> str:
        """Return the arguments without secrets; empty where the event has none."""
        return " ".join(mask_args([str(each) for each in event.args or ()]))


@admin.register(ExportJob)
class ExportJobAdmin(ReadOnly):
    list_display = ["name", "format", "state", "actor", "created_at", "size_bytes"]
    ordering = ["-created_at"]
