"""Which messages an ending epoch finishes (docs/decisions/0002). Pure."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from domain.offsets import OffsetTracker
from domain.settled import Ranges, fits, ranges_of
from sinks.router import DeliveryCall
from workers.pipeline.live_task import LiveTask, Phase
from workers.pipeline.partition_state import MessageState, shared


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The offsets of the messages that an ending epoch finishes, and tasks that wait for a retry
    and get it at once, for a short while: their messages stand below others that have ended."""

    finished: Set[int]
    tried: Sequence[LiveTask]

    def is_left(self, live: LiveTask) -> bool:
        """Whether a task is left to the heir at once."""
        return live not in self.tried and self.finished.isdisjoint(live.task.source_offsets)

    def is_left_by(self, states: Sequence[MessageState]) -> bool:
        """Whether messages that share a delivery are left to the heir."""
        return self.finished.isdisjoint(state.record.offset for state in states)


def choose(
    tracker: OffsetTracker,
    states: Mapping[int, MessageState],
    calls: Mapping[DeliveryCall, Sequence[MessageState]],
    tasks: Collection[LiveTask],
    *,
    held_up: Collection[DeliveryCall],
    inherited: Ranges,
    slots: int,
) -> Choice:
    """Choose the messages that must get their fate; all others are left to the heir.

    Finished is what is out, else it goes out twice; what a program or a hook works on, else the
    work is lost; and what shares a task with one of them, ended or not. What has its fate is named
    to the heir, however far above the commit; where there is no room to name all of it, so much is
    finished from the lowest on.
    """
    for call, of_call in calls.items():
        for state in of_call:
            state.is_out = state.is_out or call.is_out
    stuck = {call.task_id for call in held_up}
    in_stuck_hooks = {id(s) for call in held_up if call.task_id is None for s in calls[call]}
    kept = {o for o, state in states.items() if _is_kept(state, id(state) in in_stuck_hooks)}
    for live in tasks:
        is_stuck = live.phase is Phase.DELIVERING and live.task.id in stuck
        if live.phase in (Phase.RUNNING, Phase.DELIVERING) and not is_stuck:
            kept.update(live.task.source_offsets)
    _add_partners(kept, states, calls.values())
    ended = [(offset, has_fate or offset in kept) for offset, has_fate in tracker.gaps()]
    highest = max((offset for offset, has_ended in ended if has_ended), default=-1)
    unnamed = _end_of_unnamed(ranges_of(ended), inherited)
    kept.update(offset for offset in states if offset <= unnamed)
    _add_partners(kept, states, calls.values())
    return Choice(finished=kept, tried=_to_try(kept, highest, states, tasks)[:slots])


def _end_of_unnamed(ended: Ranges, inherited: Ranges) -> int:
    """Return the offset up to which all must be finished, for the metadata of the final commit have
    no room for what ended there; -1: none. What is finished from the lowest on needs no room."""
    unnamed = bisect(range(len(ended)), False, key=lambda n: fits(ended[n:] + inherited))
    return ended[unnamed - 1][1] if unnamed else -1


def _to_try(
    kept: Set[int], highest: int, states: Mapping[int, MessageState], tasks: Iterable[LiveTask]
) -> list[LiveTask]:
    """Tasks that wait for a retry, alone of their messages, below what has ended: the oldest
    first. One more attempt may let the commit pass."""
    waiting = [
        live
        for live in tasks
        if live.phase is Phase.RETRYING
        and live.task.source_offsets[-1] < highest
        and kept.isdisjoint(live.task.source_offsets)
        and is_only_task(live, [states[offset] for offset in live.task.source_offsets])
    ]
    return sorted(waiting, key=lambda live: live.task.source_offsets[0])


def is_only_task(live: LiveTask, states: Sequence[MessageState]) -> bool:
    """Whether nothing of its messages is left but this task, and they share no other."""
    own = set(live.task.source_offsets)
    if not all(state.tasks == {live.task.id} for state in states):
        return False
    return all(origins.keys() <= own for origins in shared(states))


def _is_kept(state: MessageState, is_stuck: bool) -> bool:
    """Whether a message must be finished for what it is itself; ``is_stuck``: what its completion
    hook gave cannot be delivered."""
    waits_with_work = state.has_ended and bool(state.results or state.failures)
    return state.is_out or (not is_stuck and (state.is_in_hook or waits_with_work))


def _add_partners(
    kept: set[int],
    states: Mapping[int, MessageState],
    together: Iterable[Sequence[MessageState]],
) -> None:
    """Messages that share tasks or deliveries are finished together, or none of them is: the heir,
    who passes over one of them, would make a task of the others alone."""
    groups = [set(origins) for origins in shared(states.values())]
    groups += [{state.record.offset for state in group} for group in together if len(group) > 1]
    kept.update(*(group & states.keys() for group in groups if not group <= states.keys()))
    by_offset: dict[int, list[set[int]]] = {}
    for group in groups:
        for offset in group:
            by_offset.setdefault(offset, []).append(group)
    unasked = list(kept)
    while unasked:
        for group in by_offset.pop(unasked.pop(), ()):
            met = (group & states.keys()) - kept
            group.clear()
            kept |= met
            unasked += met
