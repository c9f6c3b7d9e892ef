"""How fast the lag of each partition changes, as a worker tells it with its heartbeat."""

from __future__ import annotations

from domain.beat import Beat, PartitionBeat
from workers.runtime.partition_lags import PartitionLags


class Told:
    """A worker's beats, one each two seconds."""

    def __init__(self) -> None:
        self.now = 1000.0
        self._lags = PartitionLags(lambda: self.now)

    def beat(self, **lags: int | None) -> dict[str, tuple[float, float] | None]:
        rows = tuple(PartitionBeat(topic=name, partition=0, lag=lag) for name, lag in lags.items())
        found = self._lags.with_paces(Beat(state="ready", partitions=rows))
        self.now += 2.0
        assert [row.lag for row in found.partitions] == list(lags.values())
        return {row.topic: row.lag_paces for row in found.partitions}


def test_each_partition_has_its_own_paces_once_a_minute_is_known() -> None:
    told = Told()
    beats = [told.beat(a=10_000 - 2 * n, b=4 * n) for n in range(120)]
    assert beats[29] == {"a": None, "b": None}
    assert beats[31] == {"a": (-1.0, -1.0), "b": (2.0, 2.0)}
    assert beats[-1] == {"a": (-1.0, -1.0), "b": (2.0, 2.0)}


def test_a_partition_that_was_not_owned_or_unknown_begins_anew() -> None:
    told = Told()
    for n in range(60):
        told.beat(a=1000 - n, b=1000 - n)
    for _ in range(6):
        told.beat(b=None)
    found = told.beat(a=5, b=5)
    assert found == {"a": None, "b": None}
    beats = [told.beat(a=5, b=5) for _ in range(40)]
    assert beats[-1] == {"a": (0.0, 0.0), "b": (0.0, 0.0)}
