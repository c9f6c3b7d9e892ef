"""Links within the site, which keep the choice of cluster and worker."""

from __future__ import annotations

from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import reverse

from drakkar_site.choice import keep

register = template.Library()


@register.simple_tag(takes_context=True)
def page(context: dict[str, Any], name: str, *arguments: Any, **query: Any) -> str:
    """The address of a page by its name and the arguments of its path, with a query of its own."""
    url = reverse(name, args=arguments)
    return keep(f"{url}?{urlencode(query)}" if query else url, context.get("choice", {}))


@register.simple_tag(takes_context=True)
def kept(context: dict[str, Any], url: str) -> str:
    """An address of the site that the view has made, with the choice."""
    return keep(url, context.get("choice", {}))
