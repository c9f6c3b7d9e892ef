"""One partition as heartbeat, metrics port and pages show it."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

from domain.beat import Blocker
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


def blocker(
    tracker: OffsetTracker, states: Mapping[int, MessageState], now: float
) -> Blocker | None:
    """Return the message that holds the commit back; None: none does."""
    offset = tracker.blocker
    if offset is None:
        return None
    state = states.get(offset)
    if state is None:
        return Blocker(offset=offset)
    age = round(now - state.handed_at, 3)
    return Blocker(offset=offset, task_id=min(state.tasks, default=None), age_seconds=age)


def strip(tracker: OffsetTracker) -> tuple[tuple[int, bool], ...]:
    """Return the offsets above the watermark, with and without fate, as stretches."""
    return tuple(stretches(tracker.gaps(), MOST_STRETCHES))


def queued(live: Iterable[LiveTask]) -> int:
    """Tasks that wait for a slot."""
    return sum(1 for each in live if each.phase is Phase.QUEUED)
