"""When a partition stands still though there is more to read."""

from __future__ import annotations

from collections.abc import Hashable


class StallWatch:
    """Remembers since when each position has not moved. Time is an argument, in seconds."""

    __slots__ = ("_limit_seconds", "_since")

    def __init__(self, limit_seconds: float) -> None:
        self._limit_seconds = limit_seconds
        self._since: dict[Hashable, tuple[int, float]] = {}

    def is_stalled(
        self, key: Hashable, position: int | None, end_offset: int | None, now: float
    ) -> bool:
        """Whether to act now: the position stood for the whole limit with the end ahead of it.

        An unknown position or end, or a pause (give None), begins the wait anew; so does a True.
        """
        if position is None or end_offset is None or end_offset <= position:
            self._since.pop(key, None)
            return False
        stood, since = self._since.get(key, (position, now))
        if stood != position:
            since = now
        is_over = now - since >= self._limit_seconds
        self._since[key] = (position, now if is_over else since)
        return is_over

    def forget(self, key: Hashable) -> None:
        """A new epoch begins."""
        self._since.pop(key, None)
