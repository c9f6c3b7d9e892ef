"""Causes of a lag that grows, told apart by figures.

Each rule reads few figures and says nothing where one of them is unknown: unknown is never taken
for zero. Causes come in the order in which to mend them: what holds everything back before what
only makes it slower, and the reason of a full pool before the full pool.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum

FULL_SHARE = 0.95
FREE_SHARE = 0.8
SLOWER = 1.5
MORE = 1.3
HOT_SHARE = 0.6
LEAST_SHARE = 0.2
"""Share of what waits from which on it is a cause."""
LEAST_PARTITIONS = 3
LONG_QUEUE = 1000


class LagCause(StrEnum):
    """Causes, in the order in which they are told."""

    INTAKE_PAUSED = "intake_paused"
    CRASH_GUARD = "crash_guard"
    PARKED = "parked"
    SINK_AWAY = "sink_away"
    FEWER_WORKERS = "fewer_workers"
    BOUND = "key_or_group_bound"
    SLOW_PROGRAM = "slow_program"
    MORE_INPUT = "more_input"
    POOL_FULL = "pool_full"
    SINK_SLOW = "sink_slow"
    HOT_PARTITION = "hot_partition"
    DEFERRED = "deferred"
    UNCLEAR = "unclear"


@dataclass(frozen=True, slots=True, kw_only=True)
class LagFigures:
    """Figures of one cluster; None: unknown. ``before``: in the hour before the last ten minutes.

    ``paused`` says in words what is paused and by whom; ``sinks_away`` and ``parked`` name places.
    ``parked_lag`` and ``suspect_lag`` wait in partitions that an error stopped, and in those that
    the crash guard did; ``deferred`` are messages of the retry topic that are not due.
    """

    lag: int | None = None
    paused: Sequence[str] = ()
    parked: Sequence[str] = ()
    parked_lag: int | None = None
    suspects: Sequence[str] = ()
    suspect_lag: int | None = None
    sinks_away: Sequence[str] = ()
    sink_queue: tuple[str, int] | None = None
    workers: int | None = None
    workers_before: int | None = None
    slots: int | None = None
    busy: int | None = None
    waiting: int | None = None
    waiting_for_key: int | None = None
    waiting_for_group: int | None = None
    p50_ms: float | None = None
    p50_ms_before: float | None = None
    input_per_second: float | None = None
    input_per_second_before: float | None = None
    partitions: int | None = None
    hottest: tuple[str, int] | None = None
    deferred: int | None = None

    @property
    def busy_share(self) -> float | None:
        """Share of the slots that are busy."""
        return self.busy / self.slots if self.busy is not None and self.slots else None

    def share(self, part: int | None) -> float | None:
        """Share of all that waits; None: unknown, or nothing waits."""
        return part / self.lag if part is not None and self.lag else None


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """A cause, in one sentence, with the figures that show it, and what to do."""

    cause: LagCause
    sentence: str
    evidence: str
    action: str


def diagnose(figures: LagFigures) -> list[Diagnosis]:
    """Return the causes that the figures show, the first to mend first; never empty: where they
    show none it is unclear."""
    told = [(cause, rule(figures)) for cause, rule in RULES.items()]
    found = [
        Diagnosis(cause, *WORDS[cause][:1], evidence, WORDS[cause][1])
        for cause, evidence in told
        if evidence
    ]
    if found:
        return found
    return [
        Diagnosis(
            LagCause.UNCLEAR,
            WORDS[LagCause.UNCLEAR][0],
            _known(figures),
            WORDS[LagCause.UNCLEAR][1],
        )
    ]


def _of_pause(seen: LagFigures) -> str:
    return _listed(seen.paused)


def _of_suspects(seen: LagFigures) -> str:
    return _of_places(seen, seen.suspects, seen.suspect_lag)


def _of_parked(seen: LagFigures) -> str:
    return _of_places(seen, seen.parked, seen.parked_lag)


def _of_places(seen: LagFigures, places: Sequence[str], lag: int | None) -> str:
    share = seen.share(lag)
    if not places or (share is not None and share < LEAST_SHARE):
        return ""
    waits = "" if lag is None else f", where {lag:,} messages wait"
    return f"{_listed(places)}{waits}"


def _of_sinks(seen: LagFigures) -> str:
    return _listed(seen.sinks_away)


def _of_workers(seen: LagFigures) -> str:
    if seen.workers is None or seen.workers_before is None or seen.workers >= seen.workers_before:
        return ""
    return f"{_count(seen.workers, 'worker')}, {seen.workers_before:,} an hour ago"


def _of_bound(seen: LagFigures) -> str:
    """Tasks that wait for their key or group while slots are free."""
    share = seen.busy_share
    bound = [
        f"{count:,} tasks wait for {what}"
        for count, what in (
            (seen.waiting_for_key, "their key"),
            (seen.waiting_for_group, "their group"),
        )
        if count
    ]
    if share is None or share >= FREE_SHARE or not bound:
        return ""
    return f"{' and '.join(bound)} while {seen.busy:,} of {seen.slots:,} slots are busy"


def _of_program(seen: LagFigures) -> str:
    now, before = seen.p50_ms, seen.p50_ms_before
    if now is None or not before or now < SLOWER * before:
        return ""
    full = f"; {_pool(seen)}" if _is_full(seen) else ""
    return f"half of the tasks take {_ms(now)} or more, {_ms(before)} in the hour before{full}"


def _of_input(seen: LagFigures) -> str:
    now, before = seen.input_per_second, seen.input_per_second_before
    if now is None or not before or now < MORE * before:
        return ""
    return f"{now:,.3g} messages come a second, {before:,.3g} in the hour before"


def _of_pool(seen: LagFigures) -> str:
    return _pool(seen) if _is_full(seen) else ""


def _is_full(seen: LagFigures) -> bool:
    share = seen.busy_share
    return share is not None and share >= FULL_SHARE and bool(seen.waiting)


def _pool(seen: LagFigures) -> str:
    return f"{seen.busy:,} of {seen.slots:,} slots busy, {seen.waiting:,} tasks wait"


def _of_slow_sink(seen: LagFigures) -> str:
    if seen.sink_queue is None or seen.sink_queue[1] < LONG_QUEUE or seen.busy_share is None:
        return ""
    name, queued = seen.sink_queue
    free = seen.busy_share < FREE_SHARE
    return (
        f"{queued:,} payloads wait for {name}, {seen.busy:,} of {seen.slots:,} slots are busy"
        if free
        else ""
    )


def _of_hot_partition(seen: LagFigures) -> str:
    if seen.hottest is None or seen.partitions is None or seen.partitions < LEAST_PARTITIONS:
        return ""
    place, lag = seen.hottest
    share = seen.share(lag)
    if share is None or share < HOT_SHARE:
        return ""
    return f"{share:.0%} of what waits is in {place}, one of {seen.partitions:,} partitions"


def _of_deferred(seen: LagFigures) -> str:
    share = seen.share(seen.deferred)
    if share is None or share < LEAST_SHARE:
        return ""
    return f"{seen.deferred:,} of the messages that wait are deferred retries that are not due"


def _known(seen: LagFigures) -> str:
    """Say of an unclear case what is known of the pool."""
    if seen.busy is None or seen.slots is None:
        return "how busy its slots are is unknown"
    return f"{seen.busy:,} of {seen.slots:,} slots busy"


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return f"{', '.join(names[:most])}{more}"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _ms(value: float) -> str:
    return f"{value / 1000:,.3g} s" if value >= 1000 else f"{value:.3g} ms"


RULES: dict[LagCause, Callable[[LagFigures], str]] = {
    LagCause.INTAKE_PAUSED: _of_pause,
    LagCause.CRASH_GUARD: _of_suspects,
    LagCause.PARKED: _of_parked,
    LagCause.SINK_AWAY: _of_sinks,
    LagCause.FEWER_WORKERS: _of_workers,
    LagCause.BOUND: _of_bound,
    LagCause.SLOW_PROGRAM: _of_program,
    LagCause.MORE_INPUT: _of_input,
    LagCause.POOL_FULL: _of_pool,
    LagCause.SINK_SLOW: _of_slow_sink,
    LagCause.HOT_PARTITION: _of_hot_partition,
    LagCause.DEFERRED: _of_deferred,
}
"""Rule of each cause: its evidence in words; empty: the figures do not show it."""
WORDS = {
    LagCause.INTAKE_PAUSED: ("Intake is paused", "Resume it"),
    LagCause.CRASH_GUARD: (
        "The crash guard holds back messages that killed workers",
        "Look at the suspect message",
    ),
    LagCause.PARKED: ("Partitions are parked by an error", "Mend what they wait for"),
    LagCause.SINK_AWAY: ("A sink is away", "Mend the sink"),
    LagCause.FEWER_WORKERS: ("Fewer workers than an hour ago", "Start the missing ones"),
    LagCause.BOUND: (
        "Tasks wait for their key or group while slots are free",
        "Raise the bound, or spread the keys",
    ),
    LagCause.SLOW_PROGRAM: ("The program became slower", "See what changed"),
    LagCause.MORE_INPUT: ("More messages come than before", "Add workers or slots"),
    LagCause.POOL_FULL: ("Every slot is busy", "Add workers or slots"),
    LagCause.SINK_SLOW: ("A sink is slow", "See the sink"),
    LagCause.HOT_PARTITION: (
        "One partition has most of it",
        "Spread its keys, or see what blocks it",
    ),
    LagCause.DEFERRED: ("Retries wait in the retry topic", "See why they failed"),
    LagCause.UNCLEAR: ("The cause is unclear", "Add workers or slots, or see what blocks"),
}
"""Sentence and action of each cause."""
