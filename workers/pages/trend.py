"""How lag and spools moved in the last minutes, as this web process saw them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import median
from typing import Any

from recorder.models import RunState
from workers.queries import is_live, partitions_of, total

EVERY_SECONDS = 5.0
KEPT_SAMPLES = 60
LEAST_SECONDS = 60.0
LEAST_SAMPLES = 6
LEAST_SHARE = 0.1
LEAST_LAG = 100
LEAST_SPOOLED_BYTES = 100_000
Key = tuple[str, str]
Sample = tuple[datetime, float]


@dataclass(frozen=True, slots=True)
class Slope:
    """A figure's way over the samples: units a second (falling: below 0), over ``seconds``."""

    value: float
    per_second: float
    seconds: float
    is_steady: bool
    """Whether each third of the time stands above the third before, by a tenth in all."""


@dataclass(slots=True)
class Trend:
    """Samples by kind and name; one each five seconds, five minutes of them."""

    samples: dict[Key, deque[Sample]] = field(default_factory=dict)

    def note(self, at: datetime, figures: Mapping[Key, float]) -> None:
        """Keep what the figures are at that time; a key not told for five minutes is forgotten."""
        for gone in [key for key, kept in self.samples.items() if _is_old(kept, at)]:
            del self.samples[gone]
        for key, value in figures.items():
            kept = self.samples.setdefault(key, deque(maxlen=KEPT_SAMPLES))
            if not kept or (at - kept[-1][0]).total_seconds() >= EVERY_SECONDS:
                kept.append((at, value))

    def slope(self, kind: str, name: str) -> Slope | None:
        """How that figure moved; None while too little was seen."""
        least = LEAST_LAG if kind == "lag" else LEAST_SPOOLED_BYTES
        return slope(self.samples.get((kind, name), ()), least)


def _is_old(kept: Sequence[Sample], at: datetime) -> bool:
    return (at - kept[-1][0]).total_seconds() > EVERY_SECONDS * KEPT_SAMPLES


def slope(samples: Sequence[Sample], least: float) -> Slope | None:
    """The way from the first to the last third of the samples; None with less than a minute."""
    if len(samples) < LEAST_SAMPLES:
        return None
    seconds = (samples[-1][0] - samples[0][0]).total_seconds()
    if seconds < LEAST_SECONDS:
        return None
    values = [value for _, value in samples]
    third = len(values) // 3
    first, last = median(values[:third]), median(values[-third:])
    middle = median(values[third:-third])
    grown = last - first >= max(least, LEAST_SHARE * first)
    per_second = (last - first) / (seconds * (1 - 1 / 3))
    return Slope(values[-1], per_second, seconds, grown and first < middle < last)


def figures(rows: Iterable[RunState]) -> dict[Key, float]:
    """What a trend keeps: each cluster's lag where it is known, each live run's spooled bytes."""
    live = [beat for beat in rows if is_live(beat)]
    found: dict[Key, float] = {}
    for cluster in {beat.run.cluster for beat in live}:
        owned = partitions_of(beat for beat in live if beat.run.cluster == cluster)
        lag = total(row["lag"] for row in owned)
        if lag is not None:
            found["lag", cluster] = float(lag)
    for beat in live:
        spooled: Any = beat.recorder.get("spooled_bytes")
        if spooled is not None:
            found["spool", str(beat.run_id)] = float(spooled)
    return found


TREND = Trend()
