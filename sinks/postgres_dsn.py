"""A sink's DSN: libpq's own, and ``prepare_threshold``, which is the driver's."""

from __future__ import annotations

import re

DEFAULT_THRESHOLD = 5
OPTION = re.compile(r"(?P<lead>^|[?&\s])prepare_threshold\s*=\s*(?P<value>[^\s&#]*)(?P<next>&?)")


def split_dsn(dsn: str) -> tuple[str, int | None]:
    """Return the DSN for libpq, and after how many executions a statement is prepared; None: never.

    ``prepare_threshold=none`` asks for the latter, as a key of the DSN or in a URL's query: for a
    pooler that gives each transaction another server connection. Raises ValueError.
    """
    found = OPTION.search(dsn)
    if found is None:
        return dsn, DEFAULT_THRESHOLD
    value = found["value"].strip("'").lower()
    if value != "none" and not (value.isascii() and value.isdigit() and 1 <= len(value) <= 6):
        raise ValueError(f"prepare_threshold: expected none or a whole number, got {value!r:.50}")
    lead = found["lead"] if found["next"] or found["lead"].isspace() else ""
    rest = f"{dsn[: found.start()]}{lead}{dsn[found.end() :]}"
    return rest, None if value == "none" else int(value)
