"""Decisions on payloads whose attempt failed: the handler's, or the default. On a lane's thread."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import CancelledError

from domain.decision import DeadLetter, DeliveryDecision, Retry, Skip, check_decision
from domain.failure import DeliveryError
from domain.tracebacks import error_text, traceback_of
from sinks.base import PermanentError
from sinks.lane_core import Ask, LaneCore, Report, describe, failed_attempt
from sinks.lane_queue import Entry, EntryState, Outcome, OutcomeKind

STOP_CHECK_SECONDS = 0.5


def ask_about(core: LaneCore, entries: list[Entry], error: Exception | None) -> None:
    """Let handler or default policy decide about entries of one failed attempt, and act."""
    if error is None or not entries:
        return
    report = Report()
    if isinstance(error, PermanentError):
        failed = failed_attempt(error)
        report.failed.append((entries, failed))
        report.error, report.errors = failed, 1
    decision, trace = _decision(core, entries, error)
    with core.wake:
        waiting = [entry for entry in entries if entry.state is EntryState.WAITING]
        _act(core, waiting, decision, trace, report, is_transient=bool(not report.failed))
        core.wake.notify_all()
    core.post(report)


def _act(
    core: LaneCore,
    entries: list[Entry],
    decision: DeliveryDecision,
    trace: str,
    report: Report,
    *,
    is_transient: bool,
) -> None:
    queue, now = core.queue, core.clock()
    match decision:
        case Retry(delay_seconds=None) if is_transient and not _are_slow(entries):
            queue.put_last(entries)
        case Retry(delay_seconds=delay):
            own = core.retry_seconds(entries[0].attempt if entries else 1, 0.5)
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


def _decision(
    core: LaneCore, entries: list[Entry], error: Exception
) -> tuple[DeliveryDecision, str]:
    """Return what to do, and the traceback of a handler that raised."""
    is_permanent = isinstance(error, PermanentError)
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
        return _answer(core, core.ask, question), ""
    except Exception as exc:  # noqa: BLE001 - law 4: a raising hook dead-letters
        reason = f"on_delivery_error raised {error_text(exc)}"
        return DeadLetter(reason=reason), traceback_of(exc)


def _answer(core: LaneCore, ask: Ask, question: DeliveryError) -> DeliveryDecision:
    async def answer() -> DeliveryDecision:
        return await ask(question)

    future = asyncio.run_coroutine_threadsafe(answer(), core.loop)
    while True:
        try:
            decision = future.result(STOP_CHECK_SECONDS)
        except CancelledError:
            return Retry()  # the loop ends: the payload has no fate yet
        except TimeoutError:
            if future.done():
                raise
            if core.is_stopping:
                future.cancel()
                return Retry()
        else:
            check_decision(decision, of_delivery=True)
            return decision


def _are_slow(entries: Sequence[Entry]) -> bool:
    return any(entry.is_slow for entry in entries)
