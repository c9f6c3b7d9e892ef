"""Saved views on the page that they are of."""

from __future__ import annotations

from typing import Any

from django import template
from django.contrib.auth.models import User

from drakkar_site.accounts.models import MAX_VIEW_NAME
from drakkar_site.accounts.saved_views import SHARING, Views, offered_query, views_of

register = template.Library()


@register.inclusion_tag("saved_views/bar.html", takes_context=True)
def saved_views_bar(context: dict[str, Any]) -> dict[str, Any]:
    """Return the reader's views, those that others share, and what a form saves of this page."""
    request, query = context["request"], offered_query(context["request"].GET)
    user = request.user
    return {
        "views": views_of(user) if isinstance(user, User) else Views(),
        "query": query,
        "may_share": SHARING in context.get("scopes", ()),
        "max_name": MAX_VIEW_NAME,
        "choice": context.get("choice", {}),
    }
