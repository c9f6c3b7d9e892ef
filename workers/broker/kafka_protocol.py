"""Whether the client came into its group, read from librdkafka's own statistics."""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import Any

_HEARTBEAT = "ConsumerGroupHeartbeat"


class JoinSign(Enum):
    """Sign of the statistics about the join."""

    WAITING = auto()
    JOINED = auto()
    IDLE = auto()
    """Nothing was asked of the coordinator, which is there, since the last statistics."""
    SILENT = auto()
    """Never asked for the group, as where it offers no ``consumer`` protocol."""


class JoinWatch:
    """Reads one statistics text after another until the group is joined.

    A broker that does not offer ConsumerGroupHeartbeat (before Kafka 3.7) is waited for by
    librdkafka for ever, without an error. It shows in the coordinator's count of requests, which
    stands still with none unanswered and none of that kind. One that is loading or refuses is asked
    again and again; one that is slow or frozen owes an answer; a member that waits for partitions,
    or for its topic, asks every few seconds only.
    """

    def __init__(self) -> None:
        self._sent: int | None = None

    def read(self, statistics: str) -> JoinSign:
        """Take in the next statistics."""
        read = json.loads(statistics)
        group = read.get("cgrp", {})
        if group.get("state") != "up":
            self._sent = None
            return JoinSign.WAITING
        if group.get("join_state") == "steady":
            return JoinSign.JOINED
        coordinator = read.get("brokers", {}).get("GroupCoordinator", {})
        before, self._sent = self._sent, _sent(coordinator)
        if before is None or group.get("join_state") != "init" or self._sent != before:
            return JoinSign.WAITING
        return JoinSign.IDLE if _is_asked(coordinator) else JoinSign.SILENT


def _sent(coordinator: dict[str, Any]) -> int | None:
    """Requests sent to the coordinator so far; None while it is away or owes an answer."""
    is_owing = coordinator.get("state") != "UP" or coordinator["waitresp_cnt"] > 0
    return None if is_owing else int(coordinator["tx"])


def _is_asked(coordinator: dict[str, Any]) -> bool:
    """Whether it was ever asked for the group: ``tx`` counts that, ``req`` leaves it out."""
    others = (count for kind, count in coordinator["req"].items() if kind != _HEARTBEAT)
    return bool(coordinator["tx"] > sum(others))
