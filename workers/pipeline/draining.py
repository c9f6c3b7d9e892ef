"""Choice of the messages that an ending epoch finishes (docs/decisions/0002). Pure."""

from __future__ import annotations

from bisect import bisect
from collections.abc import Collection, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

from domain.offsets import OffsetTracker
from domain.settled import Ranges, fits, ranges_of
from sinks.router import DeliveryCall
from workers.pipeline.key_order import Chain
from workers.pipeline.life_cycle import (
    WORKING,
    LiveMessage,
    LiveTask,
    MessageState,
    TaskState,
    offsets_of,
    shared,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """The offsets of the messages that an ending epoch finishes, and tasks that wait for a retry
    and get it at once, for a short while: their messages stand below others that have ended."""

    finished: Set[int]
    tried: Sequence[LiveTask]

    def is_left(self, live: LiveTask) -> bool:
        """Whether a task is left to the heir at once."""
        return live not in self.tried and self.finished.isdisjoint(live.task.source_offsets)

    def is_left_by(self, messages: Sequence[LiveMessage]) -> bool:
        """Whether messages that share a delivery are left to the heir."""
        return self.finished.isdisjoint(offsets_of(messages))


def choose(
    tracker: OffsetTracker,
    messages: Mapping[int, LiveMessage],
    calls: Mapping[DeliveryCall, Sequence[LiveMessage]],
    tasks: Collection[LiveTask],
    *,
    held_up: Collection[DeliveryCall],
    inherited: Ranges,
    slots: int,
    chains: Iterable[Chain] = (),
) -> Choice:
    """Choose the messages that must get their fate; all others are left to the heir.

    Finished is what is out, else it goes out twice; what a program or a hook works on, else the
    work is lost; what shares a task with one of them, ended or not; and what has a task for whose
    end a task of these waits (``chains``), else the heir would do it after them. What has its fate
    is named to the heir, however far above the commit; where there is no room to name all of it, so
    much is finished from the lowest on.
    """
    for call, of_call in calls.items():
        for message in of_call:
            message.is_out = message.is_out or call.is_out
    stuck = {call.task_id for call in held_up}
    in_stuck_hooks = {id(m) for call in held_up if call.task_id is None for m in calls[call]}
    kept = {o for o, one in messages.items() if _is_kept(one, id(one) in in_stuck_hooks)}
    for live in tasks:
        is_stuck = live.state is TaskState.DELIVERING and live.task.id in stuck
        if live.state in WORKING and not is_stuck:
            kept.update(live.task.source_offsets)
    chains = list(chains)
    _add_partners(kept, messages, calls.values(), chains)
    ended = [(offset, has_fate or offset in kept) for offset, has_fate in tracker.gaps()]
    highest = max((offset for offset, has_ended in ended if has_ended), default=-1)
    unnamed = _end_of_unnamed(ranges_of(ended), inherited)
    kept.update(offset for offset in messages if offset <= unnamed)
    _add_partners(kept, messages, calls.values(), chains)
    return Choice(finished=kept, tried=_to_try(kept, highest, messages, tasks)[:slots])


def _end_of_unnamed(ended: Ranges, inherited: Ranges) -> int:
    """Return the offset up to which all must be finished, for the metadata of the final commit have
    no room for what ended there; -1: none. What is finished from the lowest on needs no room."""
    unnamed = bisect(range(len(ended)), False, key=lambda n: fits(ended[n:] + inherited))
    return ended[unnamed - 1][1] if unnamed else -1


def _to_try(
    kept: Set[int], highest: int, messages: Mapping[int, LiveMessage], tasks: Iterable[LiveTask]
) -> list[LiveTask]:
    """Tasks that wait for a retry, alone of their messages, below what has ended: the oldest
    first. One more attempt may let the commit pass."""
    waiting = [
        live
        for live in tasks
        if live.state is TaskState.RETRYING
        and live.task.source_offsets[-1] < highest
        and kept.isdisjoint(live.task.source_offsets)
        and is_only_task(live)
    ]
    return sorted(waiting, key=lambda live: live.task.source_offsets[0])


def is_only_task(live: LiveTask) -> bool:
    """Whether nothing of its messages is left but this task, and they share no other."""
    own = set(live.task.source_offsets)
    if not all(message.tasks == {live.task.id} for message in live.messages):
        return False
    return all(origins.keys() <= own for origins in shared(live.messages))


def _is_kept(message: LiveMessage, is_stuck: bool) -> bool:
    """Whether a message must be finished for what it is itself; ``is_stuck``: what its completion
    hook gave cannot be delivered."""
    match message.state:
        case MessageState.COMPLETING | MessageState.COMPLETING_BATCH:
            return message.is_out or not is_stuck
        case MessageState.IN_BATCH:
            return message.is_out or bool(message.results or message.failures)
    return message.is_out


def _add_partners(
    kept: set[int],
    messages: Mapping[int, LiveMessage],
    together: Iterable[Sequence[LiveMessage]],
    chains: Iterable[Chain],
) -> None:
    """Messages that share tasks or deliveries are finished together, or none of them is: the heir,
    who passes over one of them, would make a task of the others alone. Messages are finished with
    those before them in the order of a key."""
    groups = [set(origins) for origins in shared(messages.values())]
    groups += [offsets_of(group) for group in together if len(group) > 1]
    kept.update(*(group & messages.keys() for group in groups if not group <= messages.keys()))
    by_offset: dict[int, list[set[int]]] = {}
    for group in groups:
        for offset in group:
            by_offset.setdefault(offset, []).append(group)
    for started, waiting in chains:
        before = offsets_of(one for live in started for one in live.messages)
        for live in waiting:
            for offset in live.task.source_offsets:
                by_offset.setdefault(offset, []).append(set(before))
            before = set(live.task.source_offsets)
    unasked = list(kept)
    while unasked:
        for group in by_offset.pop(unasked.pop(), ()):
            met = (group & messages.keys()) - kept
            group.clear()
            kept |= met
            unasked += met
