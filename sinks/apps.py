from __future__ import annotations

from django.apps import AppConfig


class SinksConfig(AppConfig):
    name = "sinks"
    default_auto_field = "django.db.models.BigAutoField"
