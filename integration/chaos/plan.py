"""Plan of the chaos test. Pure: times in seconds after t1, when 30 % have a fate."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from integration.demo.clusters import KAFKA

START_SHARE = 0.3
"""The schedule begins when so many of the messages have their fate in ``main``."""

WORKERS = ("worker-1", "worker-2", "worker-3")
SERVICES = ("postgres", "redis", "mongo", "webhook")
"""Servers whose restart keeps what they acknowledged; each may also be frozen."""

FAULT_SECONDS = (5.0, 20.0)
OUTAGE_SECONDS = 20.0
PAUSE_SECONDS = (3.0, 12.0)


class Deed(StrEnum):
    """Fault done to a process; each has its opposite."""

    STOP = "stop"
    KILL = "kill"
    FREEZE = "freeze"
    START = "start"
    THAW = "thaw"


OPPOSITES = {Deed.STOP: Deed.START, Deed.KILL: Deed.START, Deed.FREEZE: Deed.THAW}


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Deeds of one moment, in order; between two a started worker is waited for until ready."""

    at_seconds: float
    deeds: tuple[tuple[Deed, str], ...]

    def text(self) -> str:
        """For the table."""
        return ", ".join(f"{target} {deed.value}" for deed, target in self.deeds)


def rolling(fault: Deed) -> list[Step]:
    """The published rolling outage; ``fault`` is how a worker goes down."""
    back = OPPOSITES[fault]
    return [
        Step(at_seconds=30, deeds=((fault, "worker-2"),)),
        Step(at_seconds=150, deeds=((fault, "worker-3"),)),
        Step(at_seconds=390, deeds=((back, "worker-2"), (fault, "worker-1"))),
        Step(at_seconds=450, deeds=((back, "worker-1"),)),
        Step(at_seconds=510, deeds=((back, "worker-3"),)),
    ]


def outages() -> list[tuple[Deed, str]]:
    """Each server stopped, then each frozen."""
    return [(deed, server) for deed in (Deed.STOP, Deed.FREEZE) for server in SERVICES]


def killing(every_seconds: float, minutes: float) -> list[Step]:
    """One worker after the other is killed, and started again after half of ``every_seconds``."""
    steps = []
    for number in range(int(minutes * 60 // every_seconds)):
        worker, at = WORKERS[number % len(WORKERS)], number * every_seconds
        steps.append(Step(at_seconds=at, deeds=((Deed.KILL, worker),)))
        steps.append(Step(at_seconds=at + every_seconds / 2, deeds=((Deed.START, worker),)))
    return steps


def short() -> list[Step]:
    """The least that shows a zombie and a crash: one worker is left, then all come back."""
    return [
        Step(at_seconds=0, deeds=((Deed.FREEZE, "worker-2"), (Deed.KILL, "worker-3"))),
        Step(at_seconds=0, deeds=((Deed.THAW, "worker-2"), (Deed.START, "worker-3"))),
    ]


def at_random(seed: int, minutes: float, kafka: str) -> list[Step]:
    """Faults one after the other, each taken back before the next; the seed names the schedule.

    At least one worker always works. ``kafka`` is the kind of broker: apache or mock.
    """
    dice = random.Random(seed)
    steps: list[Step] = []
    now, end = 0.0, minutes * 60
    while True:
        now += dice.uniform(*PAUSE_SECONDS)
        lasts = dice.uniform(*FAULT_SECONDS)
        if now + lasts > end:
            return steps
        target = dice.choice((*WORKERS, *SERVICES, KAFKA))
        fault = dice.choice(_faults_of(target, kafka))
        steps.append(Step(at_seconds=now, deeds=((fault, target),)))
        now += lasts
        steps.append(Step(at_seconds=now, deeds=((OPPOSITES[fault], target),)))


def _faults_of(target: str, kafka: str) -> tuple[Deed, ...]:
    if target in WORKERS:
        return (Deed.STOP, Deed.KILL, Deed.FREEZE)
    # The mock broker keeps nothing over a restart.
    return (Deed.FREEZE,) if target == KAFKA and kafka == "mock" else (Deed.STOP, Deed.FREEZE)


def live_after(steps: Sequence[Step]) -> set[str]:
    """Workers that work once these steps are done."""
    live = set(WORKERS)
    for step in steps:
        for deed, target in step.deeds:
            if target in WORKERS:
                (live.discard if deed in OPPOSITES else live.add)(target)
    return live
