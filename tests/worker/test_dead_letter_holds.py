"""A worker whose letters cannot be written: which partitions stand, and which go on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import ClassVar

from domain.payload import MemoryPayload
from sinks.base import Delivery, PermanentError
from sinks.config import SinkConfig
from sinks.record_writer import RecordReceipt
from sinks.registry import SinkKind
from tests.support.pipeline import TOPIC, Letters, Running, cluster_config, new_cluster, running


class NarrowLetters(Letters):
    """Refuses what is larger than ``limit_bytes``."""

    limit_bytes = 10

    def write_record(
        self,
        key: bytes | None,
        value: bytes | None,
        headers: list[tuple[str, bytes | None]],
        partition: int,
    ) -> RecordReceipt:
        if len(value or b"") > self.limit_bytes:
            raise PermanentError("larger than the topic takes")
        return super().write_record(key, value, headers, partition)


class RefusingSink:
    """Refuses everything."""

    kind: ClassVar[str] = "memory"

    def open(self) -> None:
        """Nothing to open."""

    def encode(self, delivery: Delivery) -> Delivery:
        return delivery

    def send(self, batch: Sequence[Delivery]) -> None:
        raise PermanentError("refused on purpose")

    def close(self) -> None:
        """Nothing to release."""


REFUSING = SinkKind(
    name="refusing", config=SinkConfig, payload=MemoryPayload, build=lambda *_: RefusingSink()
)


def parked(live: Running) -> list[tuple[int, str]]:
    return [(event.partition, event.cause) for event in live.heard.of("parked")]


def test_a_letter_too_large_parks_its_partition_and_no_other() -> None:
    async def scenario() -> None:
        cluster, letters = new_cluster(partitions=2), NarrowLetters()
        cluster.produce(TOPIC, 0, value=b"not json and long")
        async with running(cluster, letters=letters) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            cluster.produce(TOPIC, 1, value=b"no json")
            await live.fates(1)
            assert parked(live) == [(0, "dead_letter_too_large")]
            assert [value for _, value, _ in letters.stored] == [b"no json"]
            assert not live.committed(0)
        assert not live.committed(0)

    asyncio.run(scenario())


def test_a_refused_payload_parks_its_partition_while_no_letter_can_be_written() -> None:
    async def scenario() -> None:
        cluster, letters = new_cluster(), Letters(is_down=True)
        cluster.produce(TOPIC, 0, value=b'{"script": "true"}')
        store = SinkConfig(kind=f"{__name__}:REFUSING")
        config = cluster_config().model_copy(update={"sinks": {"store": store}})
        async with running(cluster, config, letters=letters) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            assert parked(live) == [(0, "dead_letters")]
            letters.is_down = False
            await live.fates(1)
            await live.heard.until(lambda: bool(live.heard.of("unparked")))
            assert await live.stop() == 0
            assert live.committed(0) == 1
        ((_, _, headers),) = letters.stored
        assert (headers["drakkar-stage"], headers["drakkar-sink"]) == (b"deliver", b"store")

    asyncio.run(scenario())
