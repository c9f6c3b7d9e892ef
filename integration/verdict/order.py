"""Order of the messages of one key: in an epoch the next begins when the last has ended. Pure."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

Source = tuple[int, int]
"""Partition and offset of a request in the source topic; a negative partition is one of the retry
topic (``integration.demo.kafka.retry_number``)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """What a run told of a partition: ``assigned`` (an epoch began), or of a message in it:
    ``task_started``, ``message_completed``."""

    at: float
    run: str
    kind: str
    source: Source


@dataclass(slots=True)
class _Life:
    """One message in one epoch: the first start of its task, and its end; None: not told."""

    began: float | None = None
    ended: float | None = None


@dataclass(slots=True)
class _Epoch:
    lives: defaultdict[int, _Life] = field(default_factory=lambda: defaultdict(_Life))


def overtaken(
    steps: Iterable[Step], keys: Mapping[Source, str], cut_short: Collection[str] = ()
) -> Iterator[str]:
    """Messages that began before one before them of their key had ended, in the same epoch.

    A message of no key is judged by nothing. What runs in ``cut_short`` did last may be untold: an
    end that is missing there is no breach.
    """
    epochs: defaultdict[tuple[str, int], list[_Epoch]] = defaultdict(list)
    for step in sorted(steps, key=lambda one: (one.at, one.kind != "assigned")):
        partition, offset = step.source
        found = epochs[(step.run, partition)]
        if step.kind == "assigned" or not found:
            found.append(_Epoch())
        life = found[-1].lives[offset]
        if step.kind == "task_started" and life.began is None:
            life.began = step.at
        elif step.kind == "message_completed":
            life.ended = step.at
    for (run, partition), of_partition in epochs.items():
        for epoch in of_partition:
            yield from _overtaken(run, partition, epoch, keys, is_cut=run in cut_short)


def _overtaken(
    run: str, partition: int, epoch: _Epoch, keys: Mapping[Source, str], *, is_cut: bool
) -> Iterator[str]:
    last: dict[str, tuple[int, float]] = {}
    for offset, life in sorted(epoch.lives.items()):
        key = keys.get((partition, offset))
        if key is None or life.began is None:
            continue
        before, ended = last.get(key, (-1, 0.0))
        if life.began < ended:
            yield f"run {run}, key {key}: ({partition}, {offset}) began before {before} had ended"
        if life.ended is not None:
            last[key] = offset, life.ended
        elif not is_cut:
            last[key] = offset, float("inf")
