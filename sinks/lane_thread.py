"""The threads of a lane: open the sink, take a batch, encode, send and narrow it, report to the
loop."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence

from domain.breaker import Circuit
from sinks.base import ConfigError, PermanentError, SinkError, TransientError, UnknownError
from sinks.lane_connection import LaneConnection
from sinks.lane_core import (
    BreakerChange,
    InFlightBatch,
    LaneCore,
    Report,
    SuspectRefused,
    SuspectWaits,
    breakdown,
    describe,
    encode,
    failed_attempt,
)
from sinks.lane_decision import ask_about
from sinks.lane_queue import Entry, Outcome, OutcomeKind

MAX_UNPROVEN_SUSPECTS = 3
"""So many failures alone, and nothing stored, and the rest of the batch waits."""
MAX_WISHED_SECONDS = 300.0
"""Longer a server's own wish to be left alone is not heeded."""
OURS = "an error in no table, so a fault of Drakkar, the driver or the plugin (please report it): "


class LaneThread:
    """One thread with one sink of its own; several may serve the same queue.

    It ends only with its lane: what breaks it, it reports as a transient error, and begins anew.
    """

    def __init__(self, core: LaneCore) -> None:
        self._core = core
        self._connection = LaneConnection(core)
        self._in_flight: InFlightBatch | None = None
        self._breakdowns = 0
        self._thread = threading.Thread(target=self._run, name=f"lane-{core.name}", daemon=True)

    def start(self) -> None:
        """Begin to open the sink and to serve the queue."""
        self._thread.start()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for its end; False when it did not end in time."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while not self._core.is_stopping:
            try:
                self._serve()
            except BaseException as exc:  # noqa: BLE001 - not even a plugin's SystemExit ends the lane
                self._recover(exc)
        self._connection.close()

    def _serve(self) -> None:
        while self._connection.ensure_open():
            if (in_flight := self._next_batch()) is None:
                return
            self._in_flight = in_flight
            self._ship(in_flight)
            self._in_flight = None
            self._breakdowns = 0

    def _recover(self, exc: BaseException) -> None:
        """Give back what was held, as after a transient error, and rest."""
        core, failed = self._core, breakdown(exc)
        in_flight = self._in_flight or InFlightBatch((), is_over=True)
        report = Report() if in_flight.is_over else in_flight.report
        with core.wake:
            held = core.queue.recover(in_flight.batch)
            if not in_flight.is_over:
                self._note_for_breaker(TransientError(failed.detail), report)
                core.queue.finished()
            for entry in held:
                entry.attempt += 1
            self._report_dropped(report)
            core.wake.notify_all()
        report.error, report.errors, report.retried = failed, 1, len(held)
        report.failed.append((held, failed))
        core.post(report)
        self._in_flight = None
        self._breakdowns += 1
        self._connection.pause(core.retry_seconds(self._breakdowns, core.chance()))

    def _next_batch(self) -> InFlightBatch | None:
        core = self._core
        with core.wake:
            while not core.is_stopping:
                now = core.clock()
                wait_seconds = core.queue.wait_seconds(now)
                if wait_seconds == 0.0:
                    if batch := core.queue.take(now):
                        return InFlightBatch(tuple(batch), core.unknown_errors.stored)
                    continue
                pause_seconds = core.queue.pause_seconds(now)
                is_pausing = wait_seconds is not None and wait_seconds <= pause_seconds
                core.idle_threads += 1
                core.pausing_threads += is_pausing
                core.wake.wait(wait_seconds)
                core.pausing_threads -= is_pausing
                core.idle_threads -= 1
        return None

    def _ship(self, in_flight: InFlightBatch) -> None:
        core, report = self._core, in_flight.report
        part, parts = self._encode(in_flight)
        waits: SinkError | None = None
        while part:
            error = self._attempt(part, in_flight)
            if isinstance(error, PermanentError):
                parts += self._narrow(part, error, in_flight)
            elif isinstance(error, UnknownError):
                parts += self._suspect(part, error, in_flight)
                part = []
                if (waits := self._connection.renew()) or self._is_hopeless(in_flight):
                    break
            elif error is not None and not self._sets_aside(part, parts, error, in_flight):
                waits = error
                break
            part = self._next_part(parts)
        with core.wake:
            core.queue.put_back([entry for rest in reversed(parts) for entry in rest])
            failing = part if waits is not None else []
            doubt = self._judge_suspects(in_flight)
            if waits or doubt or in_flight.has_news:
                self._note_for_breaker(waits or doubt, report)
            else:
                core.queue.breaker.not_tried()
            self._put_back_silently(failing, waits, report)
            self._put_slow_ones_off(in_flight)
            core.queue.finished()
            self._report_dropped(report)
            in_flight.is_over = True
            core.wake.notify_all()
        core.post(report)
        self._note_for_connection(in_flight, waits or doubt)
        ask_about(core, failing, waits)
        for entry, refusal in (*in_flight.refused, *in_flight.asked):
            ask_about(core, [entry], refusal)

    def _note_for_connection(self, in_flight: InFlightBatch, trouble: SinkError | None) -> None:
        if in_flight.has_stored:
            self._connection.stored()
        elif trouble is not None:
            self._connection.failed(trouble)

    def _encode(self, in_flight: InFlightBatch) -> tuple[list[Entry], list[list[Entry]]]:
        """Return what to send first and after it; what cannot be encoded is refused by itself.

        Those that failed alone before go alone and last: they hold no other up."""
        later: list[Entry] = []
        for entry in in_flight.batch:
            try:
                in_flight.encoded[entry] = encode(self._connection.sink, entry.delivery)
            except PermanentError as exc:
                in_flight.refused.append((entry, exc))
                later.append(entry)
        slow = [
            [entry] for entry in in_flight.batch if entry.is_slow and entry in in_flight.encoded
        ]
        first = [one for one in in_flight.batch if not one.is_slow and one in in_flight.encoded]
        if slow and not first:
            first = slow.pop()
        later += [entry for part in slow for entry in part]
        if later:
            with self._core.wake:
                self._core.queue.hold(later)
        return first, slow

    def _report_dropped(self, report: Report) -> None:
        if dropped := self._core.queue.dropped():
            report.settled.append((dropped, Outcome(kind=OutcomeKind.WITHDRAWN)))

    def _next_part(self, parts: list[list[Entry]]) -> list[Entry]:
        with self._core.wake:
            while parts:
                if part := self._core.queue.begin(parts.pop(), self._core.clock()):
                    return part
        return []

    def _attempt(self, part: list[Entry], in_flight: InFlightBatch) -> SinkError | None:
        started = self._core.clock()
        try:
            self._connection.sink.send([in_flight.encoded[entry] for entry in part])
        except SinkError as exc:
            is_told = not isinstance(exc, PermanentError)
            stored = _places(exc.stored_indices, part) if is_told else frozenset()
            if done := [entry for index, entry in enumerate(part) if index in stored]:
                self._stored(done, started, in_flight)
                part[:] = [entry for index, entry in enumerate(part) if index not in stored]
            return exc
        except (ConnectionError, TimeoutError) as exc:
            return TransientError(describe(exc))
        except BaseException as exc:  # noqa: BLE001 - not even a plugin's SystemExit ends the lane
            return UnknownError(describe(exc))
        self._stored(part, started, in_flight)
        return None

    def _stored(self, entries: Sequence[Entry], started: float, in_flight: InFlightBatch) -> None:
        outcome = Outcome(kind=OutcomeKind.DELIVERED, duration_seconds=self._core.clock() - started)
        with self._core.wake:
            self._core.queue.done(entries)
            in_flight.has_stored = True
            in_flight.report.settled.append((entries, outcome))
            self._core.unknown_errors.note_stored(len(entries))

    def _suspect(
        self, part: list[Entry], error: UnknownError, in_flight: InFlightBatch
    ) -> list[list[Entry]]:
        """Return what to send next of a part that failed with an error of no known kind."""
        with self._core.wake:
            self._core.queue.hold(part)
        if len(part) == 1:
            in_flight.suspects.append((part[0], error))
        return _halves(part)

    def _sets_aside(
        self,
        part: list[Entry],
        parts: list[list[Entry]],
        error: SinkError,
        in_flight: InFlightBatch,
    ) -> bool:
        """Whether the others may go on in spite of an error that is waited for: one that fails
        alone is put off, and a batch is narrowed to it where a new connection did not help."""
        if not part:
            return False
        is_slow = len(part) == 1 and part[0].is_slow
        if not is_slow and not self._connection.is_new_and_fruitless:
            return False
        with self._core.wake:
            self._core.queue.hold(part)
        if len(part) > 1:
            parts += _halves(part)
            return True
        part[0].is_slow = True
        in_flight.slow.append((part.pop(), error))
        return is_slow or in_flight.has_stored or len(in_flight.slow) < MAX_UNPROVEN_SUSPECTS

    def _put_slow_ones_off(self, in_flight: InFlightBatch) -> None:
        """Each waits for a time of its own, or for what the handler says."""
        core = self._core
        for entry, error in in_flight.slow:
            if self._is_asked(error):
                self._tell_failed([entry], error, in_flight.report)
                in_flight.asked.append((entry, error))
            else:
                self._tell_waiting([entry], error, in_flight.report)
                own = core.retry_seconds(entry.attempt, core.chance())
                core.queue.delay([entry], core.clock() + max(_wished_seconds(error), own))
                entry.attempt += 1

    def _is_hopeless(self, in_flight: InFlightBatch) -> bool:
        with self._core.wake:
            stored = self._core.unknown_errors.stored
        return (
            stored == in_flight.stored_before and len(in_flight.suspects) >= MAX_UNPROVEN_SUSPECTS
        )

    def _judge_suspects(self, in_flight: InFlightBatch) -> SuspectWaits | None:
        """Refuse those whose own fault it is; the others wait. Why, if any wait unproven."""
        core, doubt = self._core, None
        for entry, error in in_flight.suspects:
            entry.lone_failures += 1
            before = entry.stored_before if entry.lone_failures > 1 else in_flight.stored_before
            is_proven = core.unknown_errors.is_proven(stored_before=before)
            if is_proven or core.unknown_errors.refuses_unproven(
                lone_failures=entry.lone_failures, now=core.clock()
            ):
                in_flight.refused.append((entry, SuspectRefused(f"{OURS}{describe(error)}")))
                continue
            doubt = SuspectWaits(f"{OURS}{describe(error)}")
            entry.stored_before = core.unknown_errors.stored
            core.queue.put_last([entry])
            entry.attempt += 1
            self._tell_waiting([entry], doubt, in_flight.report)
        return doubt

    def _narrow(
        self,
        part: list[Entry],
        error: PermanentError,
        in_flight: InFlightBatch,
    ) -> list[list[Entry]]:
        """Return what to send next of a refused part; the bad ones go to ``in_flight.refused``."""
        bad = _places(error.bad_indices, part)
        if len(part) == 1:
            bad = frozenset({0})
        with self._core.wake:
            if not bad:
                self._core.queue.hold(part)
                return _halves(part)
            self._core.queue.hold(part[index] for index in bad)
        in_flight.refused += [(part[index], error) for index in sorted(bad)]
        if good := [entry for index, entry in enumerate(part) if index not in bad]:
            self._stored(good, self._core.clock(), in_flight)
        return []

    def _note_for_breaker(self, error: Exception | None, report: Report) -> None:
        core, now = self._core, self._core.clock()
        breaker = core.queue.breaker
        if error is None:
            if breaker.succeeded():
                report.breaker = BreakerChange(is_open=False, open_seconds=now - core.open_since)
            return
        if breaker.failed(now):
            core.open_since = now
            report.breaker = BreakerChange(
                is_open=True, failures=breaker.failures, detail=describe(error)
            )
        own = core.retry_seconds(breaker.failures, core.chance())
        core.queue.rest(now + max(_wished_seconds(error), own))

    def _put_back_silently(
        self, entries: list[Entry], error: Exception | None, report: Report
    ) -> None:
        """After a transient or config error: wait for better times, unless the handler is asked."""
        if error is None or not entries:
            return
        if self._is_asked(error):
            self._tell_failed(entries, error, report)
            self._core.queue.hold(entries)
            return
        self._tell_waiting(entries, error, report)
        for entry in entries:
            entry.attempt += 1
        self._core.queue.put_last(entries)
        entries.clear()

    def _tell_failed(self, entries: list[Entry], error: Exception, report: Report) -> None:
        failed = failed_attempt(error)
        report.error, report.errors = failed, report.errors + 1
        if self._is_closed():
            report.failed.append((tuple(entries), failed))

    def _tell_waiting(self, entries: list[Entry], error: Exception, report: Report) -> None:
        self._tell_failed(entries, error, report)
        report.retried += len(entries)

    def _is_closed(self) -> bool:
        return self._core.queue.breaker.state(self._core.clock()) is Circuit.CLOSED

    def _is_asked(self, error: Exception) -> bool:
        asks = self._core.ask is not None and not isinstance(error, ConfigError)
        return asks and self._is_closed()


def _halves(part: list[Entry]) -> list[list[Entry]]:
    """The second and the first half; nothing of one entry."""
    middle = len(part) // 2
    return [part[middle:], part[:middle]] if middle else []


def _wished_seconds(error: Exception) -> float:
    """The server's own wish, bounded; 0 for what is no number."""
    wished = getattr(error, "retry_after_seconds", None)
    if not isinstance(wished, int | float) or not wished > 0:
        return 0.0
    return float(min(wished, MAX_WISHED_SECONDS))


def _places(indices: object, part: Sequence[Entry]) -> frozenset[int]:
    """Those of a plugin's indices that are places of the part."""
    if not isinstance(indices, Iterable):
        return frozenset()
    return frozenset(one for one in indices if isinstance(one, int) and 0 <= one < len(part))
