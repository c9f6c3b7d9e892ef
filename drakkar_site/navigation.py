"""Pages that can be gone to from everywhere: the bar at the top, and what stands behind "More"."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from functools import lru_cache

from django.urls import NoReverseMatch, get_script_prefix, reverse


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """Page by the name of its route, with the scope that it needs; ``is_more``: behind "More"."""

    name: str
    title: str
    is_more: bool = False
    scope: str = "read"


ENTRIES = (
    Entry(name="dashboard", title="Dashboard"),
    Entry(name="trends", title="Trends"),
    Entry(name="workers", title="Workers"),
    Entry(name="partitions", title="Partitions"),
    Entry(name="sinks", title="Sinks"),
    Entry(name="live", title="Live"),
    Entry(name="history", title="History"),
    Entry(name="trace_search", title="Trace"),
    Entry(name="failures", title="Failures"),
    Entry(name="dead_letters", title="Dead letters"),
    Entry(name="topics", title="Topics", is_more=True),
    Entry(name="probe", title="Probe", is_more=True),
    Entry(name="controls", title="Requests", is_more=True),
    Entry(name="versions", title="Versions", is_more=True),
    Entry(name="reruns", title="Reruns", is_more=True),
    Entry(name="debug", title="Debug", is_more=True),
    Entry(name="databases", title="Databases", is_more=True),
    Entry(name="notifications", title="Notifications", is_more=True),
    Entry(name="audit", title="Audit", is_more=True, scope="admin"),
    Entry(name="config", title="Configuration", is_more=True, scope="admin"),
    Entry(name="tokens", title="Tokens", is_more=True, scope="admin"),
    Entry(name="admin:index", title="Admin", is_more=True, scope="admin"),
)
PART_OF = {"task": "trace_search"}
"""Entries of pages whose path begins otherwise, by the first step of that path."""


def entries(scopes: Collection[str]) -> list[tuple[Entry, str]]:
    """Return the entries that somebody with these scopes may open, with the address of each."""
    return [(each, url) for each, url in _existing(get_script_prefix()) if each.scope in scopes]


def current(path: str, found: list[tuple[Entry, str]]) -> Entry | None:
    """Return the entry of a page: its own, else the nearest one above it."""
    part_of = PART_OF.get(path.strip("/").split("/")[0])
    above = [
        (len(url), each)
        for each, url in found
        if path == url or each.name == part_of or path.startswith(_below(each, url))
    ]
    return max(above, key=lambda one: one[0])[1] if above else None


def _below(entry: Entry, url: str) -> str:
    """Return how the paths of its parts begin; the dashboard, at the top of all, has none."""
    return "\0" if entry.name == "dashboard" else f"{url.rstrip('/')}/"


@lru_cache(4)
def _existing(prefix: str) -> tuple[tuple[Entry, str], ...]:
    """Return the entries whose routes exist below ``prefix``, which ``reverse`` asks for itself."""
    found = []
    for each in ENTRIES:
        try:
            found.append((each, reverse(each.name)))
        except NoReverseMatch:
            continue
    return tuple(found)
