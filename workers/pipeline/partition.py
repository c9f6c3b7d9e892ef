"""One partition of one epoch: the only owner of its messages, from hand-over to fate.

Its methods run on the loop thread and never await: hooks, tasks and deliveries are child tasks that
report back: an arrangement to ``_arranged``, all else by ``settle``. An object serves one epoch and
is never reused, so whatever comes late meets messages that were left: fencing by construction.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.backpressure import Budget
from domain.beat import Blocker, PartitionBeat, PartitionState
from domain.commit import NO_METADATA, CommitMetadata
from domain.decision import DeadLetter, Skip
from domain.events import Tell
from domain.failure import DeadLetterCause, FailureKind, Stage
from domain.fanout import FanOut
from domain.fate import Fate
from domain.flood import FloodWatch
from domain.holding import HeldBytes
from domain.message import Message, Record
from domain.offsets import OffsetTracker, stretches
from domain.origin import task_number
from domain.parking import ParkingCause, SuspectDecision
from domain.settled import PassedOver, Ranges, ranges_of, shortened
from domain.task import Task
from sinks.dead_letter import DeadLetterWriter
from sinks.retry_topic import RetryTopicWriter
from sinks.router import DeliveryCall, Router
from workers.clock import Clock
from workers.consumer.ownership import Claim, PauseReason, Wanted, WantedBoard
from workers.handler import Handler, overrides
from workers.pipeline.arranging import Arrangement, Arranging
from workers.pipeline.completion import Completion
from workers.pipeline.deferring import Deferring
from workers.pipeline.deliveries import Deliveries, LetterGate
from workers.pipeline.draining import Choice, choose, is_only_task
from workers.pipeline.guard import CrashGuard, Verdict
from workers.pipeline.held import HeldMessages
from workers.pipeline.hooks import Hooks
from workers.pipeline.key_order import KeyOrder
from workers.pipeline.life_cycle import LEAVING, LiveMessage, LiveTask, MessageState, share
from workers.pipeline.parking import Parking
from workers.pipeline.task_steps import LiveTasks, TaskSteps
from workers.pipeline.telling import PartitionTeller

FINAL_COMMIT_SECONDS = 0.1
HELD_UP_SECONDS = 0.25
"""How often an ending epoch looks for payloads that their sinks do not take."""
HOPE_SHARE = 0.25
"""The part of the budget during which a sink that does not answer may come back."""
TRIAL_SECONDS = 1.0
"""How long an ending epoch waits for a retry that it need not finish."""
MOST_STRETCHES = 64
"""How finely the gap strip is told."""
SETTLED_BEFORE = "has its fate from an earlier owner of the partition"
NO_PAUSES: frozenset[PauseReason] = frozenset()
ON_PURPOSE = frozenset({PauseReason.OPERATOR, PauseReason.QUIET, PauseReason.CLUSTER})
"""Pauses that are told: they were asked for. The others come and go with the load."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PartitionTools:
    """Parts that all partitions of a worker share."""

    cluster: str
    handler: Handler[Any]
    hooks: Hooks
    arranging: Arranging
    steps: TaskSteps
    router: Router
    dead_letters: DeadLetterWriter
    board: WantedBoard
    budget: Budget[Claim]
    clock: Clock
    tell: Tell
    start: Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
    """Runs a child task."""
    retries: RetryTopicWriter | None
    """Writer of the cluster's retry topic; None: it has none."""
    held_bytes: HeldBytes
    max_batch_messages: int
    batch_linger_seconds: float


