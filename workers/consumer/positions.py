"""Positions of the claims, ends of the topic, and whether either stands still for too long."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping

from domain.stall import StallWatch
from workers.broker.base import BrokerError, Start, TopicPartition, Watermarks
from workers.consumer.claims import ClaimState, ConsumerParts
from workers.consumer.fetching import Fetching
from workers.consumer.ownership import Claim, PartitionFigures
from workers.consumer.signals import FetchStalled

logger = logging.getLogger("drakkar.consumer")

ENDS_SECONDS = 5.0


class TopicWatch:
    """Asks, off the consumer thread, whether the topics are there and where they end.

    What it knows is replaced as a whole and read by any thread; None is unknown.
    """

    def __init__(self, parts: ConsumerParts, wake: threading.Event) -> None:
        self._parts = parts
        self._wake = wake
        self.ends: Mapping[TopicPartition, int] = {}
        self.partition_counts: Mapping[str, int] = {}
        self.detail: str | None = None
        """Error that keeps us from broker or topic; None: none."""

    def run(self, is_over: Callable[[], bool]) -> None:
        """Until ``is_over``."""
        while not is_over():
            self._ask(self._parts.policy.ask_timeout_seconds)
            self._wake.wait(self._parts.policy.retry_seconds if self.detail else ENDS_SECONDS)

    def _ask(self, timeout_seconds: float) -> None:
        broker, counts, errors = self._parts.broker, {}, []
        for topic in broker.topics:
            try:
                counts[topic] = broker.partition_count(topic, timeout_seconds)
            except BrokerError as exc:
                errors.append(str(exc))
        self.partition_counts = {**self.partition_counts, **counts}
        keys = [held.key for held in self._parts.claims if held.key.topic in counts]
        try:
            self.ends = broker.end_offsets(keys, timeout_seconds)
        except BrokerError as exc:
            errors.append(str(exc))
        self.detail = next(iter(errors), None)


class Positions:
    """The figures of all claims, taken about every second on the consumer thread."""

    def __init__(self, parts: ConsumerParts, topic: TopicWatch, fetching: Fetching) -> None:
        self._parts = parts
        self._topic = topic
        self._fetching = fetching
        self._stalls = StallWatch(parts.policy.stall_seconds)
        self._taken_at = -1e9
        self._idle_since: float | None = None
        self.figures: Mapping[Claim, PartitionFigures] = {}
        """Replaced as a whole; for any thread."""

    def step(self, now: float) -> None:
        """Take the figures when it is time, and mend what fell silent."""
        if now - self._taken_at < self._parts.policy.figures_interval_seconds:
            return
        self._taken_at = now
        self.figures = {held.claim: self._figures_of(held) for held in self._parts.claims}
        for held in self._parts.claims:
            self._watch(held, self.figures[held.claim], now)

    def forget(self, key: TopicPartition) -> None:
        """A new epoch of this partition begins."""
        self._stalls.forget(key)

    def idle(self, now: float, *, is_member: bool) -> str | None:
        """Return the alarm of a member that owned nothing for long, or None.

        Some brokers take a member in and never give it a partition.
        """
        if not is_member or any(True for _ in self._parts.claims):
            self._idle_since = None
            return None
        self._idle_since = now if self._idle_since is None else self._idle_since
        if now - self._idle_since < self._parts.policy.idle_seconds:
            return None
        count = sum(self._topic.partition_counts.values())
        seconds = self._parts.policy.idle_seconds
        return (
            f"a partition: a member of the group for {seconds:g} s, it was given none of "
            f"{count or 'unknown'}: there are more members than partitions, or "
            "the coordinator does not assign"
        )

    def _watch(self, held: ClaimState, figures: PartitionFigures, now: float) -> None:
        """A client may fall silent after pause, assign, resume (librdkafka #5591): seek it."""
        position, end = figures.position, figures.high_watermark
        key, is_resting = held.key, figures.is_paused or held.is_standing
        if self._stalls.is_stalled(key, None if is_resting else position, end, now):
            assert position is not None
            assert end is not None
            logger.warning("%s: nothing read at %s though %s is the end: seek", key, position, end)
            self._fetching.fetch_again(held)
            self._parts.post(FetchStalled(held.claim, position, end))

    def _figures_of(self, held: ClaimState) -> PartitionFigures:
        key = held.key
        cached = None if held.is_standing else self._parts.broker.cached_watermarks(key)
        reached = None if held.is_standing else self._parts.broker.reached(key)
        fetched = None if cached is None else cached.high
        position = _position(held, cached)
        # What the last fetch said counts open transactions too: not where all readable is read.
        if reached is not None and (position is None or reached >= position):
            position = fetched = reached
        known = (fetched, self._topic.ends.get(key))
        return PartitionFigures(
            claim=held.claim,
            position=position,
            committed=held.committed,
            high_watermark=max((end for end in known if end is not None), default=None),
            is_paused=held.is_paused,
        )


def _position(held: ClaimState, cached: Watermarks | None) -> int | None:
    if isinstance(held.resume_at, int):
        return held.resume_at
    return cached.low if cached and held.resume_at is Start.EARLIEST else None
