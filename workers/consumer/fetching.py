"""What the consumer thread asks of the client: records for which there is room, and pauses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from domain.message import Record
from workers.broker.base import Broker, BrokerError, PollInterrupted
from workers.consumer.claims import Claims, ClaimState
from workers.consumer.fair_fetch import FairFetch
from workers.consumer.ownership import TopicPartition, Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import Post, RecordsFetched

logger = logging.getLogger("drakkar.consumer")


class Fetching:
    """Used by the consumer thread only. ``is_quiet``: everything is paused for good."""

    def __init__(
        self,
        broker: Broker,
        post: Post,
        board: WantedBoard,
        claims: Claims,
        policy: ConsumerPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._post = post
        self._board = board
        self._claims = claims
        self._policy = policy
        self._clock = clock
        self._full_since: float | None = None
        self._is_resting = False
        self._hunger = FairFetch(board.most_messages)
        self._handed_messages = board.taken_messages
        self._notes, self._noted_at = 0, -1e9
        self.is_quiet = False

    # -- records

    def hand_over(self, wake: threading.Event) -> None:
        """Poll for what there is room for and pass it on; without room wait for ``wake``."""
        max_messages, timeout_seconds = self._room()
        if max_messages < 1:
            wake.wait(timeout_seconds)
            return
        try:
            records = self._broker.poll_batch(max_messages, timeout_seconds)
        except PollInterrupted as exc:
            logger.warning("poll interrupted: %s", exc)
            self._pass_on(exc.records)
            self._seek_all()
            return
        self._pass_on(records)

    def _room(self) -> tuple[int, float]:
        """How many to ask for and how long to wait; 0 means: do not poll in this slice."""
        free, now = self._free_messages(), self._clock()
        room = max(0, free - self._hunger.reserve_messages)
        self._hunger.step(now, free, self._held)
        if self._hunger.turn:
            self.reconcile()
            return self._hunger.messages_each(free), self._slice_seconds(now)
        if self._is_resting:
            self._is_resting = free * 2 < self._board.most_messages
            self._full_since = None
        elif room > 0:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        elif now - self._full_since >= self._policy.no_room_seconds:
            self._is_resting = True
        if self._is_resting:
            self.reconcile()
            return 1, self._slice_seconds(now)
        return min(room, self._policy.max_poll_records), self._slice_seconds(now)

    def _slice_seconds(self, now: float) -> float:
        """Short while a crash guard is at work: its steps wait for their notes' answers."""
        if self._board.notes != self._notes:
            self._notes, self._noted_at = self._board.notes, now
        if now - self._noted_at < self._policy.noting_seconds:
            return self._policy.noting_slice_seconds
        return self._policy.slice_seconds

    def _free_messages(self) -> int:
        """The room there is, without what is still on its way to the loop."""
        # In this order: the loop says last what it has taken.
        under_way = self._handed_messages - self._board.taken_messages
        return max(0, self._board.room_messages - under_way)

    def _held(self) -> dict[TopicPartition, int]:
        """How many messages each holds that may be fetched."""
        held = {}
        for one in self._claims:
            wanted = self._board.read(one.claim)
            if not (one.is_standing or self._is_pause_wanted(one, wanted)):
                held[one.claim.topic_partition] = one.taken - wanted.fates
        return held

    def on_assigned(self) -> None:
        """Partitions are about to come: nothing is held back on their assignment."""
        self._hunger.on_assigned(self._clock(), is_first=not any(True for _ in self._claims))
        self._is_resting, self._full_since = False, None

    def _pass_on(self, records: Sequence[Record]) -> None:
        by_claim = self._claims.take(records)
        self._handed_messages += sum(map(len, by_claim.values()))
        if by_claim:
            self._post(RecordsFetched(by_claim))

    def _seek_all(self) -> None:
        # Always: comparing position() first left gaps.
        for held in self._claims:
            if not held.is_standing:
                self.fetch_again(held)

    def fetch_again(self, held: ClaimState) -> None:
        """Have the client read on from what was handed over last."""
        key, start = held.claim.topic_partition, held.resume_at
        try:
            if isinstance(start, int):
                self._broker.seek(key, start)
                return
        except BrokerError as exc:
            logger.warning("seek of %s refused (%s): assigning again", key, exc)
        self._assign_again(held)

    def _assign_again(self, held: ClaimState) -> None:
        key = held.claim.topic_partition
        self._broker.unassign([key])
        self._broker.assign({key: held.resume_at})
        self.apply_pause(held, force=True)

    # -- pauses

    def reconcile(self) -> None:
        """Pause and resume what is wanted so."""
        for held in self._claims:
            if not held.is_standing:
                self.apply_pause(held)

    def apply_pause(self, held: ClaimState, force: bool = False) -> None:
        """Pause or resume one claim; ``force``: also when nothing changed on our side."""
        is_wanted = self._is_pause_wanted(held, self._board.read(held.claim))
        turn = self._hunger.turn
        is_resting = held.claim.topic_partition not in turn if turn else self._is_resting
        paused = is_wanted or is_resting or self.is_quiet
        if force or paused != held.is_paused:
            held.is_paused = paused
            key = held.claim.topic_partition
            (self._broker.pause if paused else self._broker.resume)([key])

    @staticmethod
    def _is_pause_wanted(held: ClaimState, wanted: Wanted) -> bool:
        return bool(wanted.pauses) if wanted.is_published else held.metadata.is_paused
