"""Events of a command: stored one by one at once, as a run of its own, without buffer and spool."""

from __future__ import annotations

from domain.events import Event
from recorder.config import RecorderConfig
from recorder.rows import to_row
from recorder.runs import RunDescription
from recorder.writer import ensure_run, flush


class CommandRecorder:
    """``tell`` for one thread; the run is stored with its first event, so most leave none."""

    def __init__(self, run: RunDescription) -> None:
        self._run = run
        self._seq = 0

    def tell(self, event: Event) -> None:
        """Store the event. Raises DatabaseError."""
        if self._seq == 0:
            ensure_run(self._run)
        row = to_row(event, self._seq + 1, RecorderConfig())
        self._seq = flush(self._run, [row], self._seq)
