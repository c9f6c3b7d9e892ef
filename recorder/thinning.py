"""Leaves fast successes out of the store, their starts with them: nothing looks running for
ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from domain.events import Event, TaskCompleted, TaskStarted


class Thinning:
    """Holds a start back until its attempt ended or lasted ``min_duration_ms``; 0 passes all on.

    ``left_out`` is told both events of an attempt that is not to be kept.
    """

    def __init__(
        self, min_duration_ms: float, left_out: Callable[[Sequence[Event]], None] = lambda _: None
    ) -> None:
        self._min_ms = min_duration_ms
        self._left_out = left_out
        self._held: dict[tuple[int, str, int], TaskStarted] = {}

    def pass_on(self, event: Event) -> Sequence[Event]:
        """Return the events to keep now, in order."""
        if self._min_ms == 0:
            return (event,)
        if isinstance(event, TaskStarted):
            self._held[(event.partition, event.task_id, event.attempt)] = event
            return ()
        start = self._held.pop(_attempt_of(event), None)
        if isinstance(event, TaskCompleted) and event.duration_ms < self._min_ms:
            if start is None:
                return (event,)
            self._left_out((start, event))
            return ()
        return (event,) if start is None else (start, event)

    def due(self, wall: float) -> Iterator[Event]:
        """Starts held long enough: their attempts are slow ones."""
        limit = wall - self._min_ms / 1000.0
        for key, start in list(self._held.items()):
            if start.at > limit:
                return
            del self._held[key]
            yield start


def _attempt_of(event: Event) -> tuple[int, str, int]:
    partition = getattr(event, "partition", -1)
    return partition, getattr(event, "task_id", None) or "", getattr(event, "attempt", -1)
