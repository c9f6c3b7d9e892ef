from __future__ import annotations

from django.apps import AppConfig
from django.db.models.signals import post_migrate


class AccountsConfig(AppConfig):
    name = "drakkar_site.accounts"
    label = "accounts"
    default_auto_field = "django.db.models.BigAutoField"

    def ready(self) -> None:
        """Make roles and the first admin after each migration."""
        from drakkar_site.accounts.roles import ensure_accounts

        post_migrate.connect(ensure_accounts, sender=self, dispatch_uid="drakkar_accounts")
