"""Asking the client for records for which there is room, and for pauses."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence

from domain.message import Record
from workers.broker.base import BrokerError, PollInterrupted, TopicPartition
from workers.consumer.claims import ClaimState, ConsumerParts
from workers.consumer.fair_fetch import FairFetch
from workers.consumer.ownership import Wanted
from workers.consumer.signals import RecordsFetched

logger = logging.getLogger("drakkar.consumer")


class Fetching:
    """Fetches and pauses; consumer thread only. ``is_quiet``: everything is paused for good."""

    def __init__(self, parts: ConsumerParts) -> None:
        self._parts = parts
        self._full_since: float | None = None
        self._is_resting = False
        self._fair = FairFetch(parts.board.most_messages)
        # A poll costs as much as a dozen messages: with less room than this, one a slice is enough.
        self._worthwhile = max(1, parts.board.most_messages // 32)
        self._polled_at = -1e9
        self._handed_messages = parts.board.taken_messages
        self._notes, self._noted_at = 0, -1e9
        self._rests = 0
        self.is_quiet = False

    # -- records

    def hand_over(self, wake: threading.Event, timeout_seconds: float) -> None:
        """Poll for what there is room for and pass it on; without room wait for ``wake``."""
        if self._parts.board.rests != self._rests:
            self._rests = self._parts.board.rests
            self.reconcile()
        max_messages = self._room()
        if max_messages < 1:
            wake.wait(timeout_seconds)
            return
        self._polled_at = self._parts.clock()
        try:
            records = self._parts.broker.poll_batch(max_messages, timeout_seconds)
        except PollInterrupted as exc:
            logger.warning("poll interrupted: %s", exc)
            self._pass_on(exc.records)
            self._seek_all()
            return
        self._pass_on(records)

    def _room(self) -> int:
        """Return how many to ask for; 0 means: do not poll in this slice."""
        free, now = self._free_messages(), self._parts.clock()
        room = max(0, free - self._fair.reserve_messages)
        fetched_before = self._fair.round, self._is_resting
        self._fair.step(now, free, self._held)
        if not self._fair.round:
            self._rest(now, free, has_room=room > 0)
        if fetched_before != (self._fair.round, self._is_resting):
            self.reconcile()
        if self._fair.round:
            return self._fair.messages_each(free)
        if self._is_resting:
            return 1
        if room < self._worthwhile and now - self._polled_at < self.slice_seconds:
            return 0
        return min(room, self._parts.policy.max_poll_records)

    def _rest(self, now: float, free: int, *, has_room: bool) -> None:
        """Pause everything once there was no room for long, until half of it is free."""
        if self._is_resting:
            self._is_resting = free * 2 < self._parts.board.most_messages
            self._full_since = None
        elif has_room:
            self._full_since = None
        elif self._full_since is None:
            self._full_since = now
        else:
            self._is_resting = now - self._full_since >= self._parts.policy.no_room_seconds

    @property
    def slice_seconds(self) -> float:
        """Short while a crash guard is at work: its steps wait for their notes' answers."""
        now = self._parts.clock()
        if self._parts.board.notes != self._notes:
            self._notes, self._noted_at = self._parts.board.notes, now
        if now - self._noted_at < self._parts.policy.noting_seconds:
            return self._parts.policy.noting_slice_seconds
        return self._parts.policy.slice_seconds

    def _free_messages(self) -> int:
        """Return the room there is, without what is still on its way to the loop."""
        # In this order: the loop says last what it has taken.
        under_way = self._handed_messages - self._parts.board.taken_messages
        return max(0, self._parts.board.room_messages - under_way)

    def _held(self) -> dict[TopicPartition, int]:
        """Return how many messages each holds that may be fetched, but for those that rest: they
        keep nothing busy."""
        held = {}
        for one in self._parts.claims:
            wanted = self._parts.board.read(one.claim)
            if not (one.is_standing or self._is_pause_wanted(one, wanted)):
                held[one.key] = one.taken - wanted.fates - wanted.resting
        return held

    def on_assigned(self) -> None:
        """Partitions are about to come: nothing is held back on their assignment."""
        is_first = not any(True for _ in self._parts.claims)
        self._fair.on_assigned(self._parts.clock(), is_first=is_first)
        self._is_resting, self._full_since = False, None

    def _pass_on(self, records: Sequence[Record]) -> None:
        by_claim = self._parts.claims.take(records)
        self._handed_messages += sum(map(len, by_claim.values()))
        if by_claim:
            self._parts.post(RecordsFetched(by_claim))

    def _seek_all(self) -> None:
        # Always: comparing position() first left gaps.
        for held in self._parts.claims:
            if not held.is_standing:
                self.fetch_again(held)

    def fetch_again(self, held: ClaimState) -> None:
        """Have the client read on from what was handed over last."""
        key, start = held.key, held.resume_at
        try:
            if isinstance(start, int):
                self._parts.broker.seek(key, start)
                return
        except BrokerError as exc:
            logger.warning("seek of %s refused (%s): assigning again", key, exc)
        self._assign_again(held)

    def _assign_again(self, held: ClaimState) -> None:
        key = held.key
        self._parts.broker.unassign([key])
        self._parts.broker.assign({key: held.resume_at})
        self.apply_pause(held, force=True)

    # -- pauses

    def reconcile(self) -> None:
        """Pause and resume what is wanted so."""
        for held in self._parts.claims:
            if not held.is_standing:
                self.apply_pause(held)

    def apply_pause(self, held: ClaimState, force: bool = False) -> None:
        """Pause or resume one claim; ``force``: also when nothing changed on our side."""
        is_wanted = self._is_pause_wanted(held, self._parts.board.read(held.claim))
        served = self._fair.round
        is_resting = held.key not in served if served else self._is_resting
        paused = is_wanted or is_resting or self.is_quiet
        if force or paused != held.is_paused:
            held.is_paused = paused
            key = held.key
            (self._parts.broker.pause if paused else self._parts.broker.resume)([key])

    def _is_pause_wanted(self, held: ClaimState, wanted: Wanted) -> bool:
        if wanted.is_published:
            return bool(wanted.pauses)
        return held.metadata.is_paused or self._parts.board.is_resting
