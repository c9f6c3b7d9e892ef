"""Moves of a partition's commit to an offset that an operator named: rewind and skip.

A move ends the epoch, commits the offset, and begins the next epoch where the group then says: what
the group did not take did not happen. The pause stays, so nothing is read until it is resumed.
"""

from __future__ import annotations

import queue
from collections.abc import Iterator, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass, field

from workers.broker.base import BrokerError, CommitOutcome, CommittedOffset, TopicPartition
from workers.consumer.claims import ClaimState, ConsumerParts
from workers.consumer.ownership import Claim, PauseReason

NOT_OWNED = "it is not owned by this worker any more"
GIVEN_UP = (
    "it was given up before the group answered: its committed offset says whether it was moved"
)
WENT_ON = "messages of it ended just then: look at what it would do now, and ask again"
STOPPED = "the worker leaves the group: ask the next owner"


@dataclass(frozen=True, slots=True, kw_only=True)
class Move:
    """Wish to end an epoch and to begin the next at ``offset``.

    ``expected`` is the committed offset that whoever asks knew: another one by now refuses the
    move, so it is done once however often it is asked. ``answer`` is set on the consumer thread:
    empty when the next epoch has begun there, else why not, in words.
    """

    claim: Claim
    offset: int
    expected: int
    answer: Future[str] = field(default_factory=Future)

    @property
    def key(self) -> TopicPartition:
        """The partition."""
        return self.claim.topic_partition


@dataclass(slots=True)
class OpenMove:
    """A move whose commit is on its way."""

    move: Move
    encoded: str
    deadline: float
    is_answered: bool = False
    is_sent: bool = True
    refusal: str = ""


class Moves:
    """Moves asked for and those under way. Consumer thread only, but ``ask``."""

    def __init__(self, parts: ConsumerParts) -> None:
        self._parts = parts
        self._asked: queue.SimpleQueue[Move] = queue.SimpleQueue()
        self._open: dict[TopicPartition, OpenMove] = {}
        self._is_closed = False

    def ask(self, move: Move) -> None:
        """Have it done in the next slice; refused once the consumer has ended. Any thread."""
        move.answer.set_running_or_notify_cancel()  # Whoever asked cannot take it back.
        self._asked.put(move)
        if self._is_closed:
            self._refuse_asked()

    def asked(self) -> Iterator[tuple[ClaimState, Move]]:
        """Take those that may be done, with their claims; the others are refused."""
        while not self._asked.empty():
            move = self._asked.get()
            held = self._parts.claims.get(move.key)
            if held is None or held.claim != move.claim:
                move.answer.set_result(NOT_OWNED)
            elif refusal := self._refusal(held, move):
                move.answer.set_result(refusal)
            else:
                yield held, move

    def _refusal(self, held: ClaimState, move: Move) -> str:
        """Why a move may not be done now; empty: it may."""
        wanted = self._parts.board.read(held.claim)
        if not (wanted.is_published and PauseReason.OPERATOR in wanted.pauses):
            return "it is not paused: pause the partition, and ask again once it is drained"
        count = held.taken - wanted.fates - wanted.resting
        if count:
            return f"it is not drained: {count} of its messages are worked on"
        passed = max(wanted.watermark or 0, held.stored or 0)
        if held.acknowledged is None or passed > held.acknowledged:
            return "its last commit is not acknowledged yet: ask again"
        if held.acknowledged != move.expected:
            return (
                f"expected: the group has committed {held.acknowledged}, not {move.expected}: "
                "look at what it would do now, and ask again"
            )
        return ""

    def commit(self, held: ClaimState, move: Move) -> None:
        """Commit the offset of an epoch that has ended; ``ready`` says when it is answered.

        Refused when the epoch went on as it ended: it was unparked in that moment.
        """
        encoded = held.metadata.moved(move.expected, move.offset).encode()
        deadline = self._parts.clock() + self._parts.policy.ask_timeout_seconds
        opened = self._open[move.key] = OpenMove(move, encoded, deadline)
        if (held.stored or 0) > move.expected:
            opened.is_answered, opened.is_sent, opened.refusal = True, False, WENT_ON
            return
        try:
            self._parts.broker.commit_explicit({move.key: CommittedOffset(move.offset, encoded)})
        except BrokerError as exc:
            opened.is_answered, opened.refusal = True, str(exc)

    def answered(self, outcomes: Sequence[CommitOutcome]) -> None:
        """Take the group's answers to commits."""
        for outcome in outcomes:
            opened = self._open.get(outcome.topic_partition)
            if opened is None or outcome.next_offset != opened.move.offset:
                continue
            if outcome.metadata in ("", opened.encoded):
                opened.is_answered = True
                opened.refusal = str(outcome.error or "")

    def ready(self) -> list[OpenMove]:
        """Take those that were answered, or were not within the time to ask."""
        now = self._parts.clock()
        found = [each for each in self._open.values() if each.is_answered or now > each.deadline]
        for each in found:
            del self._open[each.move.key]
        return found

    def begun(self, opened: OpenMove) -> None:
        """Answer by where the next epoch began; it may have begun nowhere yet."""
        held, move = self._parts.claims.get(opened.move.key), opened.move
        if opened.is_sent and held is not None and held.acknowledged == move.offset:
            move.answer.set_result("")
            return
        why = opened.refusal or "no answer came in time"
        where = (
            "nobody can be asked where the partition stands: its committed offset will say"
            if held is None
            else f"the partition stands at {held.acknowledged}"
        )
        move.answer.set_result(f"the group did not take it ({why}): {where}")

    def given_up(self, keys: Sequence[TopicPartition]) -> None:
        """These go to somebody else."""
        for key in keys:
            if (opened := self._open.pop(key, None)) is not None:
                opened.move.answer.set_result(GIVEN_UP)

    def close(self) -> None:
        """Refuse all that is asked or under way, now and later: the consumer ends."""
        self._is_closed = True
        self.given_up(list(self._open))
        self._refuse_asked()

    def _refuse_asked(self) -> None:
        with suppress(queue.Empty):
            while True:
                self._asked.get_nowait().answer.set_result(STOPPED)
