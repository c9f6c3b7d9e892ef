"""Causes for which a message has no fate for long and holds back all behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum


class BlockCause(StrEnum):
    """Causes, the surest first."""

    LONG_TASK = "long_task"
    BOUND = "key_or_group_bound"
    POOL_FULL = "pool_full"
    SINK_AWAY = "sink_away"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class BlockFigures:
    """Figures of the blocking task and its worker; None: unknown.

    ``blocked_seconds`` is for how long its message has had no fate. ``running_seconds`` is 0 or
    more while its program runs; ``is_waiting``: it is known not to run.
    ``waits_for`` names the key or group it waits for.
    """

    blocked_seconds: float | None = None
    running_seconds: float | None = None
    attempt: int | None = None
    progress: float | None = None
    note: str | None = None
    is_waiting: bool = False
    waits_for: str | None = None
    slots: int | None = None
    busy: int | None = None
    waiting: int | None = None
    sinks_away: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Block:
    """A cause, how a title goes on before the task's name, and what shows it, in a sentence."""

    cause: BlockCause
    title: str
    sentence: str


def block_of(seen: BlockFigures) -> Block:
    """Return why the task has not ended; it is said to be unclear where the figures do not show
    it."""
    if seen.running_seconds is not None:
        waited = _waited_seconds(seen)
        if _is_full(seen) and waited is not None and waited > seen.running_seconds:
            sentence = (
                f"It waited {_duration(waited)} for a slot and runs for"
                f" {_duration(seen.running_seconds)}: {_full(seen)}."
            )
            return Block(BlockCause.POOL_FULL, "pool full, commit waits for", sentence)
        return Block(BlockCause.LONG_TASK, "commit blocked by", _running(seen))
    if seen.waits_for:
        sentence = f"It waits for {seen.waits_for}."
        return Block(BlockCause.BOUND, "commit blocked by", sentence)
    if seen.is_waiting and _is_full(seen):
        sentence = f"E{_full(seen)[1:]}: it has none yet."
        return Block(BlockCause.POOL_FULL, "pool full, commit waits for", sentence)
    if seen.sinks_away:
        sentence = (
            f"Its results may wait for {', '.join(seen.sinks_away[:3])}, whose breaker is open."
        )
        return Block(BlockCause.SINK_AWAY, "sink away, commit waits for", sentence)
    return Block(BlockCause.UNCLEAR, "commit blocked by", _unclear(seen))


def _is_full(seen: BlockFigures) -> bool:
    return bool(seen.slots) and seen.busy is not None and seen.busy >= (seen.slots or 0)


def _full(seen: BlockFigures) -> str:
    waiting = (
        "an unknown number of tasks wait" if seen.waiting is None else f"{seen.waiting:,} wait"
    )
    return f"every slot is busy ({seen.busy:,} of {seen.slots:,}, {waiting})"


def _waited_seconds(seen: BlockFigures) -> float | None:
    """Return for how long a first attempt waited before it ran; a later one had run before."""
    if seen.blocked_seconds is None or seen.running_seconds is None or (seen.attempt or 1) > 1:
        return None
    return seen.blocked_seconds - seen.running_seconds


def _running(seen: BlockFigures) -> str:
    parts = [f"Its program runs for {_duration(seen.running_seconds or 0.0)}"]
    if seen.attempt is not None and seen.attempt > 1:
        parts.append(f"attempt {seen.attempt}")
    if seen.progress is not None:
        parts.append(f"{seen.progress:.0%} done")
    note = f": {seen.note[:160]}" if seen.note else ""
    return f"{', '.join(parts)}{note}."


def _unclear(seen: BlockFigures) -> str:
    if not seen.is_waiting:
        return "Whether its program runs is unknown."
    return "Its program does not run now: a retry or a delivery waits; its page says which."


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"
