from __future__ import annotations

from django.apps import AppConfig
from django.db.backends.signals import connection_created


class RecorderConfig(AppConfig):
    name = "recorder"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Bound every wait at a history that is apart, whoever asks it."""
        from recorder.writer import bound_history

        connection_created.connect(bound_history, dispatch_uid="recorder.bound_history")
