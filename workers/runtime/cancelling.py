"""Cancelling of all tasks that match, on one worker."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

from domain.decision import DeadLetter, Skip
from domain.events import TaskStarted
from workers.clock import Clock
from workers.consumer.ownership import Claim
from workers.control import Answer, MatchArguments
from workers.pipeline.partition import PartitionWorker

REASON = "cancelled by an operator"
AT_ONCE = 200
"""So many are cancelled before others get a turn on the loop."""


def verdict_of(decision: str) -> Skip | DeadLetter:
    """Return the fate that an operator chose for the messages of what is cancelled."""
    return Skip(reason=REASON) if decision == "skip" else DeadLetter(reason=REASON)


async def cancel_matching(
    partitions: Mapping[Claim, PartitionWorker],
    running: Mapping[tuple[str, str], TaskStarted],
    asked: MatchArguments,
    clock: Clock,
) -> Answer:
    """Cancel the unfinished tasks that match; the numbers are its answer.

    A task whose payloads are on their way is not cancelled, and counted apart.
    """
    verdict = verdict_of(asked.decision)
    found = [
        (partition, task_id)
        for claim, partition in partitions.items()
        for task_id in _matching(claim, partition, running, asked, clock.wall())
    ]
    cancelled = 0
    for number, (partition, task_id) in enumerate(found, 1):
        if partition.has_task(task_id) and partition.cancel_task(task_id, verdict):
            cancelled += 1
        if not number % AT_ONCE:
            await asyncio.sleep(0)
    ended = len(found) - cancelled
    detail = f"{cancelled} cancelled, {ended} had ended or have payloads on their way"
    return Answer(is_done=True, detail=detail, result={"cancelled": cancelled, "ended": ended})


def _matching(
    claim: Claim,
    partition: PartitionWorker,
    running: Mapping[tuple[str, str], TaskStarted],
    asked: MatchArguments,
    now: float,
) -> list[str]:
    found = []
    for live in partition.tasks.all:
        started = running.get((claim.topic, live.task.id))
        is_running = started is not None and started.slot is not None
        if asked.fits(
            labels=live.task.labels,
            group=live.task.group,
            task_key=live.task.key,
            partition=claim.partition,
            running_seconds=now - started.at if started is not None and is_running else None,
        ):
            found.append(live.task.id)
    return found
