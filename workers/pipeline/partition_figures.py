"""One partition as heartbeat, metrics port and pages show it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from typing import Any

from domain.offsets import OffsetTracker, stretches
from workers.consumer.ownership import PauseReason
from workers.pipeline.live_task import LiveTask, Phase
from workers.pipeline.partition_state import MessageState

MOST_STRETCHES = 64
"""How finely the gap strip is told."""
RESTING = frozenset({PauseReason.OPERATOR, PauseReason.QUIET})


def state_name(
    *, is_ending: bool, is_parked: bool, pauses: Collection[PauseReason], is_stalled: bool
) -> str:
    """The state of a partition as pages and metrics name it: what weighs most is named."""
    if is_ending:
        return "draining"
    if is_parked:
        return "parked"
    if not RESTING.isdisjoint(pauses):
        return "paused"
    return "stalled" if is_stalled else "running"


def progress(
    tracker: OffsetTracker, states: Mapping[int, MessageState], now: float
) -> dict[str, Any]:
    """How far the offsets came, and the message that holds the commit back."""
    blocker = tracker.blocker
    return {
        "pending": tracker.open_count,
        "watermark": tracker.watermark,
        "strip": stretches(tracker.gaps(), MOST_STRETCHES),
        "blocker": None if blocker is None else _blocker(blocker, states.get(blocker), now),
    }


def _blocker(offset: int, state: MessageState | None, now: float) -> dict[str, Any]:
    if state is None:
        return {"offset": offset, "task_id": None, "age_seconds": None}
    return {
        "offset": offset,
        "task_id": min(state.tasks, default=None),
        "age_seconds": round(now - state.handed_at, 3),
    }


def queued(live: Iterable[LiveTask]) -> int:
    """Tasks that wait for a slot."""
    return sum(1 for each in live if each.phase is Phase.QUEUED)
