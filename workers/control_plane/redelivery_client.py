"""Have letters delivered to their sinks by a live worker, for the controller's jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from sinks.models import DeadLetter
from sinks.replay_sink import NoLiveWorker, RedeliveryOutcome
from workers.control import EXPIRY_SECONDS, Action
from workers.control_plane.queries import least_busy
from workers.control_plane.requests import Asker, ask
from workers.models import ControlRequest, ControlState
from workers.runtime.redelivery import DELIVER_SECONDS, READ_SECONDS

LOOK_SECONDS = 0.5
WAIT_SECONDS = EXPIRY_SECONDS + READ_SECONDS + DELIVER_SECONDS + 10.0
ENDED = (ControlState.DONE, ControlState.FAILED, ControlState.EXPIRED)


def deliver(
    letters: Sequence[DeadLetter], actor: str, tick: Callable[[], None]
) -> list[tuple[RedeliveryOutcome, str]]:
    """Deliver as ``sinks.replay_sink.Redeliver``: one request a letter, all to one worker."""
    cluster = letters[0].cluster
    worker = least_busy(cluster)
    if worker is None:
        raise NoLiveWorker(
            f"no worker of cluster {cluster} lives: start one, or replay to the source"
        )
    rows = [
        ask(
            Asker(name=actor, scopes={Action.DELIVER_LETTER.spec.scope}),
            cluster=cluster,
            worker=worker,
            action=Action.DELIVER_LETTER,
            arguments={"partition": each.letter_partition, "offset": each.letter_offset},
        )
        for each in letters
    ]
    ids = [row.id for row in rows]
    asked = ControlRequest.objects.filter(id__in=ids)
    deadline = time.monotonic() + WAIT_SECONDS
    while asked.exclude(state__in=ENDED).exists() and time.monotonic() < deadline:
        tick()
        time.sleep(LOOK_SECONDS)
    found = asked.in_bulk()
    return [_arrival(found[each]) for each in ids]


def _arrival(row: ControlRequest) -> tuple[RedeliveryOutcome, str]:
    """Return the outcome: a request that nobody accepted surely did nothing; one without an answer
    may have."""
    if row.state == ControlState.EXPIRED:
        return RedeliveryOutcome.REFUSED, row.detail
    if row.result is not None:
        return RedeliveryOutcome(row.result["arrival"]), row.detail
    return RedeliveryOutcome.UNKNOWN, row.detail or "the worker did not answer"
