"""Buttons that lead to an action; only people who may operate see them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from drakkar_site.scope import NAMES, keep
from workers.control import Action

register = template.Library()


@register.simple_tag(takes_context=True)
def asking(context: dict[str, Any], action: str, title: str, **target: Any) -> str | SafeString:
    """A link to the confirm page of an action on a target; empty for who may not ask for it.

    Raises ValueError for an unknown action.
    """
    if Action.named(action).spec.scope not in context.get("scopes", ()):
        return ""
    to = {f"to_{name}" if name in NAMES else name: value for name, value in target.items()}
    url = f"{reverse('control_new')}?{urlencode({'action': action, **to})}"
    return format_html('<a class="btn" href="{}">{}</a>', keep(url, context["choice"]), title)
