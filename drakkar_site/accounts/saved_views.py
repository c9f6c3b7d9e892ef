"""Named filters of the history: whose they are, who sees them, and what may be kept.

A reader has views of their own. One who operates may share them with all who read; what is shared
is changed by its owner only, and deleted by an admin, too.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from django.contrib.auth.models import User
from django.core.exceptions import PermissionDenied
from django.db import transaction
from django.http import QueryDict

from domain.events import KINDS
from drakkar_site.accounts.models import MAX_VIEW_NAME, MAX_VIEW_QUERY, SavedView
from recorder.pages.history import COLUMNS, shown_filters

MOST_VIEWS = 50
"""Views that one reader keeps, and shared ones of others that a page lists."""
FILTERS = (
    "cluster", "worker", "kind", "topic", "partition", "task", "label", "since", "until", "text",
    "noise", "column",
)  # fmt: skip
"""Names of a view's query. Where a page begins is none: it moves."""
SHARING, OVERRULING = "operate", "admin"
"""Scopes to share a view, and to delete that of another."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Views:
    """Views that a reader sees, by name. ``left_out``: there are more shared ones than listed."""

    own: Sequence[SavedView] = ()
    of_others: Sequence[SavedView] = ()
    left_out: bool = False


def views_of(user: User) -> Views:
    """Return the reader's own views and those that others share."""
    own = SavedView.objects.filter(owner=user).order_by("name", "id")[:MOST_VIEWS]
    shared = SavedView.objects.filter(is_shared=True).exclude(owner=user)
    of_others = list(shared.select_related("owner").order_by("name", "id")[: MOST_VIEWS + 1])
    return Views(
        own=list(own), of_others=of_others[:MOST_VIEWS], left_out=len(of_others) > MOST_VIEWS
    )


def save(user: User, scopes: Collection[str], name: str, query: str, is_shared: bool) -> SavedView:
    """Keep the filters under a name; one of that name is replaced, so sending twice saves once.

    Raises ValueError for a bad name or query or one view too many, PermissionDenied for sharing
    without the scope.
    """
    checked, kept = checked_name(name), checked_query(query)
    _check_sharing(scopes, is_shared)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)  # of two at once the second counts
        is_new = not SavedView.objects.filter(owner=user, name=checked).exists()
        if is_new and SavedView.objects.filter(owner=user).count() >= MOST_VIEWS:
            raise ValueError(f"name: expected at most {MOST_VIEWS} views, delete one you have")
        view, _ = SavedView.objects.update_or_create(
            owner=user, name=checked, defaults={"query": kept, "is_shared": is_shared}
        )
    return view


def change(
    user: User, scopes: Collection[str], view: SavedView, name: str, is_shared: bool
) -> None:
    """Rename a view of one's own, share it or end that. Raises ValueError for a bad name or one
    that is taken, PermissionDenied for a view of another or sharing without the scope."""
    if view.owner_id != user.pk:
        raise PermissionDenied("This view is another's: save one of your own")
    checked = checked_name(name)
    _check_sharing(scopes, is_shared and not view.is_shared)
    with transaction.atomic():
        User.objects.select_for_update().get(pk=user.pk)
        if SavedView.objects.filter(owner=user, name=checked).exclude(pk=view.pk).exists():
            raise ValueError(f"name: expected one that no view of yours has, got {checked}")
        SavedView.objects.filter(pk=view.pk).update(name=checked, is_shared=is_shared)


def delete(user: User, scopes: Collection[str], view: SavedView) -> None:
    """Delete a view of one's own, or, as an admin, a shared one. Raises PermissionDenied."""
    if view.owner_id != user.pk and not (view.is_shared and OVERRULING in scopes):
        raise PermissionDenied("This view is another's: its owner or an admin deletes it")
    view.delete()


def checked_name(text: str) -> str:
    """Return the name on one line. Raises ValueError."""
    name = " ".join("".join(each if each.isprintable() else " " for each in text).split())
    if not 1 <= len(name) <= MAX_VIEW_NAME:
        raise ValueError(f"name: expected 1 to {MAX_VIEW_NAME} characters, got {len(name)}")
    return name


def checked_query(text: str) -> str:
    """Return the query with the history's filters only, each as it means something. Raises
    ValueError naming what is none."""
    _check_length(text)
    if "\0" in text or "%00" in text:
        raise ValueError("query: expected no NUL character, got one")
    asked = QueryDict(text.removeprefix("?"), mutable=True)
    for name in asked:
        if name not in FILTERS:
            raise ValueError(f"query: expected {', '.join(FILTERS)}, got {name[:40]}")
    for name, known in (("kind", KINDS), ("column", COLUMNS)):
        for value in asked.getlist(name):
            if value not in known:
                raise ValueError(f"query: expected a known {name}, got {value[:40]}")
    for name in [name for name in asked if not any(asked.getlist(name))]:
        del asked[name]
    shown_filters(asked)
    kept = asked.urlencode()
    _check_length(kept)
    return kept


def _check_length(query: str) -> None:
    if len(query) > MAX_VIEW_QUERY:
        raise ValueError(
            f"query: expected at most {MAX_VIEW_QUERY} characters, got {len(query)}: choose less"
        )


def offered_query(asked: QueryDict) -> str:
    """Return the filters of a page's query, to be saved."""
    kept = asked.copy()
    for name in [name for name in kept if name not in FILTERS]:
        del kept[name]
    return kept.urlencode()


def _check_sharing(scopes: Collection[str], is_shared: bool) -> None:
    if is_shared and SHARING not in scopes:
        raise PermissionDenied(f"Sharing a view needs the scope {SHARING}")
