"""Pages of rows by a column and the primary key, youngest first, however many rows there are.

A page begins beyond the key of a row, so nothing is counted or skipped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

PAGE_ROWS = 50
Row = TypeVar("Row")
Rows = Any
"""A queryset of Django's, or what is filtered, sorted and sliced as one."""


class BadFilter(ValueError):
    """Raised for a filter that cannot be understood; the message is for the reader."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Row]):
    """Up to 50 rows, and the keys to the pages beyond its ends; empty where there are none."""

    rows: Sequence[Row]
    older: str = ""
    newer: str = ""


def page(rows: Rows, column: str, *, older: str = "", newer: str = "") -> Page[Any]:
    """Return the youngest page, or the one beyond a key. Raises ValueError naming a bad key."""
    if newer:
        ahead = _beyond(rows, column, "newer", newer).order_by(column, "pk")
        found = list(ahead[: PAGE_ROWS + 1])
        shown = found[:PAGE_ROWS][::-1]
        return _page(shown, column, has_older=True, has_newer=len(found) > PAGE_ROWS)
    behind = _beyond(rows, column, "older", older) if older else rows
    found = list(behind.order_by(f"-{column}", "-pk")[: PAGE_ROWS + 1])
    has_older = len(found) > PAGE_ROWS
    return _page(found[:PAGE_ROWS], column, has_older=has_older, has_newer=bool(older))


def _beyond(rows: Rows, column: str, name: str, key: str) -> Rows:
    text, _, number = key.rpartition("_")
    fields = rows.model._meta
    try:
        at, pk = fields.get_field(column).to_python(text), fields.pk.to_python(number)
        if at is None:
            raise ValueError(text)
    except Exception as exc:
        raise ValueError(f"{name}: not a place in the list: {key[:80]!r}") from exc
    further, nearer = ("gte", "lte") if name == "newer" else ("lte", "gte")
    within = rows.filter(**{f"{column}__{further}": at})
    return within.exclude(**{column: at, f"pk__{nearer}": pk})


def _page(rows: Sequence[Row], column: str, *, has_older: bool, has_newer: bool) -> Page[Row]:
    return Page(
        rows=rows,
        older=_key(rows[-1], column) if rows and has_older else "",
        newer=_key(rows[0], column) if rows and has_newer else "",
    )


def _key(row: Any, column: str) -> str:
    value = getattr(row, column)
    return f"{value.isoformat() if hasattr(value, 'isoformat') else value}_{row.pk}"
