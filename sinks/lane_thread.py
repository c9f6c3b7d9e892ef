"""The threads of a lane: open the sink, take a batch, encode, send and narrow it, report to the
loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterable, Sequence
from concurrent.futures import CancelledError

from domain.breaker import Circuit
from domain.decision import DeadLetter, DeliveryDecision, Retry, Skip, check_decision
from domain.failure import DeliveryError
from domain.tracebacks import error_text, traceback_of
from sinks.base import ConfigError, PermanentError, SinkError, TransientError, UnknownError
from sinks.lane_core import (
    Ask,
    BreakerChange,
    LaneCore,
    Report,
    Shipment,
    SuspectRefused,
    SuspectWaits,
    breakdown,
    describe,
    encode,
    failed_attempt,
)
from sinks.lane_queue import Entry, EntryState, Outcome, OutcomeKind

STOP_CHECK_SECONDS = 0.5
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
        self._sink = core.build_sink()
        self._is_open = False
        self._shipment: Shipment | None = None
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
        try:
            self._sink.close()
        except Exception as exc:  # noqa: BLE001 - there is nobody left to tell but the figures
            self._core.post(Report(error=breakdown(exc), errors=1))

    def _serve(self) -> None:
        while self._is_open or self._open():
            self._is_open = True
            if (batch := self._next_batch()) is None:
                return
            with self._core.wake:
                stored = self._core.unknown_errors.stored
            self._shipment = Shipment(tuple(batch), stored)
            self._ship(batch, self._shipment)
            self._shipment = None
            self._breakdowns = 0

    def _recover(self, exc: BaseException) -> None:
        """Give back what was held, as after a transient error, and rest."""
        core, failed = self._core, breakdown(exc)
        shipment = self._shipment or Shipment((), is_over=True)
        report = Report() if shipment.is_over else shipment.report
        with core.wake:
            held = core.queue.recover(shipment.batch)
            if not shipment.is_over:
                self._note_for_breaker(TransientError(failed.detail), report)
                core.queue.finished()
            for entry in held:
                entry.attempt += 1
            self._report_dropped(report)
            core.wake.notify_all()
        report.error, report.errors, report.retried = failed, 1, len(held)
        report.failed.append((held, failed))
        core.post(report)
        self._shipment = None
        self._breakdowns += 1
        self._pause(core.retry_seconds(self._breakdowns, core.chance()))

    def _open(self) -> bool:
        attempt = 0
        while not self._core.is_stopping:
            try:
                self._sink.open()
            except Exception as exc:  # noqa: BLE001 - an unknown driver error must not end the lane
                attempt += 1
                self._core.post(Report(error=failed_attempt(exc), errors=1))
                self._pause(self._core.retry_seconds(attempt, self._core.chance()))
            else:
                self._core.post(Report(has_opened=True))
                return True
        return False

    def _pause(self, seconds: float) -> None:
        with self._core.wake:
            self._core.wake.wait_for(lambda: self._core.is_stopping, seconds)

    def _next_batch(self) -> list[Entry] | None:
        core = self._core
        with core.wake:
            while not core.is_stopping:
                wait_seconds = core.queue.wait_seconds(core.clock())
                if wait_seconds == 0.0:
                    if batch := core.queue.take(core.clock()):
                        return batch
                    continue
                core.idle_threads += 1
                core.wake.wait(wait_seconds)
                core.idle_threads -= 1
        return None

    def _ship(self, batch: list[Entry], shipment: Shipment) -> None:
        core, report = self._core, shipment.report
        parts: list[list[Entry]] = []
        waits: SinkError | None = None
        part = self._encode(batch, shipment)
        while part:
            error = self._attempt(part, shipment)
            if isinstance(error, PermanentError):
                parts += self._narrow(part, error, shipment)
            elif isinstance(error, UnknownError):
                parts += self._suspect(part, error, shipment)
                part = []
                if (waits := self._renew()) or self._is_hopeless(shipment):
                    break
            elif error is not None:
                waits = error
                break
            part = self._next_part(parts)
        with core.wake:
            core.queue.put_back([entry for rest in reversed(parts) for entry in rest])
            failing = part if waits is not None else []
            doubt = self._judge_suspects(shipment)
            if shipment.is_tried:
                self._note_for_breaker(waits or doubt, report)
            else:
                core.queue.breaker.not_tried()
            self._put_back_silently(failing, waits, report)
            core.queue.finished()
            self._report_dropped(report)
            shipment.is_over = True
            core.wake.notify_all()
        core.post(report)
        self._ask_about(failing, waits)
        for entry, refusal in shipment.refused:
            self._ask_about([entry], refusal)

    def _encode(self, batch: list[Entry], shipment: Shipment) -> list[Entry]:
        """Those of the batch that can be sent; what cannot be encoded is refused by itself."""
        refused: list[Entry] = []
        for entry in batch:
            try:
                shipment.encoded[entry] = encode(self._sink, entry.delivery)
            except PermanentError as exc:
                shipment.refused.append((entry, exc))
                refused.append(entry)
        if not refused:
            return batch
        with self._core.wake:
            self._core.queue.hold(refused)
        return [entry for entry in batch if entry in shipment.encoded]

    def _report_dropped(self, report: Report) -> None:
        if dropped := self._core.queue.dropped():
            report.settled.append((dropped, Outcome(kind=OutcomeKind.WITHDRAWN)))

    def _next_part(self, parts: list[list[Entry]]) -> list[Entry]:
        with self._core.wake:
            while parts:
                if part := self._core.queue.begin(parts.pop(), self._core.clock()):
                    return part
        return []

    def _attempt(self, part: list[Entry], shipment: Shipment) -> SinkError | None:
        started = self._core.clock()
        shipment.is_tried = True
        try:
            self._sink.send([shipment.encoded[entry] for entry in part])
        except SinkError as exc:
            is_told = not isinstance(exc, PermanentError)
            stored = _places(exc.stored_indices, part) if is_told else frozenset()
            if done := [entry for index, entry in enumerate(part) if index in stored]:
                self._stored(done, started, shipment.report)
                part[:] = [entry for index, entry in enumerate(part) if index not in stored]
            return exc
        except (ConnectionError, TimeoutError) as exc:
            return TransientError(describe(exc))
        except BaseException as exc:  # noqa: BLE001 - not even a plugin's SystemExit ends the lane
            return UnknownError(describe(exc))
        self._stored(part, started, shipment.report)
        return None

    def _stored(self, entries: Sequence[Entry], started: float, report: Report) -> None:
        outcome = Outcome(kind=OutcomeKind.DELIVERED, duration_seconds=self._core.clock() - started)
        with self._core.wake:
            self._core.queue.done(entries)
            report.settled.append((entries, outcome))
            self._core.unknown_errors.note_stored(len(entries))

    def _renew(self) -> SinkError | None:
        """A connection made anew after an error of no known kind; why there is none."""
        self._is_open = False
        try:
            self._sink.close()
            self._sink.open()
        except SinkError as exc:
            return exc if isinstance(exc, ConfigError) else TransientError(describe(exc))
        except BaseException as exc:  # noqa: BLE001 - as in _attempt
            return TransientError(describe(exc))
        self._is_open = True
        return None

    def _suspect(
        self, part: list[Entry], error: UnknownError, shipment: Shipment
    ) -> list[list[Entry]]:
        """What to send next of a part that failed with an error of no known kind."""
        with self._core.wake:
            self._core.queue.hold(part)
        if len(part) == 1:
            shipment.suspects.append((part[0], error))
        middle = len(part) // 2
        return [half for half in (part[middle:], part[:middle]) if half] if middle else []

    def _is_hopeless(self, shipment: Shipment) -> bool:
        with self._core.wake:
            stored = self._core.unknown_errors.stored
        return stored == shipment.stored_before and len(shipment.suspects) >= MAX_UNPROVEN_SUSPECTS

    def _judge_suspects(self, shipment: Shipment) -> SuspectWaits | None:
        """Refuse those whose own fault it is; the others wait. Why, if any wait unproven."""
        core, doubt = self._core, None
        for entry, error in shipment.suspects:
            entry.lone_failures += 1
            before = entry.stored_before if entry.lone_failures > 1 else shipment.stored_before
            is_proven = core.unknown_errors.is_proven(stored_before=before)
            if is_proven or core.unknown_errors.refuses_unproven(
                lone_failures=entry.lone_failures, now=core.clock()
            ):
                shipment.refused.append((entry, SuspectRefused(f"{OURS}{describe(error)}")))
                continue
            doubt = SuspectWaits(f"{OURS}{describe(error)}")
            entry.stored_before = core.unknown_errors.stored
            core.queue.put_last([entry])
            entry.attempt += 1
            self._tell_waiting([entry], doubt, shipment.report)
        return doubt

    def _narrow(
        self,
        part: list[Entry],
        error: PermanentError,
        shipment: Shipment,
    ) -> list[list[Entry]]:
        """What to send next of a refused part; the bad ones found go to ``shipment.refused``."""
        bad = _places(error.bad_indices, part)
        if len(part) == 1:
            bad = frozenset({0})
        with self._core.wake:
            if not bad:
                self._core.queue.hold(part)
                middle = len(part) // 2
                return [part[middle:], part[:middle]]
            self._core.queue.hold(part[index] for index in bad)
        shipment.refused += [(part[index], error) for index in sorted(bad)]
        if good := [entry for index, entry in enumerate(part) if index not in bad]:
            self._stored(good, self._core.clock(), shipment.report)
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
        self._core.queue.put_back(entries)
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

    def _ask_about(self, entries: list[Entry], error: Exception | None) -> None:
        """Let handler or default policy decide about entries of one failed attempt, and act."""
        if error is None or not entries:
            return
        report = Report()
        if isinstance(error, PermanentError):
            failed = failed_attempt(error)
            report.failed.append((entries, failed))
            report.error, report.errors = failed, 1
        decision, trace = self._decision(entries, error)
        with self._core.wake:
            waiting = [entry for entry in entries if entry.state is EntryState.WAITING]
            self._act(waiting, decision, trace, report, is_transient=bool(not report.failed))
            self._core.wake.notify_all()
        self._core.post(report)

    def _act(
        self,
        entries: list[Entry],
        decision: DeliveryDecision,
        trace: str,
        report: Report,
        *,
        is_transient: bool,
    ) -> None:
        queue, now = self._core.queue, self._core.clock()
        match decision:
            case Retry(delay_seconds=None) if is_transient:
                queue.put_back(entries)
            case Retry(delay_seconds=delay):
                own = self._core.retry_seconds(entries[0].attempt if entries else 1, 0.5)
                queue.delay(entries, now + (own if delay is None else delay))
            case Skip(reason=reason):
                queue.done(entries)
                report.settled.append((entries, Outcome(kind=OutcomeKind.SKIPPED, reason=reason)))
            case DeadLetter(reason=reason):
                queue.done(entries)
                outcome = Outcome(kind=OutcomeKind.REFUSED, reason=reason, traceback=trace)
                report.settled.append((entries, outcome))
        if isinstance(decision, Retry):
            report.retried = len(entries)
            for entry in entries:
                entry.attempt += 1

    def _decision(self, entries: list[Entry], error: Exception) -> tuple[DeliveryDecision, str]:
        """What to do, and the traceback of a handler that raised."""
        core, is_permanent = self._core, isinstance(error, PermanentError)
        if core.ask is None:
            return DeadLetter(reason=describe(error)) if is_permanent else Retry(), ""
        question = DeliveryError(
            sink=core.name,
            kind=core.kind,
            transient=not is_permanent,
            attempt=max(entry.attempt for entry in entries),
            payloads=[entry.delivery.payload for entry in entries],
            detail=describe(error),
        )
        try:
            return self._answer(core.ask, question), ""
        except Exception as exc:  # noqa: BLE001 - law 4: a raising hook dead-letters
            reason = f"on_delivery_error raised {error_text(exc)}"
            return DeadLetter(reason=reason), traceback_of(exc)

    def _answer(self, ask: Ask, question: DeliveryError) -> DeliveryDecision:
        async def answer() -> DeliveryDecision:
            return await ask(question)

        future = asyncio.run_coroutine_threadsafe(answer(), self._core.loop)
        while True:
            try:
                decision = future.result(STOP_CHECK_SECONDS)
            except CancelledError:
                return Retry()  # the loop ends: the payload has no fate yet
            except TimeoutError:
                if future.done():
                    raise
                if self._core.is_stopping:
                    future.cancel()
                    return Retry()
            else:
                check_decision(decision, of_delivery=True)
                return decision


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
