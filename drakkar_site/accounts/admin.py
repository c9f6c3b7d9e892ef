"""Users and groups in the admin; tokens, seen and revoked, never issued; the audit, seen only."""

from __future__ import annotations

from django.contrib import admin
from django.contrib.auth.admin import GroupAdmin, UserAdmin
from django.contrib.auth.models import Group, User
from django.db.models import QuerySet
from django.http import HttpRequest
from django.utils import timezone

from drakkar_site.accounts.models import AuditEntry, Token
from recorder.admin import ReadOnly

admin.site.unregister([User, Group])


@admin.register(User)
class AccountAdmin(UserAdmin):  # type: ignore[type-arg]
    # Django's two-sided chooser has a label that no screen reader may use, and no room on a phone.
    filter_horizontal = ()
    readonly_fields = ["last_login", "date_joined"]


@admin.register(Group)
class RoleAdmin(GroupAdmin):
    filter_horizontal = ()


@admin.register(Token)
class TokenAdmin(ReadOnly):
    # A secret is shown once, on the command line; what a token did stays attributable.
    list_display = [
        "prefix",
        "user",
        "scopes",
        "created_at",
        "expires_at",
        "last_used_at",
        "revoked_at",
    ]
    list_select_related = ["user"]
    ordering = ["-created_at"]
    exclude = ["digest", "key"]
    actions = ["revoke"]

    @admin.action(description="Revoke the selected tokens", permissions=["view"])
    def revoke(self, request: HttpRequest, queryset: QuerySet[Token]) -> None:
        """Revoke tokens; sockets and sessions that they opened end."""
        count = queryset.filter(revoked_at=None).update(revoked_at=timezone.now())
        self.message_user(request, f"{count} revoked")


@admin.register(AuditEntry)
class AuditEntryAdmin(ReadOnly):
    list_display = ["at", "actor", "via", "address", "method", "path", "target", "outcome"]
    ordering = ["-at", "-id"]
