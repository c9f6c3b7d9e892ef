"""Buttons that lead to an action; only people who may operate see them."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

register = template.Library()


@register.simple_tag(takes_context=True)
def asking(context: dict[str, Any], action: str, title: str, **target: Any) -> str | SafeString:
    """A link to the confirm page of an action on a target; empty for others than operators."""
    if "operate" not in context.get("scopes", ()):
        return ""
    query = urlencode({"action": action, **target})
    return format_html('<a class="btn" href="{}?{}">{}</a>', reverse("control_new"), query, title)
