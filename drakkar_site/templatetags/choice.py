"""Links within the site, which keep the choice of cluster and worker."""

from __future__ import annotations

from functools import lru_cache
from typing import Any
from urllib.parse import urlencode

from django import template
from django.urls import NoReverseMatch, get_resolver, get_script_prefix, reverse
from django.utils.html import format_html
from django.utils.safestring import SafeString

from domain.worker_hues import first_hue
from drakkar_site.scope import MOST_KNOWN, keep

register = template.Library()
NOWHERE = "#"


@register.simple_tag(takes_context=True)
def page(context: dict[str, Any], name: str, *arguments: Any, **query: Any) -> str:
    """Return the address of a page by its name and the arguments of its path, with a query of its
    own.

    What no page has in its path (an offset below zero, a name with a slash) leads nowhere: rows
    hold what workers and topics put there.
    """
    url = _path(name, arguments, get_script_prefix())
    if url == NOWHERE:
        return url
    return keep(f"{url}?{urlencode(query)}" if query else url, context.get("choice", {}))


@lru_cache(MOST_KNOWN)
def _path(name: str, arguments: tuple[Any, ...], prefix: str) -> str:
    """Return the path below ``prefix``, which ``reverse`` asks for itself. Raises NoReverseMatch
    for a page that is not there."""
    try:
        return reverse(name, args=arguments)
    except NoReverseMatch:
        if not get_resolver().reverse_dict.getlist(name):
            raise
        return NOWHERE


@register.simple_tag(takes_context=True)
def kept(context: dict[str, Any], url: str) -> str:
    """An address of the site that the view has made, with the choice."""
    return keep(url, context.get("choice", {}))


@register.simple_tag(takes_context=True)
def worker_link(context: dict[str, Any], cluster: str, worker: str) -> SafeString:
    """Return the name of a worker in its colour, which leads to its page; the plain name where
    its cluster is unknown."""
    if not cluster:
        return format_html('<span class="who" title="{}">{}</span>', worker, worker)
    return format_html(
        '<a class="who w-{}" href="{}" title="{}">{}</a>',
        hue(context, cluster, worker),
        page(context, "worker", cluster, worker),
        worker,
        worker,
    )


@register.simple_tag(takes_context=True)
def hue(context: dict[str, Any], cluster: str, worker: str) -> int:
    """Return the number of a worker's colour, as everywhere on the site."""
    found: int | None = context.get("hues", {}).get((cluster, worker))
    return first_hue((cluster, worker)) if found is None else found
