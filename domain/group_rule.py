"""What a group of tasks may have of the slots of one worker."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupRule:
    """At most ``max_running`` places at once (None: all), and while several groups wait a part of
    the starts in proportion to ``weight``."""

    max_running: int | None = None
    weight: float = 1.0
