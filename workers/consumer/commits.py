"""What the consumer thread commits: watermarks, and with them what the next owner must know."""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from domain.commit import MAX_LOST, CommitMetadata
from workers.broker.base import Broker, BrokerError, CommitOutcome, Committed
from workers.consumer.claims import Claims, ClaimState
from workers.consumer.group_view import GroupView
from workers.consumer.ownership import (
    Claim,
    OwnerListener,
    PauseReason,
    TopicPartition,
    Wanted,
    WantedBoard,
)
from workers.consumer.policy import OwnerPolicy

logger = logging.getLogger("drakkar.consumer")

_GONE = frozenset(["UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH", "FENCED_INSTANCE_ID"])
"""The group does not know this member any more: it takes no word of it."""


@dataclass(slots=True)
class FinalCommit:
    """The last commit of an ended epoch, until it is answered."""

    claim: Claim
    offset: int
    word: str
    is_ours: bool
    """Whether the partition is this member's still, so the word may be said again."""
    was_ours: bool = field(init=False)
    """The same at the moment of the commit: closing gives all partitions up."""
    is_due: bool = True
    is_told: bool = False

    def __post_init__(self) -> None:
        self.was_ours = self.is_ours

    def is_answered_by(self, outcome: CommitOutcome) -> bool:
        """Whether this is no older commit of the same offset."""
        return self.offset == outcome.next_offset and outcome.metadata in ("", self.word)


