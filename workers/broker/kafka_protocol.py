"""Whether the client came into its group, read from librdkafka's own statistics."""

from __future__ import annotations

import json
from enum import Enum, auto
from typing import Any


class JoinSign(Enum):
    """What the statistics say about the join."""

    WAITING = auto()
    JOINED = auto()
    SILENT = auto()
    """The coordinator is there and nothing is asked of it: it offers no ``consumer`` protocol."""


class JoinWatch:
    """Reads one statistics text after another until the group is joined.

    A broker that does not offer ConsumerGroupHeartbeat (before Kafka 3.7) is waited for by
    librdkafka for ever, without an error. It shows in the coordinator's count of requests, which
    stands still with none unanswered. One that is loading or refuses is asked again and again; one
    that is slow or frozen owes an answer.
    """

    def __init__(self) -> None:
        self._requests: int | None = None

    def read(self, statistics: str) -> JoinSign:
        """Take in the next statistics."""
        read = json.loads(statistics)
        group = read.get("cgrp", {})
        if group.get("state") != "up":
            self._requests = None
            return JoinSign.WAITING
        if group.get("join_state") == "steady":
            return JoinSign.JOINED
        before, self._requests = self._requests, _requests(read)
        is_asking = group.get("join_state") != "init" or self._requests != before
        return JoinSign.WAITING if before is None or is_asking else JoinSign.SILENT


def _requests(read: dict[str, Any]) -> int | None:
    """Requests sent to the coordinator so far; None while it is away or owes an answer."""
    coordinator = read.get("brokers", {}).get("GroupCoordinator", {})
    is_owing = coordinator.get("state") != "UP" or coordinator["waitresp_cnt"] > 0
    return None if is_owing else int(coordinator["tx"])
