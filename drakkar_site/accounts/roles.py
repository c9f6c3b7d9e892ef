"""Roles are Django groups; they and the first admin exist after each migration."""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.contrib.auth.backends import BaseBackend
from django.contrib.auth.models import AnonymousUser, Group, User
from django.db.models import Model, prefetch_related_objects

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
    """Return the scopes of a signed-in user; a user without a role reads. Asks Postgres once for
    each object."""
    if user.is_superuser:
        return SCOPES_OF_ROLE[ADMIN]
    prefetch_related_objects([user], "groups")
    names = {group.name for group in user.groups.all()}
    for role in (ADMIN, OPERATOR):
        if role in names:
            return SCOPES_OF_ROLE[role]
    return SCOPES_OF_ROLE[VIEWER]


def is_admin(user: User | AnonymousUser) -> bool:
    """Whether a user has the role ``admin`` and is active; asks Postgres once for each object."""
    if not (isinstance(user, User) and user.is_active):
        return False
    prefetch_related_objects([user], "groups")  # the admin asks again for each model
    return any(group.name == ADMIN for group in user.groups.all())


class RolePermissions(BaseBackend):
    """Gives the role ``admin`` every permission of Django's admin; signs nobody in."""

    def has_perm(self, user_obj: User | AnonymousUser, perm: str, obj: Model | None = None) -> bool:
        """Whatever the permission is."""
        return is_admin(user_obj)

    def has_module_perms(self, user_obj: User | AnonymousUser, app_label: str) -> bool:
        """Whatever the application is."""
        return is_admin(user_obj)