class Commits:
    """Used by the consumer thread only; ``step`` is called each slice."""

    def __init__(
        self,
        broker: Broker,
        listener: OwnerListener,
        board: WantedBoard,
        claims: Claims,
        policy: OwnerPolicy,
        clock: Callable[[], float],
    ) -> None:
        self._broker = broker
        self._listener = listener
        self._board = board
        self._claims = claims
        self._policy = policy
        self._clock = clock
        self._passed = 0
        self._parting: dict[TopicPartition, FinalCommit] = {}
        self._lost: tuple[int, ...] = ()
        self._is_retry = False
        self.is_last_lost = False
        """Whether the last commit of an epoch was refused for good."""
        self._is_note_stored = False
        self._sent_at = -1e9

    @property
    def is_awaited(self) -> bool:
        """Whether the last commit of an ended epoch has no answer yet."""
        return bool(self._parting)

    @property
    def unanswered(self) -> set[TopicPartition]:
        """Partitions whose last commit, of an epoch that ended with this member, has no answer."""
        return {key for key, final_commit in self._parting.items() if final_commit.was_ours}

    def step(self) -> None:
        """Store what passed, commit when due, and say what changed besides offsets."""
        self._passed += sum(self._store(held) for held in self._claims)
        since = self._clock() - self._sent_at
        is_retry = self._is_retry and since >= self._policy.commit.interval_seconds
        is_due = self._policy.commit.is_due(since_seconds=since, passed=self._passed)
        if is_retry or is_due or (self._is_note_stored and not self._is_retry):
            self.send()
        if not self._is_retry:
            self._say_words(list(self._claims))

    def say(self, several: Sequence[ClaimState]) -> None:
        """Say what is known of claims just made."""
        self._say_words(several)

    def send(self) -> None:
        """Commit all that was stored."""
        self._sent_at = self._clock()
        self._passed, self._is_retry, self._is_note_stored = 0, False, False
        try:
            self._broker.commit_async()
        except BrokerError as exc:
            self._is_retry = True
            self._listener.commit_failed(exc.code, str(exc))

    # -- the last words

    def commit_final(self, ending: Sequence[ClaimState], *, is_ours: bool) -> None:
        """Settle the last word on ending epochs; ``send_last`` follows.

        Who gives a partition up did not die, also past the budget. ``is_ours``: the partitions stay
        with this member until it closes.
        """
        unchanged = []
        for held in ending:
            held.has_left = True
            if held.stored is not None and held.stored != held.acknowledged:
                if not self._store_again(held, held.stored):
                    self.is_last_lost = self.is_last_lost or is_ours
                    continue
            elif not self._store(held) and not self._part_with_settled(held, is_ours):
                unchanged.append(held)
            # Only to tell the acknowledgement of the last commit; nothing is stored from it.
            if held.stored is not None and held.stored != held.acknowledged:
                self._parting[held.claim.topic_partition] = FinalCommit(
                    held.claim, held.stored, held.word, is_ours
                )
        self._say_words(unchanged)

    def _part_with_settled(self, held: ClaimState, is_ours: bool) -> bool:
        """Have the word said, and its answer awaited, that keeps the next owner from doing again
        what has its fate; False: there is none. The offset is committed already: it is not told."""
        held.legacy = self._legacy(held)
        offset = held.settled_offset
        if not held.legacy.settled or offset is None or held.is_standing:
            return False
        held.word = held.legacy.encode()
        self._parting[held.claim.topic_partition] = FinalCommit(
            held.claim, offset, held.word, is_ours, is_told=True
        )
        return True

    def _store_again(self, held: ClaimState, offset: int) -> bool:
        if self._store(held):
            return True
        held.legacy = self._legacy(held)
        held.word = held.legacy.encode()
        try:
            self._broker.store(held.claim.topic_partition, offset, held.word)
        except BrokerError as exc:
            logger.warning("%s: the word to the next owner is lost: %s", held.claim, exc)
            return False
        return True

    def send_last(self) -> None:
        """Commit all that was stored, and then the last words by themselves.

        The client passes over a word whose offset it knows to be committed; sent alone, the word
        would be followed by the old one of a commit that the client has yet to send.
        """
        self.send()
        due = {
            key: final_commit for key, final_commit in self._parting.items() if final_commit.is_due
        }
        if not due:
            return
        for final_commit in due.values():
            final_commit.is_due = False
        try:
            self._broker.commit_explicit(
                {
                    key: Committed(final_commit.offset, final_commit.word)
                    for key, final_commit in due.items()
                }
            )
        except BrokerError as exc:
            # The answer to what was stored may never come: nothing is left to wait for.
            self.is_last_lost = any(final_commit.was_ours for final_commit in due.values())
            for key in due:
                del self._parting[key]
            logger.warning("%s: the words to the next owner may be lost: %s", list(due), exc)

    def retry_last(self) -> None:
        """Say refused last words again, every so often."""
        is_due = any(final_commit.is_due for final_commit in self._parting.values())
        if is_due and self._clock() - self._sent_at >= self._policy.commit.interval_seconds:
            self.send_last()

    def given_up(self, partitions: Sequence[TopicPartition]) -> None:
        """These go to somebody else: last words on them are not said again."""
        for key in partitions:
            final_commit = self._parting.get(key)
            if final_commit is not None:
                final_commit.is_ours = False
                if final_commit.is_due:
                    self.is_last_lost = self.is_last_lost or final_commit.was_ours
                    del self._parting[key]

    # -- one claim

    def _store(self, held: ClaimState) -> int:
        """Store the watermark of one claim; how many fates it passed by."""
        wanted = self._board.read(held.claim)
        watermark = self._watermark(held, wanted)
        if watermark is None or watermark <= (held.stored or -1):
            return 0
        held.legacy = self._legacy(held).passed(watermark)
        word = held.legacy.encode()
        try:
            self._broker.store(held.claim.topic_partition, watermark, word)
        except BrokerError as exc:
            detail = f"{held.claim.topic}/{held.claim.partition}@{watermark}: {exc}"
            self._listener.commit_failed(exc.code, detail)
            return 0
        self._is_note_stored = self._is_note_stored or held.note != held.note_said
        passed = max(1, wanted.fates - held.fates)
        held.stored, held.fates = watermark, wanted.fates
        self._note_said(held, word)
        return passed

    @staticmethod
    def _note_said(held: ClaimState, word: str) -> None:
        """A word is under way; which note it carries is known again when it is answered."""
        held.word, held.said, held.note_said = word, held.legacy, held.note
        if held.note:
            held.notes_sent.append((word, held.note))

    def _watermark(self, held: ClaimState, wanted: Wanted) -> int | None:
        """The next offset to commit. With nothing in hand it passes over what is no message, such
        as the control records of transactions: else the group would show a lag for ever."""
        if held.taken != wanted.fates:
            return wanted.watermark
        reached = self._broker.reached(held.claim.topic_partition)
        known = (0, held.start, held.handed, held.acknowledged)
        if reached is None or any(isinstance(each, int) and reached <= each for each in known):
            return wanted.watermark
        return reached

    def _legacy(self, held: ClaimState) -> CommitMetadata:
        """What the next owner must know, as the loop wants it now."""
        wanted, legacy = self._board.read(held.claim), held.legacy
        if (legacy.has_left, legacy.lost) != (held.has_left, self._lost):
            legacy = replace(legacy, has_left=held.has_left, lost=self._lost)
        if not wanted.is_published:
            return legacy
        is_paused = PauseReason.OPERATOR in wanted.pauses
        if legacy.is_paused != is_paused:
            legacy = replace(legacy, is_paused=is_paused)
        note = wanted.note
        if held.note != note.number:
            held.note = note.number
            legacy = replace(
                legacy,
                mark=note.mark,
                running=note.running,
                task=note.task,
                is_alone=note.is_alone,
            )
        settled = wanted.settled
        if settled is None:
            # As a whole: a word that grows shorter by and by would be committed each time.
            is_passed = bool(legacy.settled) and legacy.settled[-1][1] < (wanted.watermark or 0)
            settled = () if is_passed else legacy.settled
        return legacy if settled == legacy.settled else replace(legacy, settled=settled)

    def _say_words(self, several: Sequence[ClaimState]) -> None:
        """Commit the same offsets again with other words (a note, a pause, a new owner)."""
        words = {}
        for held in several:
            held.legacy = self._legacy(held)
            if held.legacy == held.said:
                self._repeat_note(held)
                continue
            offset = self._settled_offset(held)
            if offset is not None and not held.is_standing:
                self._note_said(held, held.legacy.encode())
                words[held.claim.topic_partition] = Committed(offset, held.word)
        if not words:
            return
        try:
            self._broker.commit_explicit(words)
        except BrokerError as exc:
            for held in self._claims.of(list(words)):
                held.said = None
            logger.warning("%s: the words to the next owner wait: %s", list(words), exc)

    def _repeat_note(self, held: ClaimState) -> None:
        """A note that says again what was said meets no new answer."""
        if held.note == held.note_said:
            return
        held.note_said = held.note
        if held.heard == held.word:
            self._listener.noted(held.claim, held.note)
        else:
            held.notes_sent.append((held.word, held.note))

    def _settled_offset(self, held: ClaimState) -> int | None:
        """The offset to say a word with. A guard's note does not wait for the coalesced commit:
        what was stored is this member's to commit now, and the client must not send the old word
        after it."""
        offset, is_urgent = held.settled_offset, held.said is None or held.note != held.note_said
        if offset is None and held.note and is_urgent and held.stored is not None:
            try:
                self._broker.store(held.claim.topic_partition, held.stored, held.legacy.encode())
            except BrokerError as exc:
                logger.warning("%s: the guard's note waits: %s", held.claim, exc)
            else:
                return held.stored
        return offset

    # -- who lives

    def lost(self, keys: Sequence[TopicPartition]) -> None:
        """These were taken from this run, which lives: said with whatever it holds from now on."""
        known = dict.fromkeys((*self._lost, *(key.partition for key in keys)))
        self._lost = tuple(known)[-MAX_LOST:]

    def regained(self, keys: Collection[TopicPartition]) -> None:
        """These are this run's again: who takes them next may count its death."""
        again = {key.partition for key in keys}
        self._lost = tuple(number for number in self._lost if number not in again)

    def absolve(self, view: GroupView) -> None:
        """Take deaths back of runs that turn out to live."""
        for held in self._claims:
            if held.legacy.deaths:
                legacy = held.legacy.without(view.alive(held.claim.partition))
                if legacy is not held.legacy:
                    held.legacy, held.said = legacy, None
                    self._listener.absolved(held.claim, legacy)

    @property
    def has_doubts(self) -> bool:
        """Whether deaths are counted against former owners of what is held."""
        return any(held.legacy.deaths for held in self._claims)

    # -- answers

    def answered(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Tell what was acknowledged of current epochs, and what was refused."""
        done: dict[Claim, int] = {}
        overtaken: dict[TopicPartition, Committed] = {}
        for outcome in outcomes:
            if outcome.error is not None:
                self._refused(outcome)
                continue
            if (held := self._claims.get(outcome.topic_partition)) is not None:
                held.refused_since = None
            if self._is_overtaken(outcome):
                overtaken[outcome.topic_partition] = Committed(outcome.next_offset, "")
            claim = self._acknowledge(outcome)
            if claim is not None:
                done[claim] = outcome.next_offset or 0
        if done:
            self._listener.committed(done)
        self.repair(overtaken)

    def _is_overtaken(self, outcome: CommitOutcome) -> bool:
        """Whether an older commit of ours came after a newer one: the client sends some again."""
        held, offset = self._claims.get(outcome.topic_partition), outcome.next_offset
        if held is None or held.stored is None or held.acknowledged is None or offset is None:
            return False
        # Above what is stored stands only what was found: a topic made anew begins below it.
        return offset < held.acknowledged <= held.stored

    def _refused(self, outcome: CommitOutcome) -> None:
        self._is_retry = True
        held = self._claims.get(outcome.topic_partition)
        if held is not None:
            held.said = None
            held.refusal = str(outcome.error)
            if held.refused_since is None:
                held.refused_since = self._clock()
        if outcome.error is not None:
            self._refused_word(outcome, outcome.error.code)
            self._listener.commit_failed(outcome.error.code, _describe(outcome))

    def _refused_word(self, outcome: CommitOutcome, code: str) -> None:
        final_commit = self._parting.get(outcome.topic_partition)
        if final_commit is None or not final_commit.is_answered_by(outcome):
            return
        final_commit.is_due = final_commit.is_ours and code not in _GONE
        if not final_commit.is_due:
            self.is_last_lost = self.is_last_lost or final_commit.was_ours
            del self._parting[outcome.topic_partition]

    def _acknowledge(self, outcome: CommitOutcome) -> Claim | None:
        key, offset = outcome.topic_partition, outcome.next_offset
        final_commit = self._parting.get(key)
        if final_commit is not None and final_commit.offset == offset:
            return self._heard(final_commit, outcome)
        held = self._claims.get(key)
        if held is None:
            return None
        self._hear_note(held, outcome)
        if offset is None or held.stored is None or offset > held.stored:
            return None
        if offset == held.acknowledged or self._is_overtaken(outcome):
            return None
        held.acknowledged = offset
        return held.claim

    def _heard(self, final_commit: FinalCommit, outcome: CommitOutcome) -> Claim | None:
        is_first, final_commit.is_told = not final_commit.is_told, True
        if final_commit.is_answered_by(outcome):
            del self._parting[outcome.topic_partition]
        return final_commit.claim if is_first else None

    def _hear_note(self, held: ClaimState, outcome: CommitOutcome) -> None:
        """Tell of the newest guard note that the group has now."""
        held.heard = outcome.metadata
        known = [number for word, number in held.notes_sent if word == outcome.metadata]
        if known:
            while held.notes_sent and held.notes_sent[0][1] <= known[-1]:
                held.notes_sent.popleft()
            self._listener.noted(held.claim, known[-1])

    @property
    def refused_detail(self) -> str | None:
        """Why the group takes no commit for long; None: it does. All that is done meanwhile would
        be done again, and a crash guard waits for good."""
        last = self._clock() - self._policy.refused_seconds
        for held in self._claims:
            if held.refused_since is not None and held.refused_since <= last:
                topic, partition = held.claim.topic_partition
                return f"the group to take commits of {topic} {partition}: {held.refusal}"
        return None

    # -- the check

    def watched(self) -> list[TopicPartition]:
        """The partitions whose committed offset is worth comparing with ours."""
        return [held.claim.topic_partition for held in self._claims if held.stored]

    def repair(self, found: Mapping[TopicPartition, Committed]) -> None:
        """Commit explicitly where the group's offset is behind what was acknowledged to us."""
        behind = {}
        for key, item in found.items():
            held = self._claims.get(key)
            wanted = None if held is None else held.acknowledged or held.stored
            if held is None or wanted is None:
                continue
            if item.offset is None or item.offset < wanted:
                logger.warning(
                    "%s: committed is %s, ours is %s: repaired", key, item.offset, wanted
                )
                behind[key] = Committed(wanted, held.word or held.legacy.encode())
        if not behind:
            return
        try:
            self._broker.commit_explicit(behind)
        except BrokerError as exc:
            self._listener.commit_failed(exc.code, f"{behind}: {exc}")


def _describe(outcome: CommitOutcome) -> str:
    topic, partition = outcome.topic_partition
    return f"{topic}/{partition}@{outcome.next_offset}: {outcome.error}"
