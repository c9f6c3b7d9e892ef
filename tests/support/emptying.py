"""Empties the database after a test with real commits: the tables that it wrote, and no others.

Django's ``flush`` truncates every table and makes content types, permissions and roles anew: 0.2 s
a test. It is called still where a test changed a row that ``migrate`` made.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from django.core.management import call_command
from django.db import connections, transaction
from django.test import TransactionTestCase

Rows = dict[str, list[str]]
_made: dict[str, Rows] = {}
"""By alias the rows of each table that has any after ``migrate``."""


def use() -> None:
    """Put this in the place of ``flush`` behind each test with real commits."""
    TransactionTestCase._fixture_teardown = _empty  # type: ignore[attr-defined]


def note(alias: str) -> None:
    """Remember what ``migrate`` made, before a test wrote anything."""
    _made[alias] = {table: _rows(alias, table) for table in _written(alias, _tables(alias))}


def _empty(case: Any) -> None:
    for alias in case._databases_names(include_mirrors=False):
        made = _made[alias]
        if all(set(rows) <= set(_rows(alias, table)) for table, rows in made.items()):
            _remove_written(alias, made)
        else:
            call_command("flush", verbosity=0, interactive=False, database=alias)
            note(alias)


def _remove_written(alias: str, made: Rows) -> None:
    written = _written(alias, set(_tables(alias)) - made.keys())
    with transaction.atomic(using=alias), connections[alias].cursor() as cursor:
        if written:
            cursor.execute(f"TRUNCATE {', '.join(written)} CASCADE")
        for table, rows in made.items():
            cursor.execute(f"DELETE FROM {table} t WHERE t::text <> ALL (%s)", [rows])


def _tables(alias: str) -> list[str]:
    return connections[alias].introspection.django_table_names(
        only_existing=True, include_views=False
    )


def _written(alias: str, tables: Iterable[str]) -> list[str]:
    """Those that have a row."""
    each = [f"SELECT '{table}' WHERE EXISTS (SELECT FROM {table})" for table in sorted(tables)]
    with connections[alias].cursor() as cursor:
        cursor.execute(" UNION ALL ".join(each))
        return [table for (table,) in cursor.fetchall()]


def _rows(alias: str, table: str) -> list[str]:
    with connections[alias].cursor() as cursor:
        cursor.execute(f"SELECT t::text FROM {table} t ORDER BY 1")
        return [row for (row,) in cursor.fetchall()]
