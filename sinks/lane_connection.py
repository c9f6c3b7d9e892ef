"""The sink of one lane thread: opened, made anew after a strange error, given up when of no use."""

from __future__ import annotations

from typing import Any

from sinks.base import ConfigError, Sink, SinkError, TransientError
from sinks.fruitless import Fruitless
from sinks.lane_core import ConnectionDropped, LaneCore, Report, breakdown, describe, failed_attempt


class LaneConnection:
    """One connection after the other of a lane's thread, which alone uses it."""

    def __init__(self, core: LaneCore) -> None:
        self._core = core
        self.sink: Sink = core.build_sink()
        self._is_open = False
        self._fruitless = Fruitless(core.fruitless_seconds)

    @property
    def is_new_and_fruitless(self) -> bool:
        """Whether it was made anew for storing nothing, and has stored nothing since."""
        return self._fruitless.is_dropped

    def ensure_open(self) -> bool:
        """Open the sink, for as long as it takes; False when the lane stops meanwhile."""
        attempt = 0
        while not self._is_open and not self._core.is_stopping:
            try:
                self.sink.open()
            except Exception as exc:  # noqa: BLE001 - an unknown driver error must not end the lane
                attempt += 1
                self._core.post(Report(error=failed_attempt(exc), errors=1))
                self.pause(self._core.retry_seconds(attempt, self._core.chance()))
            else:
                self._is_open = True
                self._core.post(Report(has_opened=True))
        return self._is_open

    def pause(self, seconds: float) -> None:
        """Rest so long, or until the lane stops."""
        # Not at ``wake``: what is told there is for those that can deliver.
        self._core.stopping.wait(seconds)

    def renew(self) -> SinkError | None:
        """Make it anew; why it cannot be."""
        self._is_open = False
        try:
            self.sink.close()
            self.sink.open()
        except SinkError as exc:
            return exc if isinstance(exc, ConfigError) else TransientError(describe(exc))
        except BaseException as exc:  # noqa: BLE001 - a plugin's SystemExit must not end the lane
            return TransientError(describe(exc))
        self._is_open = True
        return None

    def stored(self) -> None:
        """Something was stored through it."""
        self._fruitless.stored()

    def failed(self, error: SinkError) -> None:
        """An attempt failed and nothing was stored: give it up if it is of no use any more."""
        if not self._fruitless.failed(self._core.clock()) or not self._opens_elsewhere():
            return
        self._is_open = False
        seconds = self._fruitless.dropped(self._core.clock())
        self._core.post(Report(dropped=ConnectionDropped(seconds=seconds, detail=describe(error))))
        self._closed(self.sink)

    def _opens_elsewhere(self) -> bool:
        """Whether another connection can be opened: the place itself is well, or seems so."""
        other = self._core.build_sink()
        try:
            other.open()
        except Exception as exc:  # noqa: BLE001 - whatever it is, the place is ill
            self._core.post(Report(error=failed_attempt(exc), errors=1))
            return False
        finally:
            self._closed(other)
        return True

    def close(self) -> None:
        """Close it."""
        self._closed(self.sink)

    def _closed(self, sink: Any) -> None:
        try:
            sink.close()
        except Exception as exc:  # noqa: BLE001 - there is nobody to tell but the figures
            self._core.post(Report(error=breakdown(exc), errors=1))
