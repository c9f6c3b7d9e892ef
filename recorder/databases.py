"""Two databases: control (accounts, requests, letters, jobs, runs), and the history of events.

Without ``site.history_url`` both are one. With it, what is stored in one transaction with the
events stands in the history (``HISTORY_MODELS``), and no query joins the two: what is asked of runs
is asked first, and the events by the ids found.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from django.conf import settings
from django.db import DEFAULT_DB_ALIAS, InterfaceError, OperationalError, connections, models
from django.db.backends.base.base import BaseDatabaseWrapper

P = ParamSpec("P")
T = TypeVar("T")
HISTORY = "history"
HISTORY_MODELS = frozenset({
    "event", "storedrun", "rollup", "rollupsource", "gauge", "failuregroup", "failurecount",
})  # fmt: skip
"""Models of ``recorder``, lower case, that stand in the history; all others are control's. A
migration's ``RunSQL`` or ``RunPython`` about them says so: ``hints={"model_name": "event"}``."""


def is_apart() -> bool:
    """Tell whether the history has a database of its own."""
    return HISTORY in settings.DATABASES


def history_alias() -> str:
    """Return Django's alias of the database that holds the events."""
    return HISTORY if is_apart() else DEFAULT_DB_ALIAS


def history() -> BaseDatabaseWrapper:
    """Return this thread's connection to the history."""
    return connections[history_alias()]


def is_history_away() -> bool:
    """Tell whether this thread's last use of a history that is apart failed, and control did
    not."""
    if not is_apart() or connections[DEFAULT_DB_ALIAS].errors_occurred:
        return False
    return bool(history().errors_occurred)


def unless_away(read: Callable[P, T], otherwise: T, *args: P.args, **kwargs: P.kwargs) -> T:
    """Return what was read of the history; ``otherwise`` where that is apart and away, for pages
    that can do without. Raises DatabaseError where both databases are one."""
    try:
        return read(*args, **kwargs)
    except (OperationalError, InterfaceError):
        if not is_history_away():
            raise
        return otherwise


def own_connections() -> list[BaseDatabaseWrapper]:
    """Return this thread's connections to control and, where it is apart, to the history."""
    return [connections[alias] for alias in dict.fromkeys((DEFAULT_DB_ALIAS, history_alias()))]


def close_own_connections() -> None:
    """Close this thread's connections to both."""
    for each in own_connections():
        each.close()


class Router:
    """Sends each model to its database, and each migration to where its model is."""

    def db_for_read(self, model: type[models.Model], **hints: Any) -> str:
        """Return the alias of the model's database."""
        del hints
        is_history = (
            model._meta.app_label == "recorder" and model._meta.model_name in HISTORY_MODELS
        )
        return history_alias() if is_history else DEFAULT_DB_ALIAS

    db_for_write = db_for_read

    def allow_migrate(
        self, db: str, app_label: str, model_name: str | None = None, **hints: Any
    ) -> bool:
        """Tell whether a step of a migration concerns that database."""
        del hints
        is_history = app_label == "recorder" and (model_name or "").lower() in HISTORY_MODELS
        return db == (history_alias() if is_history else DEFAULT_DB_ALIAS)
