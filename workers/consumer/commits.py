"""Commits of the consumer thread: watermarks, with what the next owner must know."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping, Sequence

from domain.commit import MAX_LOST
from workers.broker.base import BrokerError, CommitOutcome, CommittedOffset, TopicPartition
from workers.consumer.claims import ClaimState, ConsumerParts
from workers.consumer.final_commits import FinalCommits
from workers.consumer.group_view import GroupView
from workers.consumer.ownership import Claim, Wanted
from workers.consumer.signals import CommitRefused, DeathsTakenBack, NoteCommitted, OffsetsCommitted

logger = logging.getLogger("drakkar.consumer")


class Commits:
    """Stores and commits; consumer thread only. ``step`` is called each slice."""

    def __init__(self, parts: ConsumerParts) -> None:
        self._parts = parts
        self.final = FinalCommits(parts)
        self._passed = 0
        self._lost: dict[str, tuple[int, ...]] = {}
        """Numbers of the partitions that were taken from this run, by topic."""
        self._is_retry = False
        self._is_note_stored = False
        self._sent_at = -1e9

    def step(self) -> None:
        """Store what passed, commit when due, and send metadata that changed without it."""
        self._passed += sum(self._store(held) for held in self._parts.claims)
        since = self._parts.clock() - self._sent_at
        is_retry = self._is_retry and since >= self._parts.policy.commit.interval_seconds
        is_due = self._parts.policy.commit.is_due(since_seconds=since, passed=self._passed)
        if is_retry or is_due or (self._is_note_stored and not self._is_retry):
            self.send()
        if not self._is_retry:
            self.send_metadata(list(self._parts.claims))

    def send(self) -> None:
        """Commit all that was stored."""
        self._sent_at = self._parts.clock()
        self._passed, self._is_retry, self._is_note_stored = 0, False, False
        try:
            self._parts.broker.commit_async()
        except BrokerError as exc:
            self._is_retry = True
            self._parts.post(CommitRefused(exc.code, str(exc)))

    # -- the final commit

    def commit_final(self, ending: Sequence[ClaimState], *, is_ours: bool) -> None:
        """Settle what is committed last of ending epochs; ``send_final`` follows.

        Who gives a partition up did not die, also past the budget. ``is_ours``: the partitions stay
        with this member until it closes.
        """
        unchanged = []
        for held in ending:
            held.has_left = True
            if held.stored is not None and held.stored != held.acknowledged:
                if not self._store_again(held, held.stored):
                    self.final.is_lost = self.final.is_lost or is_ours
                    continue
            elif not self._store(held) and not self._repeat_settled(held, is_ours):
                unchanged.append(held)
            # Only to tell the acknowledgement of the last commit; nothing is stored from it.
            if held.stored is not None and held.stored != held.acknowledged:
                self.final.add(held, held.stored, is_ours=is_ours)
        self.send_metadata(unchanged)

    def _repeat_settled(self, held: ClaimState, is_ours: bool) -> bool:
        """Have the metadata sent, and their answer awaited, by which the next owner passes over
        what has its fate; False: there are none. The offset is committed already, so not told."""
        held.learn(self._parts.board.read(held.claim), self._lost_of(held), offset=held.stored)
        offset = held.settled_offset
        if not held.metadata.settled or offset is None or held.is_standing:
            return False
        held.last_sent, held.encoded = held.metadata, held.metadata.encode()
        self.final.add(held, offset, is_ours=is_ours, is_told=True)
        return True

    def _store_again(self, held: ClaimState, offset: int) -> bool:
        if self._store(held):
            return True
        held.learn(self._parts.board.read(held.claim), self._lost_of(held), offset=offset)
        held.last_sent, held.encoded = held.metadata, held.metadata.encode()
        try:
            self._parts.broker.store(held.key, offset, held.encoded)
        except BrokerError as exc:
            logger.warning("%s: metadata for the next owner are lost: %s", held.claim, exc)
            return False
        return True

    def send_final(self) -> None:
        """Commit all that was stored, then what is final."""
        self.send()
        self.final.send()

    def retry_final(self) -> None:
        """Repeat refused final commits, every so often."""
        since = self._parts.clock() - self._sent_at
        if self.final.is_repeat_due and since >= self._parts.policy.commit.interval_seconds:
            self.send_final()

    # -- one claim

    def _store(self, held: ClaimState) -> int:
        """Store the watermark of one claim; how many fates it passed by."""
        wanted = self._parts.board.read(held.claim)
        watermark = self._watermark(held, wanted)
        if watermark is None or (held.stored is not None and watermark <= held.stored):
            return 0
        held.learn(wanted, self._lost_of(held), offset=watermark)
        held.metadata = held.metadata.passed(watermark)
        encoded = held.encode()
        try:
            self._parts.broker.store(held.key, watermark, encoded)
        except BrokerError as exc:
            detail = f"{held.claim.topic}/{held.claim.partition}@{watermark}: {exc}"
            self._parts.post(CommitRefused(exc.code, detail))
            return 0
        self._is_note_stored = self._is_note_stored or held.note != held.note_sent
        passed = max(1, wanted.fates - held.fates)
        held.stored, held.fates = watermark, wanted.fates
        self._note_sent(held, encoded)
        return passed

    @staticmethod
    def _note_sent(held: ClaimState, encoded: str) -> None:
        """Metadata are under way; the answer to them is the answer to the note in them."""
        held.encoded, held.last_sent, held.note_sent = encoded, held.metadata, held.note
        if held.note:
            held.notes_sent.append((encoded, held.note))

    def _watermark(self, held: ClaimState, wanted: Wanted) -> int | None:
        """Return the next offset to commit.

        With nothing in hand it passes over what is no message, such as the control records of
        transactions: else the group would show a lag for ever.
        """
        if held.taken != wanted.fates:
            return wanted.watermark
        reached, resume_at = self._parts.broker.reached(held.key), held.resume_at
        if reached is None or (isinstance(resume_at, int) and reached <= resume_at):
            return wanted.watermark
        return wanted.watermark if reached <= (held.acknowledged or 0) else reached

    def send_metadata(self, several: Sequence[ClaimState]) -> None:
        """Commit the same offsets again with metadata that changed (a note, a pause, an owner)."""
        changed = {}
        for held in several:
            held.learn(self._parts.board.read(held.claim), self._lost_of(held), offset=held.stored)
            if held.metadata is held.last_sent or held.metadata == held.last_sent:
                self._repeat_note(held)
                continue
            offset = self._settled_offset(held)
            if offset is not None and not held.is_standing:
                self._note_sent(held, held.encode())
                changed[held.key] = CommittedOffset(offset, held.encoded)
        if not changed:
            return
        try:
            self._parts.broker.commit_explicit(changed)
        except BrokerError as exc:
            for held in self._parts.claims.of(list(changed)):
                held.last_sent = None
            logger.warning("%s: metadata for the next owner wait: %s", list(changed), exc)

    def _repeat_note(self, held: ClaimState) -> None:
        """Answer for a note that repeats the one before: the group has it, or will."""
        if held.note == held.note_sent:
            return
        held.note_sent = held.note
        if held.acknowledged_metadata == held.encoded:
            self._parts.post(NoteCommitted(held.claim, held.note))
        else:
            held.notes_sent.append((held.encoded, held.note))

    def _settled_offset(self, held: ClaimState) -> int | None:
        """Return the offset to send metadata with; None: not now.

        A guard's note does not wait for the coalesced commit: what was stored is this member's to
        commit now, and the client must not send the old metadata after it.
        """
        offset = held.settled_offset
        is_urgent = held.last_sent is None or held.note != held.note_sent
        if offset is None and held.note and is_urgent and held.stored is not None:
            try:
                self._parts.broker.store(held.key, held.stored, held.metadata.encode())
            except BrokerError as exc:
                logger.warning("%s: the guard's note waits: %s", held.claim, exc)
            else:
                return held.stored
        return offset

    # -- who lives

    def lost(self, keys: Sequence[TopicPartition]) -> None:
        """Note that these were taken from this run, which lives: all its metadata say so now."""
        for topic, partition in keys:
            known = dict.fromkeys((*self._lost.get(topic, ()), partition))
            self._lost[topic] = tuple(known)[-MAX_LOST:]

    def _lost_of(self, held: ClaimState) -> tuple[int, ...]:
        return self._lost.get(held.claim.topic, ())

    def regained(self, keys: Collection[TopicPartition]) -> None:
        """Note that these are this run's again: who takes them next may count its death."""
        self._lost = {
            topic: tuple(number for number in lost if TopicPartition(topic, number) not in keys)
            for topic, lost in self._lost.items()
        }

    def absolve(self, keys: Sequence[TopicPartition], view: GroupView) -> None:
        """Take deaths back of runs that turn out to live; the view is of these partitions'
        topic."""
        for held in self._parts.claims.of(keys):
            if held.metadata.deaths:
                metadata = held.metadata.without(view.alive(held.claim.partition))
                if metadata is not held.metadata:
                    held.metadata, held.last_sent = metadata, None
                    self._parts.post(DeathsTakenBack(held.claim, metadata))

    @property
    def has_doubts(self) -> bool:
        """Whether deaths are counted against former owners of what is held."""
        return any(held.metadata.deaths for held in self._parts.claims)

    # -- answers

    def answered(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Tell what was acknowledged of current epochs, and what was refused."""
        done: dict[Claim, int] = {}
        overtaken: dict[TopicPartition, CommittedOffset] = {}
        for outcome in outcomes:
            if outcome.error is not None:
                self._refused(outcome)
                continue
            if (held := self._parts.claims.get(outcome.topic_partition)) is not None:
                held.refused_since = None
            if self._is_overtaken(outcome):
                overtaken[outcome.topic_partition] = CommittedOffset(outcome.next_offset, "")
            claim = self._acknowledge(outcome)
            if claim is not None:
                done[claim] = outcome.next_offset or 0
        if done:
            self._parts.post(OffsetsCommitted(done))
        self.repair(overtaken)

    def _is_overtaken(self, outcome: CommitOutcome) -> bool:
        """Whether an older commit of ours came after a newer one: the client sends some again."""
        held, offset = self._parts.claims.get(outcome.topic_partition), outcome.next_offset
        if held is None or held.stored is None or held.acknowledged is None or offset is None:
            return False
        # Above what is stored stands only what was found: a topic made anew begins below it.
        return offset < held.acknowledged <= held.stored

    def _refused(self, outcome: CommitOutcome) -> None:
        self._is_retry = True
        held = self._parts.claims.get(outcome.topic_partition)
        if held is not None:
            held.last_sent = None
            held.refusal = str(outcome.error)
            if held.refused_since is None:
                held.refused_since = self._parts.clock()
        if outcome.error is not None:
            self.final.refused(outcome, outcome.error.code)
            self._parts.post(CommitRefused(outcome.error.code, _describe(outcome)))

    def _acknowledge(self, outcome: CommitOutcome) -> Claim | None:
        if (final := self.final.acknowledged(outcome)) is not None:
            is_first, final.is_told = not final.is_told, True
            return final.claim if is_first else None
        held, offset = self._parts.claims.get(outcome.topic_partition), outcome.next_offset
        if held is None:
            return None
        self._note_acknowledged(held, outcome)
        if held.stored is None and held.acknowledged is None and offset == held.first:
            held.acknowledged = offset  # By metadata alone; no message has passed.
        if offset is None or held.stored is None or offset > held.stored:
            return None
        if offset == held.acknowledged or self._is_overtaken(outcome):
            return None
        held.acknowledged = offset
        return held.claim

    def _note_acknowledged(self, held: ClaimState, outcome: CommitOutcome) -> None:
        """Tell of the newest guard note that the group has now."""
        held.acknowledged_metadata = outcome.metadata
        known = [number for sent, number in held.notes_sent if sent == outcome.metadata]
        if known:
            while held.notes_sent and held.notes_sent[0][1] <= known[-1]:
                held.notes_sent.popleft()
            self._parts.post(NoteCommitted(held.claim, known[-1]))

    @property
    def refused_detail(self) -> str | None:
        """Return why the group takes no commit for long; None: it does.

        All that is done meanwhile would be done again, and a crash guard waits for good.
        """
        last = self._parts.clock() - self._parts.policy.refused_seconds
        for held in self._parts.claims:
            if held.refused_since is not None and held.refused_since <= last:
                topic, partition = held.key
                return f"the group to take commits of {topic} {partition}: {held.refusal}"
        return None

    # -- the check

    def watched(self) -> list[TopicPartition]:
        """Return the partitions whose committed offset is worth comparing with ours."""
        return [held.key for held in self._parts.claims if held.stored is not None]

    def repair(self, found: Mapping[TopicPartition, CommittedOffset]) -> None:
        """Commit explicitly where the group's offset is behind what was acknowledged to us."""
        behind = {}
        for key, item in found.items():
            held = self._parts.claims.get(key)
            if held is None:
                continue
            wanted = held.stored if held.acknowledged is None else held.acknowledged
            if wanted is not None and (item.offset is None or item.offset < wanted):
                logger.warning(
                    "%s: committed is %s, ours is %s: repaired", key, item.offset, wanted
                )
                behind[key] = CommittedOffset(wanted, held.encoded or held.metadata.encode())
        if not behind:
            return
        try:
            self._parts.broker.commit_explicit(behind)
        except BrokerError as exc:
            self._parts.post(CommitRefused(exc.code, f"{behind}: {exc}"))


def _describe(outcome: CommitOutcome) -> str:
    topic, partition = outcome.topic_partition
    return f"{topic}/{partition}@{outcome.next_offset}: {outcome.error}"
