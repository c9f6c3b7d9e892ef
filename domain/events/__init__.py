"""The vocabulary of events: everything that happens is told once, as one of these.

A field named like a column of the events table is stored there; any other field goes into ``data``.
``at`` is UTC epoch seconds on the worker's one clock.
"""

from __future__ import annotations

from domain.events.base import (
    CARRIED,
    COLUMNS,
    FIELD_NAMES,
    KINDS,
    Event,
    Listeners,
    Tell,
    ignore,
)
from domain.events.deliveries import (
    BreakerClosed,
    BreakerOpened,
    Delivered,
    DeliveryFailed,
    SinkReconnected,
)
from domain.events.messages import (
    Arranged,
    Consumed,
    DeadLettered,
    MessageCompleted,
    Replayed,
    Resolved,
)
from domain.events.partitions import (
    Assigned,
    Committed,
    Lost,
    Parked,
    Paused,
    Resumed,
    Revoked,
    Stalled,
    Unparked,
)
from domain.events.runs import (
    Control,
    HookSlow,
    PeriodicRun,
    RecorderShed,
    SpawnerLost,
    WorkerLost,
    WorkerStarted,
    WorkerStopped,
)
from domain.events.tasks import (
    Collected,
    TaskCancelled,
    TaskCompleted,
    TaskFailed,
    TaskReplaced,
    TaskRetried,
    TaskStarted,
)

__all__ = [
    "CARRIED",
    "COLUMNS",
    "FIELD_NAMES",
    "KINDS",
    "Arranged",
    "Assigned",
    "BreakerClosed",
    "BreakerOpened",
    "Collected",
    "Committed",
    "Consumed",
    "Control",
    "DeadLettered",
    "Delivered",
    "DeliveryFailed",
    "Event",
    "HookSlow",
    "Listeners",
    "Lost",
    "MessageCompleted",
    "Parked",
    "Paused",
    "PeriodicRun",
    "RecorderShed",
    "Replayed",
    "Resolved",
    "Resumed",
    "Revoked",
    "SinkReconnected",
    "SpawnerLost",
    "Stalled",
    "TaskCancelled",
    "TaskCompleted",
    "TaskFailed",
    "TaskReplaced",
    "TaskRetried",
    "TaskStarted",
    "Tell",
    "Unparked",
    "WorkerLost",
    "WorkerStarted",
    "WorkerStopped",
    "ignore",
]
