"""Sources of the answers of ``/healthz`` and ``/readyz``: the loop's pulse, what the worker waits
for."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from recorder.recorder import Recorder
from sinks.lane import Lane
from workers.clock import Clock
from workers.log import log
from workers.runtime.membership import Membership

TICK_SECONDS = 0.5
LIVE_SECONDS = 5.0


class Pulse:
    """Ticks of the loop, and how late they are."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._ticked_at = clock.now()
        self.lag_seconds = 0.0
        """Seconds that the last tick was late."""

    async def tick(self) -> None:
        """Wait for the next tick."""
        began = self._clock.now()
        await asyncio.sleep(TICK_SECONDS)
        self._ticked_at = self._clock.now()
        self.lag_seconds = max(0.0, self._ticked_at - began - TICK_SECONDS)

    def problem(self) -> str | None:
        """Tell whether the loop has not ticked of late; None: it has. Any thread."""
        age = self._clock.now() - self._ticked_at
        return None if age < LIVE_SECONDS else f"the loop has not ticked for {age:.1f} s"


class Readiness:
    """Logs what the worker waits for when that changes. Its text is for any thread."""

    def __init__(
        self, membership: Membership, lanes: Mapping[str, Lane], recorder: Recorder | None
    ) -> None:
        self._membership = membership
        self._lanes = lanes
        self._recorder = recorder
        self.waiting_for: str | None = None
        """In words, alarms included, as of the last look."""

    def look(self) -> bool:
        """Tell whether nothing keeps the worker from being ready."""
        hindrance = self._hindrance()
        told = "; ".join(each for each in (hindrance, self._membership.alarm) if each) or None
        if told != self.waiting_for:
            self.waiting_for = told
            log.info("waiting" if told else "ready", waiting_for=told or "")
        return hindrance is None

    def _hindrance(self) -> str | None:
        """Return what keeps the worker from being ready; an open breaker does not."""
        consumer = self._membership.waits_for
        waits = [] if consumer is None else [f"kafka: {consumer}"]
        for name, lane in self._lanes.items():
            if not lane.is_opened:
                waits.append(f"sink {name}: {lane.waiting_for or 'opening'}")
        if self._recorder is not None and not self._recorder.figures().is_connected:
            waits.append("postgres: the recorder is not connected; events are kept on disk")
        return "; ".join(waits) or None