class PartitionWorker:
    """Owner of the messages of one claim."""

    def __init__(
        self, claim: Claim, tools: PartitionTools, metadata: CommitMetadata = NO_METADATA
    ) -> None:
        self.claim = claim
        self.tools = tools
        self.teller = PartitionTeller(claim, tools.clock, tools.tell)
        self.guard = CrashGuard(metadata, self._publish_note)
        self._flood = FloodWatch()
        self.keys = KeyOrder(tools.steps.config.keys.max_running_per_key)
        self._gate = LetterGate(self._flood, self.keys.followers)
        self.deliveries = Deliveries(tools.router, self.guard, self._gate)
        self.completion = Completion(self)
        self.tasks = LiveTasks(self)
        self.deferring = Deferring(self)
        is_retry = tools.retries is not None and claim.topic == tools.retries.topic
        self._held = HeldMessages(self, tools.held_bytes) if is_retry else None
        self._tracker = OffsetTracker()
        self._messages: dict[int, LiveMessage] = {}
        self._waiting: deque[LiveMessage] = deque()
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
        self._settled_ranges: Ranges | None = None
        self._fates_noted = 0
        self._unparsed: list[LiveMessage] = []
        self._is_killed = False
        self.hurry = asyncio.Event()
        """Set when the epoch ends: waits for a retry are cut short."""
        self._has_label = overrides(tools.handler, "message_label")
        if metadata.is_paused:
            self._pauses.add(PauseReason.OPERATOR)
            self.publish()

    # -- what comes in -------------------------------------------------------------------------

    def hand_over(self, records: Sequence[Record]) -> None:
        """Take records in offset order; an ending epoch takes none (the heir reads them again)."""
        if self._is_ending:
            return
        self._is_stalled = False
        now, at = self.tools.clock.now(), self.tools.clock.wall()
        total = held = 0
        settled: list[LiveMessage] = []
        for record in records:
            size = record.size_bytes
            self._tracker.add(record.offset)
            message = LiveMessage(record=record, handed_at=now, size_bytes=size)
            self._messages[record.offset] = message
            self.teller.consumed(record, size, at)
            if self._inherited.has(record.offset):
                settled.append(message)
            elif self._held is not None and self._held.takes(message):
                held += 1
                continue
            else:
                self._waiting.append(message)
            total += size
        self.tools.budget.charge(self.claim, len(records) - held, total)
        for message in settled:
            message.reason = SETTLED_BEFORE
            self._give_fate(message, Fate.SKIPPED)
        self.publish()
        self.release_due()
        self._arrange_next()

    def release_due(self) -> None:
        """Go on with deferred messages that are due by now, but for an operator's pause."""
        if self._held is None or self._is_ending:
            return
        if ON_PURPOSE.isdisjoint(self._pauses):
            self._held.release()
            self._arrange_next()

    def take_due(self, message: LiveMessage) -> None:
        """A deferred message is due: it waits for its turn from now on."""
        message.enter(MessageState.WAITING)
        message.handed_at = self.tools.clock.now()
        self.tools.budget.charge(self.claim, 1, message.size_bytes)
        self._waiting.append(message)

    def set_pause(self, reason: PauseReason, is_wanted: bool) -> None:
        """Want a pause for a reason, or no longer."""
        if reason in ON_PURPOSE and is_wanted is not (reason in self._pauses):
            self.teller.paused(reason, is_wanted)
        (self._pauses.add if is_wanted else self._pauses.discard)(reason)
        self.publish()
        if reason in ON_PURPOSE and not is_wanted:
            self.release_due()

    @property
    def pauses_on_purpose(self) -> frozenset[PauseReason]:
        """Pauses that somebody asked for: of this partition, its worker's intake, its cluster."""
        return ON_PURPOSE & self._pauses

    # -- arranging -----------------------------------------------------------------------------

    def _arrange_next(self) -> None:
        if self._arranging is not None or not self._waiting or self._is_ending:
            return
        if self._parking.is_halting:
            return
        held = 0 if self._held is None else self._held.count
        in_hand = self._tracker.open_count - len(self._waiting) - held
        if not self.guard.may_begin(self._waiting[0].record.offset, in_hand):
            return
        self._arranging = self.child(self._arrange())

    async def _arrange(self) -> None:
        tools = self.tools
        if tools.batch_linger_seconds and len(self._waiting) < tools.max_batch_messages:
            await asyncio.sleep(tools.batch_linger_seconds)
        if self.guard.is_active and not await self._is_cleared(self._waiting[0]):
            return
        most = 1 if self.guard.is_active else tools.max_batch_messages
        batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), most))]
        for message in batch:
            message.enter(MessageState.ARRANGING)
        records = [message.record for message in batch]
        # The handler's labels and priorities are a part of this step.
        async with self.guard.step(records[0].offset):
            arranged = await tools.arranging.arrange(records, self.tasks.pending())
            self._arranging = None
            if self._is_ending:
                return
            self._arranged(batch, arranged)
        self._arrange_next()

    # -- the crash guard -----------------------------------------------------------------------

    async def _is_cleared(self, message: LiveMessage) -> bool:
        """Under the crash guard: whether a message may be tried; else what becomes of it began."""
        verdict = self.guard.judge(message.record.offset)
        if verdict is Verdict.TRY:
            return True
        self._arranging = None
        if verdict is Verdict.SUSPECT:
            self.park(ParkingCause.SUSPECT, self.guard.suspect_reason)
        else:
            self._waiting.popleft()
            await self._bury(message, _poison(self.guard.poison_reason))
        return False

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
            message = self._waiting.popleft()
            if decision is SuspectDecision.SKIP:
                message.reason = f"skipped {reason}"
                self.settle(message, Fate.SKIPPED)
            else:
                self.child(self._bury(message, _poison(f"dead-lettered {reason}")))
        self.unpark(ParkingCause.SUSPECT, f"by an operator: {decision.value}")
        return True

    def _publish_note(self) -> None:
        self.tools.board.notes += 1
        self.publish()

    def stalled(self, position: int, end_offset: int) -> None:
        """The client fell silent here; it was told to seek."""
        self._is_stalled = True
        self.teller.stalled(position, end_offset)

    def _arranged(self, messages: Sequence[LiveMessage], arranged: Arrangement) -> None:
        by_offset = {message.record.offset: message for message in messages}
        self._start_tasks(by_offset, arranged)
        for offset, reason in arranged.skipped.items():
            by_offset[offset].reason = reason
            self.settle(by_offset[offset], Fate.SKIPPED)
        for offset, cause in arranged.dead.items():
            self.child(self._bury(by_offset[offset], cause))
        if arranged.unparsed:
            self._unparsed = [by_offset[offset] for offset in sorted(arranged.unparsed)]
            for message in self._unparsed:
                message.enter(MessageState.UNPARSED)
            offset = min(arranged.unparsed)
            detail = f"offset {offset}: {arranged.unparsed[offset]}"
            self.park(ParkingCause.PARSE_ERROR, detail)

    def _start_tasks(self, by_offset: Mapping[int, LiveMessage], arranged: Arrangement) -> None:
        for task in arranged.tasks:
            sources = [by_offset[offset] for offset in task.source_offsets]
            for message in sources:
                message.tasks.add(task.id)
            if len(sources) > 1:
                share(sources, self.tools.cluster)
        parsed = [message for offset, message in by_offset.items() if offset in arranged.parsed]
        batch = self.completion.batch_of(parsed)
        for message in parsed:
            message.parsed = arranged.parsed[message.record.offset]
            message.parts = FanOut(len(message.tasks))
            if message.deferral is not None:
                message.parts.add_fate(message.deferral.fate)
            message.batch = batch
            message.enter(MessageState.RUNNING)
            labels = self._labels(message.parsed)
            seconds, count = arranged.duration_seconds, len(arranged.records)
            self.teller.arranged(message, labels, seconds, count)
        for task in _in_order(arranged.tasks):
            of_task = tuple(by_offset[offset] for offset in task.source_offsets)
            deferral, attempt = of_task[0].deferral, 0
            if deferral is not None:
                attempt = deferral.attempts.get(int(task_number(task.id)), 0)
            self.tasks.start(task, of_task, attempt)
        for message in parsed:
            if not message.tasks:
                self.completion.message_ended(message)

    def _labels(self, message: Message[Any]) -> dict[str, str]:
        if not self._has_label:
            return {}
        handler, hooks = self.tools.handler, self.tools.hooks
        label = hooks.call_now(handler.message_label, "", message)
        try:
            return hooks.bounds.labels({"message": label})
        except TypeError as exc:
            hooks.count_error("message_label", exc)
            return {"message": ""}

    def has_task(self, task_id: str) -> bool:
        """Whether a task is unfinished here."""
        return self.tasks.has(task_id)

    def task(self, task_id: str) -> LiveTask | None:
        """Return an unfinished task, to look at; None: there is none of that id here."""
        return self.tasks.get(task_id)

    def cancel_task(self, task_id: str, verdict: Skip | DeadLetter) -> bool:
        """Cancel an unfinished task; False when its payloads are on their way already."""
        return not self._is_ending and self.tasks.cancel(task_id, verdict)

    # -- what tasks ask of their partition ------------------------------------------------------

    def leave_task(self, live: LiveTask) -> bool:
        """While the epoch ends: leave a task that would run again to the heir; True when done.

        Only if nothing else of its messages is open and nothing of them is out.
        """
        if not self._is_ending or live.is_fenced or not is_only_task(live):
            return False
        if self.keys.followers(live):  # They are finished here, and the heir would do this one.
            return False
        if any(message.is_out for message in live.messages):
            return False
        self.completion.leave(live.messages)
        return True

    def park(self, cause: ParkingCause, detail: str) -> None:
        """Stop fetching because of an error that is not the messages' fault."""
        if self._is_closed or not self._parking.add(cause, detail):
            return
        self.set_pause(PauseReason.PARKED, True)
        self.teller.parked(self._tracker.blocker, cause, detail)

    def unpark(self, cause: ParkingCause, reason: str = "works again") -> None:
        """The cause is gone."""
        if self._is_closed or not self._parking.remove(cause):
            return
        self.set_pause(PauseReason.PARKED, bool(self._parking.details))
        self.teller.unparked(cause, reason)
        if cause is ParkingCause.DEAD_LETTER_FLOOD:
            self._gate.open()
        if cause is ParkingCause.PARSE_ERROR:
            for message in self._unparsed:
                message.enter(MessageState.WAITING)
            self._waiting.extendleft(reversed(self._unparsed))
            self._unparsed.clear()
        self._arrange_next()

    @property
    def parked_causes(self) -> list[ParkingCause]:
        """For what it is parked; empty: it is not."""
        return list(self._parking.details)

    # -- ends ----------------------------------------------------------------------------------

    async def _bury(self, message: LiveMessage, cause: DeadLetterCause) -> None:
        message.enter(MessageState.DEAD_LETTERING)
        await self.deliveries.admit((message,))
        await self.deliveries.bury(message, cause)
        if message.state is not MessageState.LEFT:
            self.settle(message, Fate.DEAD_LETTERED)

    def settle(self, message: LiveMessage, fate: Fate) -> None:
        """Give a message its one fate and let the watermark pass."""
        self._give_fate(message, fate)
        was_guarded = self.guard.is_active
        self.guard.passed(message.record.offset)
        flood = self._flood.add(fate is Fate.DEAD_LETTERED)
        if flood is not None:
            self._gate.shut()
            self.park(ParkingCause.DEAD_LETTER_FLOOD, flood)
        self._gate.settled(message.record.offset)
        self.publish()
        if self._held is not None:
            self._held.settled(message)
            self.release_due()
        if was_guarded:
            self._arrange_next()

    def _give_fate(self, message: LiveMessage, fate: Fate) -> None:
        offset = message.record.offset
        message.enter(MessageState.SETTLED)
        self._tracker.settle(offset, fate)
        del self._messages[offset]
        self._fates += 1
        self.tools.budget.refund(self.claim, 1, message.size_bytes)
        self.teller.completed(message, fate)

    def publish(self) -> None:
        """Publish what is wanted of the consumer thread, with the room that there is."""
        if self._is_closed:
            return
        tools = self.tools
        settled = self._settled() if self._is_judged else self._settled_ranges
        pauses = NO_PAUSES
        over = tools.budget.is_over_share(self.claim)
        if over or self._pauses:
            pauses = frozenset(self._pauses | {PauseReason.SHARE} if over else self._pauses)
        resting, watermark = self._resting, self._tracker.watermark
        wanted = Wanted(pauses, watermark, self._fates, self.guard.note, settled, resting=resting)
        tools.board.publish(self.claim, wanted)
        tools.board.room_messages = tools.budget.room_messages

    @property
    def _resting(self) -> int:
        """Number of messages without a fate for which nothing is done: the next epoch of a
        partition that was moved may have them, or pass over them."""
        held = 0 if self._held is None else self._held.count
        if self._arranging is not None or not self._parking.is_halting:
            return held
        return held + len(self._waiting) + len(self._unparsed)

    def note_settled(self) -> None:
        """Publish what has its fate above the watermark, so that whoever comes after a crash passes
        over it. Called every half a second: it looks at all offsets in hand, too many for each
        fate."""
        if self._is_closed or self._is_judged or self._fates_noted == self._fates:
            return
        self._fates_noted = self._fates
        settled = self._settled()
        if settled != self._settled_ranges:
            self._settled_ranges = settled
            self.publish()
            if self._held is not None:
                self._held.note_stretches(len(settled))

    # -- the end of the epoch ------------------------------------------------------------------

    async def end(self, deadline: float, reason: str) -> bool:
        """End the epoch by a monotonic deadline; True when nothing was cut short.

        What runs and what is out is finished and delivered; everything else is dropped without a
        fate for the next owner, who passes over what has its fate above the watermark.
        """
        began = self.tools.clock.now()
        self._is_ending = True
        self.guard.drain()
        self._waiting.clear()
        if self._arranging is not None:
            self._arranging.cancel()
        self.tools.steps.slots.favour(self.claim, True)
        # What waits in a spawner is the heir's; what runs, however short, is finished.
        await self.tools.steps.executor.recall()
        choice = self._leave_to_heir(self.deliveries.held_up(by_failures=False))
        self._gate.end(choice.finished)
        self.hurry.set()
        hope = began + (deadline - began) * HOPE_SHARE
        # A little earlier than the consumer thread stops waiting, for it is still told what ended.
        last = deadline - min(FINAL_COMMIT_SECONDS, (deadline - began) / 10)
        if choice.tried:
            await self._until(min(began + TRIAL_SECONDS, hope), hope)
            for live in choice.tried:
                if live.state not in LEAVING and self.leave_task(live):
                    live.cancel()
        await self._until(hope, hope)
        self.completion.split(list(self._messages.values()))
        await self._until(last, hope)
        self._judge()
        # The consumer thread waits no longer than this: what a slow loop ends later is not
        # committed.
        is_clean = not (self._children or self._is_killed) and self.tools.clock.now() <= deadline
        dropped = self._close()
        await self._cancel_all()
        seconds = self.tools.clock.now() - began
        self.teller.revoked(self._tracker.watermark, reason, dropped, seconds, is_clean=is_clean)
        return is_clean

    async def _until(self, moment: float, hope: float) -> None:
        """Wait until all children have ended, or a moment of the clock. Up to ``hope`` a sink that
        does not answer may come back; then its payloads are the heir's, as a paused one's are."""
        now = self.tools.clock.now
        while self._children and (left := moment - now()) > 0:
            self.deliveries.hasten()
            self.tools.dead_letters.hasten()
            if self.tools.retries is not None:
                self.tools.retries.hasten()
            await asyncio.wait(self._children, timeout=min(left, HELD_UP_SECONDS))
            held_up = self.deliveries.held_up(by_failures=now() >= hope)
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
        tasks, calls = list(self.tasks.all), self.deliveries.calls
        choice = choose(
            self._tracker,
            self._messages,
            calls,
            tasks,
            held_up=held_up,
            inherited=self._inherited.above(self._tracker.last),
            chains=self.keys.chains(),
            slots=self.tools.steps.slots.count,
        )
        given_up = [call for call in held_up if choice.is_left_by(calls[call])]
        if given_up and not self.deliveries.give_up(given_up):
            return self._leave_to_heir(())
        for live in filter(choice.is_left, tasks):
            live.cancel()
        tried = {offset for live in choice.tried for offset in live.task.source_offsets}
        stay = choice.finished | tried
        self.completion.leave([one for offset, one in self._messages.items() if offset not in stay])
        return choice

    def _judge(self) -> None:
        """Publish what the heir is told of, from now on with each fate."""
        self._is_judged = True
        self.publish()

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
        if self._held is not None:
            self._held.close()
        dropped = self._tracker.open_count
        self.tools.budget.close(self.claim)
        self.tools.board.room_messages = self.tools.budget.room_messages
        self.tools.steps.slots.favour(self.claim, False)
        for message in self._messages.values():
            message.enter(MessageState.LEFT)
        self._messages.clear()
        return dropped

    async def lose(self) -> None:
        """The epoch ended without us: fence first, then cancel; nothing more of it is delivered."""
        self._is_ending = True
        self._waiting.clear()
        dropped = self._close()
        await self._cancel_all()
        self.teller.lost(dropped)

    @property
    def unfinished_attempts(self) -> int:
        """Tasks that run or deliver now: what comes of them after a loss is thrown away."""
        return self.tasks.working_count

    # -- figures -------------------------------------------------------------------------------

    def figures(self) -> PartitionBeat:
        """Return what the heartbeat and the metrics port show of this partition; what only the
        consumer thread knows is unknown."""
        return PartitionBeat(
            topic=self.claim.topic,
            partition=self.claim.partition,
            epoch=self.claim.epoch,
            state=self._state(),
            is_paused=PauseReason.OPERATOR in self._pauses,
            parked={cause.value: detail for cause, detail in self._parking.details.items()},
            held=None if self._held is None else self._held.count,
            resting=self._resting,
            queue=len(self._waiting) + self.tasks.waiting_count,
            pending=self._tracker.open_count,
            watermark=self._tracker.watermark,
            blocker=self._blocker(),
            strip=tuple(stretches(self._tracker.gaps(), MOST_STRETCHES)),
        )

    def _state(self) -> PartitionState:
        if self._is_ending:
            return PartitionState.DRAINING
        if self._parking.details:
            return PartitionState.PARKED
        if not ON_PURPOSE.isdisjoint(self._pauses):
            return PartitionState.PAUSED
        return PartitionState.STALLED if self._is_stalled else PartitionState.RUNNING

    def _blocker(self) -> Blocker | None:
        """Return the message that holds the commit back; None: none does."""
        offset = self._tracker.blocker
        if offset is None:
            return None
        message = self._messages.get(offset)
        if message is None:
            return Blocker(offset=offset)
        if message.state is MessageState.HELD:
            return Blocker(offset=offset, age_seconds=0.0)
        age = round(self.tools.clock.now() - message.handed_at, 3)
        task_id = min(message.tasks, default=None)
        waits_for = None if task_id is None else self.tasks.waits_for(task_id)
        return Blocker(offset=offset, task_id=task_id, age_seconds=age, waits_for=waits_for)

    # -- small things --------------------------------------------------------------------------

    def child(self, coroutine: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        task = self.tools.start(coroutine)
        self._children.add(task)
        task.add_done_callback(self._children.discard)
        return task


def _in_order(tasks: Sequence[Task]) -> Sequence[Task]:
    """Tasks of one call as they join the order of their keys: by their lowest messages, and those
    of the same message as the handler gave them."""
    if all(task.key is None for task in tasks):
        return tasks
    return sorted(tasks, key=lambda task: task.source_offsets[0])


def _poison(reason: str) -> DeadLetterCause:
    return DeadLetterCause(stage=Stage.CRASH, kind=FailureKind.POISON, reason=reason)
