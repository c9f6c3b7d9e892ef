"""Answers to commits that come in another order than they were sent."""

from __future__ import annotations

from collections.abc import Mapping
from typing import cast

import pytest

from workers.broker.base import Broker, CommitOutcome, Committed
from workers.consumer.claims import Claims, ClaimState
from workers.consumer.commits import Commits
from workers.consumer.ownership import Claim, OwnerListener, TopicPartition, WantedBoard
from workers.consumer.policy import ConsumerPolicy

KEY = TopicPartition("jobs", 6)


class Group:
    """The broker's side: what was committed explicitly."""

    def __init__(self) -> None:
        self.commits: list[dict[TopicPartition, int | None]] = []

    def commit_explicit(self, offsets: Mapping[TopicPartition, Committed]) -> None:
        self.commits.append({key: item.offset for key, item in offsets.items()})


class Listener:
    """What was told of acknowledgements."""

    def __init__(self) -> None:
        self.told: list[int] = []

    def committed(self, offsets: Mapping[Claim, int]) -> None:
        self.told += offsets.values()


class Rig:
    """One held partition, everything in order up to offset 2."""

    def __init__(self, *, stored: int, acknowledged: int) -> None:
        self.group, self.listener, claims = Group(), Listener(), Claims()
        self.held: ClaimState = claims.begin(KEY, 0, 0.0)
        self.held.stored, self.held.acknowledged = stored, acknowledged
        self.commits = Commits(
            cast(Broker, self.group),
            cast(OwnerListener, self.listener),
            WantedBoard(10),
            claims,
            ConsumerPolicy(run="run-1"),
            lambda: 0.0,
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
