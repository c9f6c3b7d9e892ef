"""A cluster's source topic in memory, for reruns."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

from domain.message import Record
from sinks.base import SinkError, TransientError
from sinks.replay import Original, Sent
from workers.broker.base import TopicPartition
from workers.broker.memory_cluster import MemoryCluster
from workers.control_plane.rerun.outcomes import Place


class MemorySource:
    """Source topic (``SourceTopic``) of a memory cluster.

    ``refusals`` are what the next records get instead of a place; ``dies_after`` so many records
    are stored and not reported.
    """

    def __init__(self, cluster: MemoryCluster, topic: str) -> None:
        self.topic = topic
        self.sent: list[tuple[int, Original]] = []
        self.refusals: list[SinkError] = []
        self.reads = 0
        self.dies_after: int | None = None
        self._cluster = cluster

    def open(self) -> None:
        """Always there."""

    def read(self, places: Collection[Place]) -> Mapping[Place, Record | None]:
        self.reads += len(places)
        return {place: self._at(place) for place in places}

    def _at(self, place: Place) -> Record | None:
        log = self._cluster.logs[TopicPartition(self.topic, place[0])]
        found = log.after(place[1])
        return found if found is not None and found.offset == place[1] else None

    def send(self, records: Sequence[tuple[int, Original]]) -> Sequence[Sent | SinkError]:
        reports: list[Sent | SinkError] = []
        for partition, record in records:
            if self.refusals:
                reports.append(self.refusals.pop(0))
                continue
            self.sent.append((partition, record))
            offset = self._cluster.produce(
                self.topic, partition, record.value, record.key, list(record.headers)
            )
            if self.dies_after is not None and len(self.sent) >= self.dies_after:
                raise TransientError("no report in time")
            reports.append(Sent(topic=self.topic, partition=partition, offset=offset))
        return reports
