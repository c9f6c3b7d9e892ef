"""Pages of rows by time and id, youngest first, however many rows there are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Generic, TypeVar

from django.core.exceptions import ValidationError
from django.db.models import Model, Q, QuerySet

PAGE_ROWS = 50
Row = TypeVar("Row", bound=Model)


@dataclass(frozen=True, slots=True, kw_only=True)
class Page(Generic[Row]):
    """Up to 50 rows, the keys of its ends, and whether there are more beyond them."""

    rows: Sequence[Row]
    older: str = ""
    newer: str = ""


def page(rows: QuerySet[Row], column: str, *, older: str = "", newer: str = "") -> Page[Row]:
    """The youngest page, or the one beyond a key. Raises ValueError for a key that is none."""
    if newer:
        found = list(_beyond(rows, column, newer, "gt").order_by(column, "pk")[: PAGE_ROWS + 1])
        shown = found[:PAGE_ROWS][::-1]
        return _page(shown, column, has_older=True, has_newer=len(found) > PAGE_ROWS)
    asked = _beyond(rows, column, older, "lt") if older else rows
    found = list(asked.order_by(f"-{column}", "-pk")[: PAGE_ROWS + 1])
    has_older = len(found) > PAGE_ROWS
    return _page(found[:PAGE_ROWS], column, has_older=has_older, has_newer=bool(older))


def _beyond(rows: QuerySet[Row], column: str, key: str, side: str) -> QuerySet[Row]:
    at, number = _parsed(rows.model, key)
    beyond = Q(**{f"{column}__{side}": at}) | Q(**{column: at, f"pk__{side}": number})
    return rows.filter(**{f"{column}__{side}e": at}).filter(beyond)


def _parsed(model: type[Model], key: str) -> tuple[datetime, Any]:
    at, _, number = key.rpartition("_")
    try:
        return datetime.fromisoformat(at).astimezone(UTC), model._meta.pk.to_python(number)
    except (ValueError, OverflowError, ValidationError) as exc:
        raise ValueError(f"not a place in the list: {key[:80]!r}") from exc


def _page(rows: Sequence[Row], column: str, *, has_older: bool, has_newer: bool) -> Page[Row]:
    return Page(
        rows=rows,
        older=_key(rows[-1], column) if rows and has_older else "",
        newer=_key(rows[0], column) if rows and has_newer else "",
    )


def _key(row: Row, column: str) -> str:
    return f"{getattr(row, column).astimezone(UTC).isoformat()}_{row.pk}"
