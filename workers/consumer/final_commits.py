"""The last commits of ended epochs, each until it is answered: the next owner reads them."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from workers.broker.base import BrokerError, CommitOutcome, CommittedOffset, TopicPartition
from workers.consumer.claims import ClaimState, ConsumerParts
from workers.consumer.ownership import Claim

logger = logging.getLogger("drakkar.consumer")

_GONE = frozenset(["UNKNOWN_MEMBER_ID", "FENCED_MEMBER_EPOCH", "FENCED_INSTANCE_ID"])
"""Refusals of a member that the group does not know any more: no later commit is taken either."""


@dataclass(slots=True, kw_only=True)
class FinalCommit:
    """The last commit of an ended epoch. ``is_told``: its offset was acknowledged before."""

    claim: Claim
    offset: int
    encoded: str
    is_ours: bool
    """Whether the partition is this member's still, so the commit may be repeated."""
    was_ours: bool = field(init=False)
    """``is_ours`` at the moment of the commit: closing gives all partitions up."""
    is_due: bool = True
    is_told: bool = False

    def __post_init__(self) -> None:
        self.was_ours = self.is_ours

    def is_answered_by(self, outcome: CommitOutcome) -> bool:
        """Whether this is no older commit of the same offset."""
        return self.offset == outcome.next_offset and outcome.metadata in ("", self.encoded)


class FinalCommits:
    """Final commits without an answer; consumer thread only."""

    def __init__(self, parts: ConsumerParts) -> None:
        self._broker = parts.broker
        self._open: dict[TopicPartition, FinalCommit] = {}
        self.is_lost = False
        """Whether one, of an epoch that ended with this member, was refused for good."""

    @property
    def are_awaited(self) -> bool:
        """Whether one has no answer yet."""
        return bool(self._open)

    @property
    def have_arrived(self) -> bool:
        """Whether the group has all of the epochs that ended with this member."""
        return not (self.is_lost or any(commit.was_ours for commit in self._open.values()))

    @property
    def is_repeat_due(self) -> bool:
        """Whether a refused one waits to be sent again."""
        return any(commit.is_due for commit in self._open.values())

    def add(self, held: ClaimState, offset: int, *, is_ours: bool, is_told: bool = False) -> None:
        """Take in what ``held.encoded`` says at this offset, for the next ``send``."""
        self._open[held.key] = FinalCommit(
            claim=held.claim,
            offset=offset,
            encoded=held.encoded,
            is_ours=is_ours,
            is_told=is_told,
        )

    def send(self) -> None:
        """Commit explicitly what is due.

        The client drops metadata whose offset it knows to be committed, so they are sent by
        themselves, after all that was stored: else its older ones would follow them.
        """
        due = {key: commit for key, commit in self._open.items() if commit.is_due}
        if not due:
            return
        for commit in due.values():
            commit.is_due = False
        try:
            self._broker.commit_explicit(
                {key: CommittedOffset(each.offset, each.encoded) for key, each in due.items()}
            )
        except BrokerError as exc:
            # The answer to what was stored may never come: nothing is left to wait for.
            for key in due:
                self._lose(key)
            logger.warning("%s: metadata for the next owner may be lost: %s", list(due), exc)

    def given_up(self, partitions: Sequence[TopicPartition]) -> None:
        """Repeat no final commit of these any more: they go to somebody else."""
        for key in partitions:
            commit = self._open.get(key)
            if commit is not None:
                commit.is_ours = False
                if commit.is_due:
                    self._lose(key)

    def refused(self, outcome: CommitOutcome, code: str) -> None:
        """Have the commit repeated whose refusal this is, if it can be."""
        commit = self._open.get(outcome.topic_partition)
        if commit is not None and commit.is_answered_by(outcome):
            commit.is_due = commit.is_ours and code not in _GONE
            if not commit.is_due:
                self._lose(outcome.topic_partition)

    def acknowledged(self, outcome: CommitOutcome) -> FinalCommit | None:
        """Return the commit of this offset, if there is one; forget it when this answers it."""
        commit = self._open.get(outcome.topic_partition)
        if commit is None or commit.offset != outcome.next_offset:
            return None
        if commit.is_answered_by(outcome):
            del self._open[outcome.topic_partition]
        return commit

    def _lose(self, key: TopicPartition) -> None:
        self.is_lost = self._open.pop(key).was_ours or self.is_lost
