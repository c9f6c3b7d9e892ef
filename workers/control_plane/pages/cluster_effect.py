"""Effect on a whole cluster, in numbers, before it is asked: as its live workers last said."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from domain.beat import RunningTask
from domain.unknown import total
from recorder.models import RunState
from workers.control import (
    Action,
    Arguments,
    GroupArguments,
    KeyArguments,
    MatchArguments,
    Target,
    check_arguments,
)
from workers.control_plane.pages.effect import Effect, Figures
from workers.control_plane.queries import oldest_age, partitions_of, read_at


def cluster_effect(action: Action, given: Mapping[str, str], live: Sequence[RunState]) -> Effect:
    """Return the effect of an action on these workers, all that live of a cluster. Raises
    ValueError for arguments that are wrong."""
    return Effect(
        title=action.spec.title,
        meaning=action.spec.meaning,
        is_destructive=action.spec.is_destructive,
        beat=min(live, key=lambda beat: beat.beat_at, default=None),
        age=oldest_age(live),
        figures=_figures(action, given, live),
        causes={},
    )


def _figures(action: Action, given: Mapping[str, str], live: Sequence[RunState]) -> Figures:
    workers: Figures = [("live workers", len(live))]
    if action.spec.target is Target.WORKERS:
        return [*_matching(action, given, live), *workers]
    if action.spec.arguments.ENTRIES:
        return [*_of_subject(action, given, live), *workers]
    rows = [row.beat for row in partitions_of(live)]
    return [
        *workers,
        ("partitions", len(rows)),
        ("messages without a fate", total(row.pending for row in rows) if rows else 0),
        ("messages of lag", total(row.lag for row in rows) if rows else 0),
    ]


def _of_subject(action: Action, given: Mapping[str, str], live: Sequence[RunState]) -> Figures:
    """Tasks of a group or key that run, and the partitions that would be held back for certain:
    of those that wait only the number of all is known."""
    if not given:
        return []
    _, of = check_arguments(action, given)
    found = [task for beat in live for task in beat.pool.running or () if _is_of(task, of)]
    is_known = all(beat.pool.running is not None for beat in live)
    places = {(task.topic, task.partition) for task in found}
    pools = [beat.pool for beat in live]
    waiting = [total(each) for each in (
        (pool.waiting for pool in pools), (pool.waiting_for_key for pool in pools)
    )] if live else [0, 0]  # fmt: skip
    return [
        ("tasks of it that run, and go on", len(found) if is_known else None),
        ("partitions of these, which its messages hold back", len(places) if is_known else None),
        ("tasks that wait for a slot, those of it among them", waiting[0]),
        ("tasks that wait for their key, those of it among them", waiting[1]),
    ]


def _is_of(task: RunningTask, of: Arguments) -> bool:
    if isinstance(of, GroupArguments):
        return task.group == of.group
    return isinstance(of, KeyArguments) and task.key == of.task_key


def _matching(action: Action, given: Mapping[str, str], live: Sequence[RunState]) -> Figures:
    """How many running tasks match; those that wait are known by their number only."""
    filled = {"decision": "skip", **given}
    if not filled.keys() & MatchArguments.ENTRIES.keys():
        return []
    _, which = check_arguments(action, filled)
    assert isinstance(which, MatchArguments)
    figures: Figures = [("running tasks that match", total(_count(beat, which) for beat in live))]
    if which.running_seconds is None:
        waiting = total(beat.pool.waiting for beat in live) if live else 0
        figures.append(("tasks that wait, of which those that match end too", waiting))
    return figures


def _count(beat: RunState, which: MatchArguments) -> int | None:
    """Matching tasks that run on one worker; None: what it runs is unknown."""
    if beat.pool.running is None:
        return None
    return sum(_fits(task, which, read_at(beat).timestamp()) for task in beat.pool.running)


def _fits(task: RunningTask, which: MatchArguments, now: float) -> bool:
    return which.fits(
        labels=task.labels,
        group=task.group,
        task_key=task.key,
        partition=task.partition,
        running_seconds=None if task.started_at is None else now - task.started_at,
    )
