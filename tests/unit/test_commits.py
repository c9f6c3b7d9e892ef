"""Answers to commits that come in another order than they were sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest

from workers.broker.base import Broker, CommitOutcome, CommittedOffset, TopicPartition
from workers.consumer.claims import Claims, ClaimState, ConsumerParts
from workers.consumer.commits import Commits
from workers.consumer.ownership import Wanted, WantedBoard
from workers.consumer.policy import ConsumerPolicy
from workers.consumer.signals import ConsumerSignal, OffsetsCommitted

KEY = TopicPartition("jobs", 6)


class Group:
    """The broker's side: what was committed explicitly."""

    def __init__(self) -> None:
        self.commits: list[dict[TopicPartition, int | None]] = []
        self.stored: list[int] = []

    def store(self, key: TopicPartition, offset: int, metadata: str) -> None:
        self.stored.append(offset)

    def reached(self, key: TopicPartition) -> None:
        return None

    def commit_async(self) -> None:
        """Commit what was stored."""

    def commit_explicit(self, offsets: Mapping[TopicPartition, CommittedOffset]) -> None:
        self.commits.append({key: item.offset for key, item in offsets.items()})


class Listener:
    """What was told of acknowledgements."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def post(self, signal: ConsumerSignal) -> None:
        if isinstance(signal, OffsetsCommitted):
            self.told += signal.offsets.values()


class Rig:
    """One held partition, everything in order up to offset 2."""

    def __init__(self, *, stored: int, acknowledged: int) -> None:
        self.group, self.listener, claims = Group(), Listener(), Claims()
        self.board = WantedBoard(10)
        self.held: ClaimState = claims.begin(KEY, 0, 0.0)
        self.held.stored, self.held.acknowledged = stored, acknowledged
        self.commits = Commits(
            ConsumerParts(
                cast(Broker, self.group),
                self.listener.post,
                self.board,
                claims,
                ConsumerPolicy(run="run-1"),
                lambda: 0.0,
            )
        )

    def answer(self, *offsets: int) -> None:
        self.commits.answered(
            [CommitOutcome(topic_partition=KEY, next_offset=offset) for offset in offsets]
        )


def test_a_commit_overtaken_by_a_newer_one_is_sent_anew_and_not_told() -> None:
    rig = Rig(stored=2, acknowledged=2)
    rig.answer(1)
    assert rig.group.commits == [{KEY: 2}]
    assert rig.held.acknowledged == 2
    rig.answer(2)
    assert (rig.listener.told, len(rig.group.commits)) == ([], 1)


def test_both_answers_at_once_are_told_once() -> None:
    rig = Rig(stored=2, acknowledged=0)
    rig.answer(2, 1)
    assert (rig.listener.told, rig.group.commits) == ([2], [{KEY: 2}])


@pytest.mark.parametrize("offset", [1, 3])
def test_a_topic_made_anew_begins_below_what_was_found(offset: int) -> None:
    rig = Rig(stored=3, acknowledged=100)
    rig.answer(offset)
    assert (rig.listener.told, rig.group.commits) == ([offset], [])


def test_offset_0_is_stored_once() -> None:
    rig = Rig(stored=0, acknowledged=0)
    rig.board.publish(rig.held.claim, Wanted(watermark=0))
    rig.commits.step()
    assert rig.group.stored == []
    rig.board.publish(rig.held.claim, Wanted(watermark=1, fates=1))
    rig.commits.step()
    assert rig.group.stored == [1]


def test_acknowledged_0_is_the_offset_compared_with_the_groups() -> None:
    rig = Rig(stored=2, acknowledged=0)
    rig.commits.repair({KEY: CommittedOffset(0)})
    assert rig.group.commits == []
