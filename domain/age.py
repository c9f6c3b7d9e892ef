"""Ages as people write them: ``90m`` ago, ``2h`` ago."""

from __future__ import annotations

import re

OLDEST_SECONDS = 100 * 365 * 86_400
"""No history is older, and every calendar has the time."""
_AGE = re.compile(r"(\d{1,6})\s*([smhd])", re.ASCII)
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400}


def age_seconds(text: str) -> int | None:
    """Return the seconds of an age like 90m (``s``, ``m``, ``h``, ``d``); None for what is none."""
    found = _AGE.fullmatch(text.strip())
    return None if found is None else min(int(found[1]) * _SECONDS[found[2]], OLDEST_SECONDS)
