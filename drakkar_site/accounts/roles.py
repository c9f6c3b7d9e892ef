"""Roles are Django groups; they and the first admin exist after each migration."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.models import Group, User

VIEWER, OPERATOR, ADMIN = "viewer", "operator", "admin"
ROLES = (VIEWER, OPERATOR, ADMIN)
SCOPES_OF_ROLE = {
    VIEWER: ("read",),
    OPERATOR: ("read", "export", "operate"),
    ADMIN: ("read", "export", "operate", "admin"),
}


def ensure_accounts(**_: Any) -> None:
    """Create the groups, and the configured admin with its password. Idempotent."""
    for role in ROLES:
        Group.objects.get_or_create(name=role)
    site = settings.DRAKKAR_STATE.site
    if not site.admin_user:
        return
    user, is_new = User.objects.get_or_create(
        username=site.admin_user, defaults={"is_staff": True, "is_superuser": True}
    )
    if is_new:
        user.set_password(site.admin_password or None)
        user.save()
        user.groups.add(Group.objects.get(name=ADMIN))


def scopes_of(user: User) -> tuple[str, ...]:
    """What a signed-in user may do; a user without a role reads."""
    if user.is_superuser:
        return SCOPES_OF_ROLE[ADMIN]
    names = set(user.groups.values_list("name", flat=True))
    for role in (ADMIN, OPERATOR):
        if role in names:
            return SCOPES_OF_ROLE[role]
    return SCOPES_OF_ROLE[VIEWER]
