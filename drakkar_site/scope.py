"""Choice of cluster and worker: every link within the site and every redirect keeps it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from urllib.parse import parse_qs, urlencode, urlsplit

from django.http import HttpRequest, HttpResponse

NAMES = ("cluster", "worker")
ELSEWHERE = ("//", "/admin/", "/login/", "/static/")
"""Targets of redirects that know no choice."""
MOST_KNOWN, MOST_CHARS = 2048, 1000
"""Addresses kept in memory, and characters of one: readers write them."""


def choice_of(request: HttpRequest) -> dict[str, str]:
    """Return what the page's query chooses."""
    return {name: request.GET[name] for name in NAMES if request.GET.get(name)}


def keep(url: str, choice: Mapping[str, str]) -> str:
    """Return the address with the choice, but for what it chooses itself.

    A chosen worker does not go along to another cluster.
    """
    if not choice:
        return url
    size = len(url) + sum(map(len, choice.values()))
    return (_kept if size <= MOST_CHARS else _joined)(url, tuple(choice.items()))


def _joined(url: str, chosen: tuple[tuple[str, str], ...]) -> str:
    parts, choice = urlsplit(url), dict(chosen)
    own = parse_qs(parts.query, keep_blank_values=True)
    is_other = own.get("cluster", [choice.get("cluster")])[0] != choice.get("cluster")
    left_out = {"worker"} if is_other and "cluster" in choice else set()
    kept = {n: text for n, text in choice.items() if n not in own and n not in left_out}
    query = "&".join(filter(None, (parts.query, urlencode(kept))))
    return parts._replace(query=query).geturl()


_kept = lru_cache(MOST_KNOWN)(_joined)
"""A page of a hundred links is rendered again and again."""


class KeepChoice:
    """Middleware: redirects within the site keep the choice of the page that was asked."""

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self._get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Answer, and add the choice to where the answer leads."""
        response = self._get_response(request)
        where = response.headers.get("Location", "")
        is_ours = where.startswith("/") and not request.path.startswith("/admin/")
        if is_ours and not where.startswith(ELSEWHERE):
            response.headers["Location"] = keep(where, choice_of(request))
        return response
