"""Composing application."""

from __future__ import annotations

from django.apps import AppConfig


class SiteAppConfig(AppConfig):
    name = "drakkar_site"
    verbose_name = "Drakkar"

    def ready(self) -> None:
        """Register the checks of the configuration."""
        from drakkar_site import checks  # noqa: F401
