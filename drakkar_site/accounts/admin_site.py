"""Django's admin, opened by the role ``admin``; no flag has to be set by hand."""

from __future__ import annotations

from django.contrib.admin import AdminSite
from django.contrib.auth.forms import AuthenticationForm
from django.http import HttpRequest

from drakkar_site.accounts.roles import is_admin


class RoleSite(AdminSite):
    """Asks for the user's role; the gate has asked for the session's or token's scope before."""

    site_header = site_title = "Drakkar"
    index_title = "Users, tokens and the history's tables"
    login_form = AuthenticationForm  # Django's own asks for the staff flag

    def has_permission(self, request: HttpRequest) -> bool:
        """The role, or Django's own staff flag; active users only."""
        return is_admin(request.user) or super().has_permission(request)
