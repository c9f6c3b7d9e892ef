"""Puts our site in the place of Django's."""

from __future__ import annotations

from django.contrib.admin.apps import AdminConfig


class RoleAdminConfig(AdminConfig):
    default_site = "drakkar_site.accounts.admin_site.RoleSite"
