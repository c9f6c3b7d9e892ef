"""One partition of one epoch: the only owner of its messages, from hand-over to fate.

Its methods run on the loop thread and never await: hooks, tasks and deliveries are child tasks that
report back by calling ``_task_ended``, ``_arranged`` or ``_settle``. An object serves one epoch and
is never reused, so whatever comes late goes to a closed object: fencing by
construction.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Coroutine, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from domain.beat import PartitionBeat
from domain.commit import NO_METADATA, CommitMetadata
from domain.decision import DeadLetter, Skip
from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.fanout import FanOut
from domain.fate import Fate
from domain.flood import FloodWatch
from domain.message import Message, Record
from domain.offsets import OffsetTracker
from domain.origin import Origin
from domain.parking import ParkingCause, SuspectDecision
from domain.settled import PassedOver, Ranges, ranges_of, shortened
from domain.task import Task
from sinks.router import DeliveryCall
from workers.consumer.ownership import Claim, PauseReason, Wanted
from workers.handler import overrides
from workers.pipeline.arranging import Arranged
from workers.pipeline.completion import Completion
from workers.pipeline.deliveries import Deliveries
from workers.pipeline.draining import Choice, choose, is_only_task
from workers.pipeline.guard import CrashGuard, Verdict
from workers.pipeline.letter_gate import LetterGate
from workers.pipeline.live_task import LiveTask, Phase, TaskEnd
from workers.pipeline.live_tasks import LiveTasks
from workers.pipeline.parking import Parking
from workers.pipeline.partition_figures import blocker, queued, state_name, strip
from workers.pipeline.partition_state import MessageState, PartitionTools, share
from workers.pipeline.partition_tell import PartitionTeller

FINAL_COMMIT_SECONDS = 0.1
HELD_UP_SECONDS = 0.25
"""How often an ending epoch looks for payloads that their sinks do not take."""
HOPE_SHARE = 0.25
"""The part of the budget during which a sink that does not answer may come back."""
TRIAL_SECONDS = 1.0
"""How long an ending epoch waits for a retry that it need not finish."""
SETTLED_BEFORE = "has its fate from an earlier owner of the partition"
ON_PURPOSE = frozenset({PauseReason.OPERATOR, PauseReason.QUIET})
"""Pauses that are told: they were asked for. The others come and go with the load."""


class PartitionWorker:
    """See the module's docstring. Public methods are called by the worker only."""

    def __init__(
        self, claim: Claim, tools: PartitionTools, metadata: CommitMetadata = NO_METADATA
    ) -> None:
        self.claim = claim
        self._tools = tools
        self._teller = PartitionTeller(claim, tools.clock, tools.tell)
        self.guard = CrashGuard(metadata, self._publish_note)
        self._flood = FloodWatch()
        self._gate = LetterGate(self._flood)
        self._deliveries = Deliveries(tools.router, self.guard, self._gate)
        self._completion = Completion(
            claim, tools, self._teller, self._deliveries, self._child, self._settle, self.step
        )
        self._tasks = LiveTasks(self, tools, self._child, self._task_ended)
        self._tracker = OffsetTracker()
        self._states: dict[int, MessageState] = {}
        self._waiting: deque[MessageState] = deque()
        self._children: set[asyncio.Task[None]] = set()
        self._arranging: asyncio.Task[None] | None = None
        self._parking = Parking()
        self._pauses: set[PauseReason] = set()
        self._fates = 0
        self._is_ending = False
        self._is_closed = False
        self._is_stalled = False
        self._is_judged = False
        """Whether it is settled what the heir is told of: the budget is used up, or all ended."""
        self._inherited = PassedOver(metadata.settled)
        self._unparsed: list[MessageState] = []
        self._is_killed = False
        self.hurry = asyncio.Event()
        """Set when the epoch ends: waits for a retry are cut short."""
        self._has_label = overrides(tools.handler, "message_label")
        if metadata.is_paused:
            self._pauses.add(PauseReason.OPERATOR)
            self._publish()

    # -- what comes in -------------------------------------------------------------------------

    def hand_over(self, records: Sequence[Record]) -> None:
        """Take records in offset order; an ending epoch takes none (the heir reads them again)."""
        if self._is_ending:
            return
        self._is_stalled = False
        now, at = self._tools.clock.now(), self._tools.clock.wall()
        total = 0
        settled: list[MessageState] = []
        for record in records:
            size = record.size_bytes
            total += size
            self._tracker.add(record.offset)
            state = MessageState(record=record, handed_at=now, size_bytes=size)
            self._states[record.offset] = state
            (settled if self._inherited.has(record.offset) else self._waiting).append(state)
            self._teller.consumed(record, size, at)
        self._tools.budget.charge(self.claim, len(records), total)
        for state in settled:
            state.reason = SETTLED_BEFORE
            self._give_fate(state, Fate.SKIPPED)
        self._publish()
        self._arrange_next()

    def set_pause(self, reason: PauseReason, is_wanted: bool) -> None:
        """Want a pause for a reason, or no longer."""
        if reason in ON_PURPOSE and is_wanted is not (reason in self._pauses):
            self._teller.paused(reason, is_wanted)
        (self._pauses.add if is_wanted else self._pauses.discard)(reason)
        self._publish()

    # -- arranging -----------------------------------------------------------------------------

    def _arrange_next(self) -> None:
        if self._arranging is not None or not self._waiting or self._is_ending:
            return
        if self._parking.is_halting:
            return
        in_hand = self._tracker.open_count - len(self._waiting)
        if not self.guard.may_begin(self._waiting[0].record.offset, in_hand):
            return
        self._arranging = self._child(self._arrange())

    async def _arrange(self) -> None:
        tools = self._tools
        if tools.batch_linger_seconds and len(self._waiting) < tools.max_batch_messages:
            await asyncio.sleep(tools.batch_linger_seconds)
        most = 1 if self.guard.is_active else tools.max_batch_messages
        count = min(len(self._waiting), most)
        batch = [self._waiting.popleft() for _ in range(count)]
        if self.guard.is_active and not await self._is_cleared(batch[0]):
            return
        records = [state.record for state in batch]
        # The handler's labels and priorities are a part of this step.
        async with self.step(records[0].offset):
            arranged = await tools.arranging.arrange(records, self._tasks.pending())
            self._arranging = None
            if self._is_closed or self._is_ending:
                return
            self._arranged(batch, arranged)
        self._arrange_next()

    # -- the crash guard -----------------------------------------------------------------------

    async def _is_cleared(self, state: MessageState) -> bool:
        """Under the crash guard: whether a message may be tried; else what becomes of it began."""
        verdict = self.guard.judge(state.record.offset)
        if verdict is Verdict.TRY:
            return True
        self._arranging = None
        if verdict is Verdict.SUSPECT:
            self._waiting.appendleft(state)
            self.park(ParkingCause.SUSPECT, self.guard.suspect_reason)
        else:
            await self._bury_message(state, _poison(self.guard.poison_reason))
        return False

    def step(self, offset: int) -> AbstractAsyncContextManager[None]:
        """Around what runs in the worker for a message: parse, arrange, a hook."""
        return self.guard.step(offset)

    def program(self, live: LiveTask) -> AbstractAsyncContextManager[None]:
        """Around a program of a task."""
        return self.guard.work(live.task.source_offsets[0], live.task.id)

    def absolved(self, inherited: CommitMetadata) -> None:
        """Former owners thought dead live."""
        self.guard.inherit(inherited)
        self._arrange_next()

    def decide_suspect(self, decision: SuspectDecision) -> bool:
        """Let the message for which it is parked as ``suspect`` run, skip it, or write a letter;
        False while the epoch ends: the next owner parks again."""
        if self._is_ending:
            return False
        reason = f"by an operator: {self.guard.suspect_reason}"
        if decision is SuspectDecision.RUN:
            self.guard.forgive()
        else:
            state = self._waiting.popleft()
            if decision is SuspectDecision.SKIP:
                state.reason = f"skipped {reason}"
                self._settle(state, Fate.SKIPPED)
            else:
                self._child(self._bury_message(state, _poison(f"dead-lettered {reason}")))
        self.unpark(ParkingCause.SUSPECT, f"by an operator: {decision.value}")
        return True

    def _publish_note(self) -> None:
        self._tools.board.notes += 1
        self._publish()

    def stalled(self, position: int, end_offset: int) -> None:
        """The client fell silent here; it was told to seek."""
        self._is_stalled = True
        self._teller.stalled(position, end_offset)

    def _arranged(self, states: Sequence[MessageState], arranged: Arranged) -> None:
        by_offset = {state.record.offset: state for state in states}
        self._start_tasks(states, arranged, by_offset)
        for offset, reason in arranged.skipped.items():
            by_offset[offset].reason = reason
            self._settle(by_offset[offset], Fate.SKIPPED)
        for offset, cause in arranged.dead.items():
            self._child(self._bury_message(by_offset[offset], cause))
        if arranged.unparsed:
            self._unparsed = [by_offset[offset] for offset in sorted(arranged.unparsed)]
            offset = min(arranged.unparsed)
            detail = f"offset {offset}: {arranged.unparsed[offset]}"
            self.park(ParkingCause.PARSE_ERROR, detail)

    def _start_tasks(
        self,
        states: Sequence[MessageState],
        arranged: Arranged,
        by_offset: dict[int, MessageState],
    ) -> None:
        for task in arranged.tasks:
            for offset in task.source_offsets:
                by_offset[offset].tasks.add(task.id)
            if len(task.source_offsets) > 1:
                share([by_offset[offset] for offset in task.source_offsets], self._tools.cluster)
        parsed = [state for state in states if state.record.offset in arranged.parsed]
        batch = self._completion.batch_of(parsed)
        for state in parsed:
            state.message = arranged.parsed[state.record.offset]
            state.parts = FanOut(len(state.tasks))
            state.batch = batch
            self._teller.arranged(
                state,
                self._labels(state),
                arranged.duration_seconds,
                len(arranged.records),
            )
        for task in arranged.tasks:
            self._start(task)
        for state in parsed:
            if not state.tasks:
                self._completion.message_ended(state)

    def _start(self, task: Task) -> None:
        found = (self._states[offset].message for offset in task.source_offsets)
        self._tasks.start(task, [message for message in found if message is not None])

    def _labels(self, state: MessageState) -> dict[str, str]:
        if not self._has_label:
            return {}
        handler, hooks = self._tools.handler, self._tools.hooks
        label = hooks.call_now(handler.message_label, "", state.message)
        try:
            return hooks.bounds.labels({"message": label})
        except TypeError as exc:
            hooks.count_error("message_label", exc)
            return {"message": ""}

    def has_task(self, task_id: str) -> bool:
        """Whether a task is unfinished here."""
        return self._tasks.has(task_id)

    def cancel_task(self, task_id: str, verdict: Skip | DeadLetter) -> bool:
        """Cancel an unfinished task; False when its payloads are on their way already."""
        return not self._is_ending and self._tasks.cancel(task_id, verdict)

    # -- what tasks ask of their partition ------------------------------------------------------

    async def deliver(self, live: LiveTask, payloads: Sequence[tuple[Any, Origin]]) -> Fate:
        """Deliver a task's payloads. Raises HookFailed for a payload no sink can take."""
        states = tuple(self._states[offset] for offset in live.task.source_offsets)
        return await self._deliveries.deliver(states, payloads, live.task.id, "collect")

    async def admit_letters(self, messages: Sequence[Message[Any]]) -> None:
        """Wait until letters of these messages may be written: never, while it is a flood."""
        await self._gate.admit([self._states[message.offset] for message in messages])

    async def bury(self, message: Message[Any], cause: DeadLetterCause) -> None:
        """Write a dead letter; returns when the topic has it (law 5)."""
        await self._deliveries.bury(self._states[message.offset], cause)

    def leave_task(self, live: LiveTask) -> bool:
        """While the epoch ends: leave a task that would run again to the heir; True when done.

        Only if nothing else of its messages is open and nothing of them is out.
        """
        found = [self._states.get(offset) for offset in live.task.source_offsets]
        states = [state for state in found if state is not None and not state.has_ended]
        if not self._is_ending or len(states) < len(found):
            return False
        if any(state.is_out for state in states) or not is_only_task(live, states):
            return False
        self._completion.leave(states)
        return True

    def park(self, cause: ParkingCause, detail: str) -> None:
        """Stop fetching because of an error that is not the messages' fault."""
        if self._is_closed or not self._parking.add(cause, detail):
            return
        self.set_pause(PauseReason.PARKED, True)
        self._teller.parked(self._tracker.blocker, cause, detail)

    def unpark(self, cause: ParkingCause, reason: str = "works again") -> None:
        """The cause is gone."""
        if not self._parking.remove(cause):
            return
        self.set_pause(PauseReason.PARKED, bool(self._parking.details))
        self._teller.unparked(cause, reason)
        if cause is ParkingCause.DEAD_LETTER_FLOOD:
            self._gate.open()
        if cause is ParkingCause.PARSE_ERROR:
            self._waiting.extendleft(reversed(self._unparsed))
            self._unparsed.clear()
        self._arrange_next()

    @property
    def parked_causes(self) -> list[ParkingCause]:
        """For what it is parked; empty: it is not."""
        return list(self._parking.details)

    # -- ends ----------------------------------------------------------------------------------

    def _task_ended(self, live: LiveTask, end: TaskEnd) -> None:
        replaced = end.replaced_by
        for offset in live.task.source_offsets:
            state = self._states[offset]
            assert state.parts is not None
            state.tasks.discard(live.task.id)
            if self._completion.keep(state, end):
                self._publish()
            if replaced:
                state.parts.replace(len(replaced))
                state.tasks.update(task.id for task in replaced)
            elif state.parts.end(end.fate):
                self._completion.message_ended(state)
        for task in replaced or ():
            self._start(task)

    async def _bury_message(self, state: MessageState, cause: DeadLetterCause) -> None:
        await self._gate.admit([state])
        await self._deliveries.bury(state, cause)
        if not self._is_closed:
            self._settle(state, Fate.DEAD_LETTERED)

    def _settle(self, state: MessageState, fate: Fate) -> None:
        """Give a message its one fate and let the watermark pass."""
        self._give_fate(state, fate)
        was_guarded = self.guard.is_active
        self.guard.passed(state.record.offset)
        flood = self._flood.add(fate is Fate.DEAD_LETTERED)
        if flood is not None:
            self._gate.shut()
            self.park(ParkingCause.DEAD_LETTER_FLOOD, flood)
        self._gate.settled(state.record.offset)
        self._publish()
        if was_guarded:
            self._arrange_next()

    def _give_fate(self, state: MessageState, fate: Fate) -> None:
        offset = state.record.offset
        self._tracker.settle(offset, fate)
        del self._states[offset]
        self._fates += 1
        self._tools.budget.refund(self.claim, 1, state.size_bytes)
        self._teller.completed(state, fate)

    def _publish(self) -> None:
        if self._is_closed:
            return
        tools = self._tools
        settled = self._settled() if self._is_judged else None
        over = tools.budget.is_over_share(self.claim)
        pauses = self._pauses | {PauseReason.SHARE} if over else self._pauses
        wanted = Wanted(
            frozenset(pauses), self._tracker.watermark, self._fates, self.guard.note, settled
        )
        tools.board.publish(self.claim, wanted)
        tools.board.room_messages = tools.budget.room_messages

    # -- the end of the epoch ------------------------------------------------------------------

    async def end(self, deadline: float, reason: str) -> bool:
        """End the epoch by a monotonic deadline; True when nothing was cut short.

        What runs and what is out is finished and delivered; everything else is dropped without a
        fate for the next owner, who passes over what has its fate above the watermark.
        """
        began = self._tools.clock.now()
        self._is_ending = True
        self.guard.drain()
        self._waiting.clear()
        if self._arranging is not None:
            self._arranging.cancel()
        self._tools.runner.attempts.slots.favour(self.claim.partition, True)
        choice = self._leave_to_heir(self._deliveries.held_up(by_failures=False))
        self._gate.end(choice.finished)
        self.hurry.set()
        hope = began + (deadline - began) * HOPE_SHARE
        # A little earlier than the consumer thread stops waiting, for it is still told what ended.
        last = deadline - min(FINAL_COMMIT_SECONDS, (deadline - began) / 10)
        if choice.tried:
            await self._until(min(began + TRIAL_SECONDS, hope), hope)
            for live in choice.tried:
                if live.phase is not Phase.DELIVERING and self.leave_task(live) and live.handle:
                    live.handle.cancel()
        await self._until(hope, hope)
        self._completion.split(list(self._states.values()))
        await self._until(last, hope)
        self._judge()
        # The consumer thread waits no longer than this: what a slow loop ends later is not
        # committed.
        is_clean = not (self._children or self._is_killed) and self._tools.clock.now() <= deadline
        await self._cancel_all()
        dropped = self._close()
        seconds = self._tools.clock.now() - began
        self._teller.revoked(self._tracker.watermark, reason, dropped, seconds, is_clean=is_clean)
        return is_clean

    async def _until(self, moment: float, hope: float) -> None:
        """Wait until all children have ended, or a moment of the clock. Up to ``hope`` a sink that
        does not answer may come back; then its payloads are the heir's, as a paused one's are."""
        now = self._tools.clock.now
        while self._children and (left := moment - now()) > 0:
            self._deliveries.hasten()
            self._tools.dead_letters.hasten()
            await asyncio.wait(self._children, timeout=min(left, HELD_UP_SECONDS))
            held_up = self._deliveries.held_up(by_failures=now() >= hope)
            if held_up:
                self._leave_to_heir(held_up)

    def kill(self) -> None:
        """The second signal: end everything now; what was not out is the next owner's."""
        self._is_killed = True
        self._judge()
        for child in set(self._children):
            child.cancel()

    def _leave_to_heir(self, held_up: Sequence[DeliveryCall]) -> Choice:
        """Cancel what works for messages that the heir may read again without harm."""
        tasks, calls = list(self._tasks.all), self._deliveries.calls
        choice = choose(
            self._tracker,
            self._states,
            calls,
            tasks,
            held_up=held_up,
            inherited=self._inherited.above(self._tracker.last),
            slots=self._tools.runner.attempts.slots.count,
        )
        given_up = [call for call in held_up if choice.is_left_by(calls[call])]
        if given_up and not self._deliveries.give_up(given_up):
            return self._leave_to_heir(())
        for live in filter(choice.is_left, tasks):
            if live.handle is not None:
                live.handle.cancel()
        tried = {offset for live in choice.tried for offset in live.task.source_offsets}
        stay = choice.finished | tried
        self._completion.leave([s for offset, s in self._states.items() if offset not in stay])
        return choice

    def _judge(self) -> None:
        """Publish what the heir is told of, from now on with each fate."""
        self._is_judged = True
        self._publish()

    def _settled(self) -> Ranges:
        """What the heir passes over."""
        above = self._inherited.above(self._tracker.last)
        return shortened(ranges_of(self._tracker.gaps()) + above)

    async def _cancel_all(self) -> None:
        children = set(self._children)
        for child in children:
            child.cancel()
        if children:
            await asyncio.wait(children)

    def _close(self) -> int:
        self._judge()
        self._is_closed = True
        dropped = self._tracker.open_count
        self._tools.budget.close(self.claim)
        self._tools.board.room_messages = self._tools.budget.room_messages
        self._tools.runner.attempts.slots.favour(self.claim.partition, False)
        self._tasks.close()
        self._completion.close()
        self._states.clear()
        return dropped

    async def lose(self) -> None:
        """The epoch ended without us: fence first, then cancel; nothing more of it is delivered."""
        self._is_ending = True
        self._waiting.clear()
        dropped = self._close()
        await self._cancel_all()
        self._teller.lost(dropped)

    @property
    def unfinished_attempts(self) -> int:
        """Tasks that run or deliver now: what comes of them after a loss is thrown away."""
        return self._tasks.busy_count

    # -- figures -------------------------------------------------------------------------------

    def figures(self) -> PartitionBeat:
        """Return what the heartbeat and the metrics port show of this partition; what only the
        consumer thread knows is unknown."""
        state = state_name(
            is_ending=self._is_ending,
            is_parked=bool(self._parking.details),
            pauses=self._pauses,
            is_stalled=self._is_stalled,
        )
        return PartitionBeat(
            topic=self.claim.topic,
            partition=self.claim.partition,
            epoch=self.claim.epoch,
            state=state,
            parked={cause.value: detail for cause, detail in self._parking.details.items()},
            queue=len(self._waiting) + queued(self._tasks.all),
            pending=self._tracker.open_count,
            watermark=self._tracker.watermark,
            blocker=blocker(self._tracker, self._states, self._tools.clock.now()),
            strip=strip(self._tracker),
        )

    # -- small things --------------------------------------------------------------------------

    def _child(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self._tools.spawn(coroutine)
        self._children.add(task)
        task.add_done_callback(self._children.discard)
        return task


def _poison(reason: str) -> DeadLetterCause:
    return DeadLetterCause(stage=Stage.CRASH, kind=FailureKind.POISON, reason=reason)
