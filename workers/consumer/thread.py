"""The consumer thread: the only authority on ownership. It polls, hands over, reconciles,
commits."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import count
from types import MappingProxyType

from workers.broker.base import (
    Broker,
    BrokerError,
    BrokerUnavailable,
    CommitOutcome,
    CommittedOffset,
    OffsetOutOfRange,
    PollInterrupted,
    Start,
    TopicMissing,
    TopicPartition,
    Watermarks,
)
from workers.consumer.claims import Claims, ClaimState, ConsumerParts
from workers.consumer.commits import Commits
from workers.consumer.fetching import Fetching
from workers.consumer.group_view import NOTHING_COMMITTED, GroupReader, GroupView, by_topic
from workers.consumer.moves import Move, Moves
from workers.consumer.ownership import Claim, PartitionFigures, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.positions import Positions, TopicWatch
from workers.consumer.signals import (
    Assignment,
    ConsumerClosed,
    ConsumerFailed,
    EndReason,
    EndRequest,
    EpochsBegun,
    EpochsLost,
    GroupJoined,
    NothingAssigned,
    OffsetMissing,
    Post,
    WaitingFor,
)

logger = logging.getLogger("drakkar.consumer")

TICK_SECONDS = 0.001
"""The client waits for whole milliseconds."""


class ConsumerThread:
    """Runs one ``Broker`` in a daemon thread. Public methods are for other threads; none blocks.

    Whatever it learns is posted to the loop; what the loop wants is read from the board.
    """

    def __init__(
        self,
        broker: Broker,
        post: Post,
        board: WantedBoard,
        policy: ConsumerPolicy,
        clock: Callable[[], float] = time.monotonic,
        epochs: Iterator[int] | None = None,
    ) -> None:
        self._broker = broker
        self._post = post
        self._board = board
        self._policy = policy
        self._clock = clock
        self._claims = Claims(epochs or count(1))
        parts = ConsumerParts(broker, post, board, self._claims, policy, clock)
        self._commits = Commits(parts)
        self._fetching = Fetching(parts)
        self._moves = Moves(parts)
        self._thread = threading.Thread(target=self._main, name="kafka-consumer", daemon=True)
        self._wake = threading.Event()
        self._topic = TopicWatch(parts, self._wake)
        self._group = GroupReader(parts, self._topic)
        self._positions = Positions(parts, self._topic, self._fetching)
        self._killed = threading.Event()
        self._stop_deadline: float | None = None
        self.has_committed = True
        """Once it has stopped: whether the group has answered the last commit."""
        self._restarts: queue.SimpleQueue[tuple[Claim, Start]] = queue.SimpleQueue()
        self._unresolved: set[TopicPartition] = set()
        self._standing: dict[TopicPartition, str] = {}
        self._told = {state: state(None) for state in (WaitingFor, NothingAssigned)}
        self._has_joined = False
        self._broken: Exception | None = None
        self._resolved_at = self._looked_at = -1e9
        self._checked_at = clock()

    # -- for other threads

    def start(self) -> None:
        """Begin. Kafka may be away: then it waits and says so."""
        self._thread.start()
        threading.Thread(target=self._watch_topic, name="kafka-watch", daemon=True).start()

    def request_stop(self, deadline_seconds: float) -> None:
        """Pause all, end all epochs, commit, leave the group: within this budget."""
        self._stop_deadline = time.monotonic() + deadline_seconds
        self._wake.set()

    def kill(self) -> None:
        """Wait for nothing any more: the second signal."""
        self._killed.set()
        self._wake.set()

    def join(self, timeout_seconds: float) -> bool:
        """Wait for the thread; True when it has ended."""
        self._thread.join(timeout_seconds)
        return not self._thread.is_alive()

    def restart(self, claim: Claim, start: Start) -> None:
        """End this epoch, begin one at ``start`` (unpark); past epochs: ignored."""
        self._restarts.put((claim, start))

    def move(self, asked: Move) -> None:
        """End an epoch, commit another offset, begin there (rewind, skip); ``answer`` says how it
        went."""
        self._moves.ask(asked)

    def bounds(self, key: TopicPartition) -> Watermarks:
        """Ask for the first offset and the end of a partition. Raises BrokerError; blocks."""
        seconds = self._policy.ask_timeout_seconds
        low = self._broker.begin_offsets([key], seconds)[key]
        return Watermarks(low, self._broker.end_offsets([key], seconds)[key])

    def offset_at(self, key: TopicPartition, timestamp_ms: int) -> int:
        """Ask for the first message at or after a time, or the end. Raises BrokerError; blocks."""
        return self._broker.offset_at(key, timestamp_ms, self._policy.ask_timeout_seconds)

    def figures(self) -> Mapping[Claim, PartitionFigures]:
        """Return what was known about a second ago; replaced as a whole."""
        return self._positions.figures

    # -- the thread

    def _main(self) -> None:
        try:
            if self._open():
                while not self._is_over():
                    self._step()
                self._finish()
            self._post(ConsumerClosed())
        except Exception as exc:  # noqa: BLE001  # told: the worker ends with it
            self._claims.clear()
            self._post(ConsumerFailed(exc))
        finally:
            self._moves.close()

    def _is_over(self) -> bool:
        return self._killed.is_set() or self._stop_deadline is not None

    def _open(self) -> bool:
        while not self._is_over():
            try:
                self._broker.open(self)
            except BrokerUnavailable as exc:
                self._tell(WaitingFor(str(exc)))
                self._wake.wait(self._policy.retry_seconds)
            else:
                return True
        return False

    def _step(self) -> None:
        if self._broken is not None:
            raise self._broken
        due_at = self._looked_at + self._fetching.slice_seconds
        self._fetching.hand_over(self._wake, max(TICK_SECONDS, due_at - self._clock()))
        # What goes through all claims is done once a slice, not after each message that comes.
        if due_at - self._clock() >= TICK_SECONDS:
            return
        self._looked_at = self._clock()
        self._serve_restarts()
        self._serve_moves()
        self._fetching.reconcile()
        self._tell_joined()
        self._tell(
            WaitingFor(
                self._topic.detail or self._unresolved_detail() or self._commits.refused_detail
            )
        )
        is_member = self._has_joined and not self._unresolved
        self._tell(NothingAssigned(self._positions.idle(self._clock(), is_member=is_member)))
        self._stand()
        self._resolve()
        self._commits.step()
        self._check_commits()
        self._positions.step(self._clock())

    def _tell_joined(self) -> None:
        protocol = self._broker.joined_protocol
        if protocol is not None and not self._has_joined:
            self._has_joined = True
            self._post(GroupJoined(protocol))

    def _tell(self, state: WaitingFor | NothingAssigned) -> None:
        """Post a state when it is another one."""
        if self._told[type(state)] != state:
            self._told[type(state)] = state
            self._post(state)

    def _unresolved_detail(self) -> str | None:
        """Return why partitions of ours are not begun."""
        if not self._unresolved or self._group.error is None:
            return None
        count = len(self._unresolved)
        return f"what the group committed ({count} partitions are not begun): {self._group.error}"

    def _watch_topic(self) -> None:
        self._topic.run(lambda: self._is_over() or not self._thread.is_alive())

    # -- epochs begun anew

    def _serve_restarts(self) -> None:
        while not self._restarts.empty():
            claim, start = self._restarts.get()
            held = self._claims.get(claim.topic_partition)
            if held is not None and held.claim == claim:
                self._begin_anew(held, start)

    def _begin_anew(self, held: ClaimState, start: Start) -> None:
        key = held.key
        self._end_epochs([held], EndReason.RESTARTED, self._policy.revoke_timeout_seconds)
        # Whoever begins anew wants the messages again, also those that had their fate.
        metadata = replace(held.metadata, settled=()).encode()
        self._broker.unassign([key])
        committed = CommittedOffset(None, metadata)
        self._adopt({key: start}, GroupView(committed={key: committed}, partition_count=0))

    def _serve_moves(self) -> None:
        for held, move in self._moves.asked():
            self._end_epochs([held], EndReason.RESTARTED, self._policy.revoke_timeout_seconds)
            self._broker.unassign([held.key])
            self._moves.commit(held, move)
        for opened in self._moves.ready():
            if not self._begin([opened.move.key]):
                self._unresolved.add(opened.move.key)
            self._moves.begun(opened)

    # -- rebalances: called inside a poll

    def on_assign(self, partitions: Sequence[TopicPartition]) -> None:
        """Find where to start, fetch from there, and tell; unknown starts are asked for again."""
        try:
            self._take_over(partitions)
        except Exception as exc:
            # Nobody would read these, and nobody would hear of it: the worker ends (see _step).
            self._broken = exc
            raise

    def _take_over(self, partitions: Sequence[TopicPartition]) -> None:
        self._tell_joined()
        # With an empty list too: the client waits for an answer to each assignment.
        for keys in by_topic(partitions) or [[]]:
            if self._fetching.is_quiet or not self._begin(keys):
                # A start that cannot fail: an error would be told when the right one is found.
                self._broker.assign(dict.fromkeys(keys, Start.LATEST))
                self._broker.pause(keys)
                self._unresolved.update(keys)

    def _begin(self, partitions: Sequence[TopicPartition]) -> bool:
        """Begin partitions of one topic where the group says; False when nobody could be asked."""
        view = self._group.view(partitions) if partitions else NOTHING_COMMITTED
        found = None if view is None else self._group.starts(partitions, view)
        if view is None or found is None:
            return False
        starts, numbers = found
        self._broker.unassign([key for key in partitions if key in self._unresolved])
        self._unresolved.difference_update(partitions)
        self._adopt(starts, view, numbers)
        return True

    def _adopt(
        self,
        starts: Mapping[TopicPartition, int | Start],
        view: GroupView,
        numbers: Mapping[TopicPartition, int] = MappingProxyType({}),
    ) -> None:
        self._fetching.on_assigned()
        self._broker.assign(starts)
        self._commits.regained(starts.keys())
        now = self._clock()
        self._checked_at = min(
            self._checked_at,
            now - self._policy.check_interval_seconds + self._policy.first_check_seconds,
        )
        told = []
        for key, start in starts.items():
            held, committed = self._claims.begin(key, start, now), view.committed[key]
            held.acknowledged = committed.offset
            held.first = numbers.get(key)
            start_at = self._policy.start_of(key.topic)
            held.metadata = view.inherit(key, self._policy.run, start_at)
            held.encoded = committed.metadata
            # The client remembers a pause from before: it is set each time, after the assign.
            self._fetching.apply_pause(held, force=True)
            told.append(_assignment(held, committed))
            self._positions.forget(key)
        if told:
            # Before the first record: who dies of it must be known by name.
            self._commits.send_metadata(self._claims.of(list(starts)))
            self._post(EpochsBegun(told))

    def _resolve(self) -> None:
        now = self._clock()
        if not self._unresolved or now - self._resolved_at < self._policy.retry_seconds:
            return
        self._resolved_at = now
        for keys in by_topic(sorted(self._unresolved)):
            self._begin(keys)

    def on_revoke(self, partitions: Sequence[TopicPartition]) -> None:
        """End these epochs with the loop, within the budget; the commit is the last act."""
        self._unresolved.difference_update(partitions)
        self._commits.final.given_up(partitions)
        self._moves.given_up(partitions)
        held = self._claims.of(partitions)
        self._end_epochs(held, EndReason.REVOKED, self._policy.revoke_timeout_seconds)

    def on_lost(self, partitions: Sequence[TopicPartition]) -> None:
        """Fence these first; commit nothing."""
        self._unresolved.difference_update(partitions)
        self._commits.final.given_up(partitions)
        self._moves.given_up(partitions)
        self._commits.lost(partitions)
        claims = self._claims.end(partitions)
        self._forget(claims)
        if claims:
            self._post(EpochsLost(claims))

    def _end_epochs(self, ending: Sequence[ClaimState], reason: EndReason, seconds: float) -> None:
        claims = [held.claim for held in ending]
        keys = [claim.topic_partition for claim in claims]
        try:
            if claims:
                self._dialogue(claims, reason, time.monotonic() + seconds)
        finally:
            self._commits.commit_final(ending, is_ours=reason is EndReason.STOPPED)
            self._claims.end(keys)
            self._forget(claims)
            self._commits.send_final()

    def _dialogue(self, claims: Sequence[Claim], reason: EndReason, deadline: float) -> None:
        """Have the loop end these epochs; returns when it has, or at the deadline."""
        request = EndRequest(claims=claims, deadline=deadline, reason=reason)
        self._post(request)
        while not self._killed.is_set() and time.monotonic() < deadline:
            left = max(0.0, deadline - time.monotonic())
            if request.wait(min(self._policy.slice_seconds, left)):
                return
            self._fetching.reconcile()
            self._commits.step()

    def _forget(self, claims: Sequence[Claim]) -> None:
        for claim in claims:
            self._standing.pop(claim.topic_partition, None)
            self._board.forget(claim)

    # -- commits

    def on_commit(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Tell what was acknowledged of current epochs, and what was refused."""
        self._moves.answered(outcomes)
        self._commits.answered(outcomes)

    def _check_commits(self) -> None:
        """Another member may have overwritten an offset: only an explicit commit repairs that."""
        has_doubts, policy = self._commits.has_doubts, self._policy
        seconds = policy.first_check_seconds if has_doubts else policy.check_interval_seconds
        if self._clock() - self._checked_at < seconds:
            return
        self._checked_at = self._clock()
        keys = self._commits.watched()
        if has_doubts:
            for topic_keys in by_topic([held.key for held in self._claims]):
                view = self._group.view(topic_keys)
                if view is not None:
                    self._commits.absolve(topic_keys, view)
        found = self._group.committed(keys) if keys else None
        self._commits.repair(found or {})

    # -- errors told

    def on_error(self, error: BrokerError) -> None:
        """Out of range: the partition stands, after this poll. Else: it is waited for."""
        if isinstance(error, OffsetOutOfRange):
            self._standing[error.topic_partition] = str(error)
        elif isinstance(error, BrokerUnavailable | TopicMissing):
            self._topic.detail = str(error)
        else:
            logger.warning("%s", error)

    def _stand(self) -> None:
        standing, self._standing = self._standing, {}
        for key, detail in standing.items():
            held = self._claims.get(key)
            if held is not None:
                held.is_standing = True
                self._broker.unassign([key])
                self._post(OffsetMissing(held.claim, detail))

    # -- the end

    def _finish(self) -> None:
        deadline = self._stop_deadline or time.monotonic()
        self._fetching.is_quiet = True
        self._moves.close()
        self._fetching.reconcile()
        left = max(0.0, deadline - time.monotonic())
        self._end_epochs(list(self._claims), EndReason.STOPPED, left)
        self._await_acknowledgement(deadline)
        closing = threading.Thread(target=self._close, name="kafka-close", daemon=True)
        closing.start()
        # Acknowledgements come while it closes; a broker away may block it for long: abandoned.
        budget = 1.0 if self._killed.is_set() else self._policy.close_timeout_seconds
        closing.join(max(budget, deadline - time.monotonic()))
        self.has_committed = self._commits.final.have_arrived

    def _await_acknowledgement(self, deadline: float) -> None:
        final = self._commits.final
        while final.are_awaited and time.monotonic() < deadline and not self._killed.is_set():
            try:
                self._broker.poll_batch(1, self._policy.slice_seconds)
            except PollInterrupted as exc:
                logger.warning("poll interrupted at the end: %s", exc)
            self._commits.retry_final()

    def _close(self) -> None:
        try:
            self._broker.close()
        except BrokerError as exc:
            logger.warning("close: %s", exc)


def _assignment(held: ClaimState, committed: CommittedOffset) -> Assignment:
    return Assignment(
        claim=held.claim,
        start_offset=held.start if isinstance(held.start, int) else None,
        committed=committed.offset,
        metadata=held.metadata,
    )
