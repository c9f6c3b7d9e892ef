"""Findings: each broken invariant of now with its cause and what to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from urllib.parse import urlencode
from uuid import UUID

from django.urls import reverse

from domain.beat import PartitionBeat, PartitionState
from domain.block_cause import BlockCause
from domain.episode import Quiet
from domain.finding import FindingKind, Severity, anchor
from domain.lag_cause import LagCause, LagFigures, diagnose
from domain.parking import ParkingCause
from domain.unknown import total
from recorder.failures.news import News, Why
from recorder.models import Event, RunState
from recorder.timestamps import utc_at
from workers.control import RESUMED_BY, Subject
from workers.control_plane.pages.presentation import sink_anchor
from workers.control_plane.pages.trend import Trend
from workers.control_plane.paused_by import PausedBy
from workers.control_plane.queries import (
    CONTROL_CLUSTER,
    LATE_SECONDS,
    age_seconds,
    is_live,
    latest,
    read_at,
)
from workers.control_plane.rates import Failing
from workers.control_plane.task_waits import BROKEN, block_by
from workers.models import StandingPause

BLOCKED_SECONDS = 60.0
SPOOL_LIMIT_BYTES = 1024 * 1024
RECENT_SECONDS = 600.0
MOST_EVENTS = 500
MOST_KEY = 300
MOST_NAMED = 5
MOST_TITLE = 160
WEIGHTY_SHARE = 0.25
"""Share of a cluster's attempts from which on a group of failures is the cause of what else tells
that they fail."""
OF_FAILURES = {
    FindingKind.TASKS_FAIL: None,
    FindingKind.LAG_GROWS: (
        LagCause.SLOW_PROGRAM, LagCause.POOL_FULL, LagCause.DEFERRED, LagCause.UNCLEAR,
    ),
    FindingKind.COMMIT_BLOCKED: (BlockCause.POOL_FULL, BlockCause.UNCLEAR),
}  # fmt: skip
"""Findings that failures bring about, by their causes; None: by any."""
Start = tuple[UUID, str, str]
"""A run, a kind of event, and what it was told of."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that is wrong; ``status`` is its colour and glyph.

    ``subject`` tells it from others of its kind and cluster for as long as it lasts. ``magnitude``
    is how much of it there is, in a unit of its kind; None: unknown, or it has none. ``part_of`` is
    the key of the finding that names its cause; nobody is told of it beside that one.
    """

    kind: FindingKind
    cluster: str
    subject: str = ""
    cause: str = ""
    status: str
    title: str
    detail: str
    age_seconds: float | None = None
    magnitude: float | None = None
    url: str = ""
    action: str = ""
    part_of: str = ""
    is_taken: bool = False

    @property
    def quiet(self) -> Quiet:
        """How much of it nobody is to be told."""
        return Quiet.GROWTH if self.part_of or self.is_taken else Quiet.NOTHING

    @property
    def key(self) -> str:
        """Name that stays the same while it lasts, and when it comes again."""
        return f"{self.kind}:{self.cluster}:{self.subject}"[:MOST_KEY]

    @property
    def severity(self) -> Severity:
        """Severity of its kind."""
        return self.kind.severity

    @property
    def anchor(self) -> str:
        """Anchor of the runbook that says what to do."""
        return anchor(self.kind, self.cause)


@dataclass(frozen=True, slots=True, kw_only=True)
class PausedBys:
    """Who paused what: workers by cluster and name, partitions by cluster, topic and number, sinks
    by cluster, worker and name; what is missing is unknown."""

    workers: Mapping[tuple[str, str], PausedBy] = field(default_factory=dict)
    partitions: Mapping[tuple[str, str, int], PausedBy] = field(default_factory=dict)
    sinks: Mapping[tuple[str, str, str], PausedBy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Known:
    """Facts beside the beats: when each thing began, how figures move, and the lag of
    each cluster as its workers tell it, or the controller where none lives; and what is paused
    on all workers of a cluster."""

    starts: Mapping[Start, datetime] = field(default_factory=dict)
    trend: Trend = field(default_factory=Trend)
    lags: Mapping[str, int | None] = field(default_factory=dict)
    pauses: Sequence[StandingPause] = ()
    failing: Mapping[str, Failing] = field(default_factory=dict)
    news: Sequence[News] = ()
    paused_by: PausedBys = field(default_factory=lambda: PausedBys())
    figures: Mapping[str, LagFigures] = field(default_factory=dict)
    """Figures that tell why the lag of a cluster grows, by cluster."""
    is_history_away: bool = False
    now: datetime | None = None


HISTORY_AWAY = Finding(
    kind=FindingKind.HISTORY_AWAY,
    cluster="",
    status="failed",
    title="History is away",
    detail="Its database (site.history_url) does not answer: workers keep events, control works, "
    "and pages that show events wait for it",
)


def findings(
    rows: Iterable[RunState],
    controller_age_seconds: float | None,
    is_controller_live: bool,
    known: Known,
) -> list[Finding]:
    """Everything wrong of the latest run of each name and of the controller, worst first; what a
    group of failures brings about is a part of that.

    The age is that of the last beat of any controller; None: none ever ran.
    """
    names = latest(rows)
    living = sorted({beat.run.cluster for beat in names.values() if is_live(beat)})
    found = list(_of_silence(list(names.values()), living, known))
    found += [each for beat in names.values() for each in _of_run(beat, known)]
    found += [each for cluster in living for each in _of_lag(cluster, known)]
    found += [_of_failing(name, each) for name, each in sorted(known.failing.items())]
    found += [_of_group(each, known) for each in known.news]
    found += [_of_pause(pause, names.values()) for pause in known.pauses]
    found += _of_paused_partitions(list(names.values()), known)
    found += [HISTORY_AWAY] if known.is_history_away else []
    if living:
        found += _of_controller(controller_age_seconds, is_controller_live)
    found = _with_causes(found, known.news)
    return sorted(found, key=lambda each: each.status != "failed")


def _with_causes(found: Sequence[Finding], news: Iterable[News]) -> list[Finding]:
    """Make what failures bring about part of the heaviest group of its cluster."""
    causes = {}
    for each in sorted(news, key=lambda each: each.share or 0.0):
        if each.share is not None and each.share >= WEIGHTY_SHARE:
            causes[each.group.cluster] = _key_of_group(each)
    return [
        replace(each, part_of=causes[each.cluster])
        if each.cluster in causes and _is_of_failures(each)
        else each
        for each in found
    ]


def _is_of_failures(finding: Finding) -> bool:
    if finding.kind not in OF_FAILURES:
        return False
    causes = OF_FAILURES[finding.kind]
    return causes is None or finding.cause in causes


def _key_of_group(each: News) -> str:
    return f"{FindingKind.FAILURE_GROUP}:{each.group.cluster}:{each.group.pk}"


def _of_group(each: News, known: Known) -> Finding:
    group = each.group
    what = {Why.NEW: "new failure", Why.BACK: "failure is back", Why.MORE: "failure grows"}
    share = "" if each.share is None else f", {each.share:.0%} of all attempts"
    owner = f" Acknowledged by {group.owner or group.changed_by}." if each.is_taken else ""
    letters = f" It made {group.letters:,} dead letters." if group.letters else ""
    age = None
    if known.now is not None and each.began_at is not None:
        age = max(0.0, (known.now - each.began_at).total_seconds())
    return Finding(
        kind=FindingKind.FAILURE_GROUP,
        cluster=group.cluster,
        subject=group.pk,
        cause=each.why,
        status="failed",
        title=f"Cluster {group.cluster}: {what[each.why]}: {group.title[:MOST_TITLE]}",
        detail=f"{each.count:,} failures since {each.since:%H:%M} UTC{share}.{letters}{owner}",
        age_seconds=age,
        magnitude=each.per_minute,
        url=reverse("failure", kwargs={"fingerprint": group.pk}),
        action="Open failure",
        is_taken=each.is_taken,
    )


def _of_failing(cluster: str, seen: Failing) -> Finding:
    asked = urlencode({"cluster": cluster, "kind": "task_failed"})
    return Finding(
        kind=FindingKind.TASKS_FAIL,
        cluster=cluster,
        status="failed",
        title=f"Cluster {cluster}: tasks fail",
        detail=f"{seen.failures:,} of {seen.count:,} attempts failed in the last minute.",
        magnitude=seen.share,
        url=f"{reverse('history')}?{asked}",
        action="See which",
    )


def _of_pause(pause: StandingPause, beats: Iterable[RunState]) -> Finding:
    """A pause on purpose: it is shown until it is ended."""
    subject = Subject(pause.subject)
    what = f"Cluster {pause.cluster}"
    if subject is not Subject.CLUSTER:
        what = f"{subject.capitalize()} {pause.name} of cluster {pause.cluster}"
    now = max((read_at(beat) for beat in beats), default=None)
    action = next(each for each, of in RESUMED_BY.items() if of is subject)
    why = f": {pause.reason}" if pause.reason else ""
    names = {"group": pause.name} if subject is Subject.GROUP else {"task_key": pause.name}
    asked = {
        "action": action.value,
        "to_cluster": pause.cluster,
        **({} if subject is Subject.CLUSTER else names),
    }
    return Finding(
        kind=FindingKind.PAUSED,
        cluster=pause.cluster,
        subject=f"{subject}/{pause.name}" if pause.name else "",
        status="paused",
        title=f"{what}: paused on all workers",
        detail=f"By {pause.actor}{why}. Those that start later rest, too, until it is resumed",
        age_seconds=None if now is None else max(0.0, (now - pause.since).total_seconds()),
        url=f"{reverse('control_new')}?{urlencode(asked)}",
        action="Resume",
    )


def _of_silence(beats: list[RunState], living: list[str], known: Known) -> Iterator[Finding]:
    gone = [beat for beat in beats if beat.run.cluster not in living]
    for cluster in sorted({beat.run.cluster for beat in gone}):
        ages = [age_seconds(beat) for beat in gone if beat.run.cluster == cluster]
        lag = known.lags.get(cluster)
        waits = f"{lag:,} messages wait" if lag is not None else "Its lag is unknown"
        yield Finding(
            kind=FindingKind.NO_WORKER,
            cluster=cluster,
            status="failed",
            title=f"Cluster {cluster}: no worker lives",
            detail=f"{waits}. Start one: manage.py runworker --cluster {cluster}",
            age_seconds=min(ages),
            url=f"{reverse('partitions')}?{urlencode({'cluster': cluster})}",
            action="Open partitions",
        )


def _of_lag(cluster: str, known: Known) -> Iterator[Finding]:
    slope = known.trend.lag.get(cluster)
    if slope is None or not slope.is_steady:
        return
    lag = known.lags.get(cluster)
    waiting = slope.value if lag is None else lag  # its own is up to a minute old
    first, *others = diagnose(known.figures.get(cluster, LagFigures()))
    also = "".join(f" Also: {each.sentence.lower()} ({each.evidence})." for each in others[:2])
    yield Finding(
        kind=FindingKind.LAG_GROWS,
        cluster=cluster,
        cause=first.cause,
        status="running",
        title=f"Cluster {cluster}: lag grows",
        detail=f"{first.sentence}: {first.evidence}.{also} {waiting:,.0f} messages wait, "
        f"{slope.per_second:,.3g} more each second. {first.action}.",
        age_seconds=slope.seconds,
        magnitude=waiting,
        url=f"{reverse('partitions')}?{urlencode({'cluster': cluster, 'sort': 'lag'})}",
        action="Open partitions",
    )


def _of_run(beat: RunState, known: Known) -> Iterator[Finding]:
    name, age = f"Worker {beat.run.cluster}/{beat.run.worker}", age_seconds(beat)
    if beat.state == "lost":
        yield _of_loss(name, beat, age)
    if not is_live(beat):
        return
    if age > LATE_SECONDS:
        yield _of_lateness(name, beat, age)
    if beat.waiting_for or (beat.state != "ready" and not _rests_with_cluster(beat, known)):
        by = known.paused_by.workers.get((beat.run.cluster, beat.run.worker))
        yield _of_state(name, beat, by)
    yield from _of_partitions(beat, known.starts)
    yield from _of_sinks(beat, known.starts)
    yield from _of_paused_sinks(beat, known)
    yield from _of_recorder(name, beat, known.trend)
    yield from _of_shed(name, beat, known)


def _by_whom(by: PausedBy | None) -> str:
    """Say who paused it, and why if it was said; empty where that is unknown."""
    if by is None:
        return ""
    return f", by {by.actor}: {by.reason}" if by.reason else f", by {by.actor}"


def _of_paused_partitions(beats: Sequence[RunState], known: Known) -> Iterator[Finding]:
    """One line for all partitions of a cluster that the same person paused for the same reason."""
    together: dict[tuple[str, str, str], list[tuple[PartitionBeat, PausedBy | None]]] = {}
    for beat in filter(is_live, beats):
        for row in beat.partitions:
            if row.has_pause:
                by = known.paused_by.partitions.get((beat.run.cluster, *row.place))
                who = (by.actor, by.reason) if by else ("", "")
                together.setdefault((beat.run.cluster, *who), []).append((row, by))
    for (cluster, actor, reason), rows in sorted(together.items()):
        numbers = sorted({row.partition for row, _ in rows})
        shown = ", ".join(map(str, numbers[:MOST_NAMED]))
        more = f" and {len(numbers) - MOST_NAMED} more" if len(numbers) > MOST_NAMED else ""
        lag = total(row.lag for row, _ in rows)
        waits = "How many messages wait is unknown" if lag is None else f"{lag:,} messages wait"
        ages = [by.age_seconds for _, by in rows if by is not None]
        plural = "s" if len(numbers) > 1 else ""
        yield Finding(
            kind=FindingKind.PARTITION_PAUSED,
            cluster=cluster,
            subject=f"{actor} {reason}".strip(),
            status="paused",
            title=f"Cluster {cluster}: partition{plural} {shown}{more} paused",
            detail=f"{waits}{_by_whom(rows[0][1])}",
            age_seconds=max(ages, default=None),
            url=f"{reverse('partitions')}?{urlencode({'cluster': cluster, 'state': 'paused'})}",
            action="Open partitions",
        )


def _of_paused_sinks(beat: RunState, known: Known) -> Iterator[Finding]:
    for sink in beat.sinks:
        if not sink.is_paused:
            continue
        by = known.paused_by.sinks.get((beat.run.cluster, beat.run.worker, sink.name))
        queued = "an unknown number of" if sink.queue_entries is None else f"{sink.queue_entries:,}"
        anchor_ = sink_anchor(beat.run.cluster, sink.name)
        yield Finding(
            kind=FindingKind.SINK_PAUSED,
            cluster=beat.run.cluster,
            subject=f"{beat.run.worker}/{sink.name}",
            status="paused",
            title=f"Sink {sink.name} on {beat.run.worker}: paused",
            detail=f"{queued} payloads wait{_by_whom(by)}",
            age_seconds=None if by is None else by.age_seconds,
            url=f"{reverse('sinks')}?{urlencode({'cluster': beat.run.cluster})}#{anchor_}",
            action="Resume it there",
        )


def _rests_with_cluster(beat: RunState, known: Known) -> bool:
    """Whether the pause of its cluster, a line of its own, says already why it is paused."""
    return beat.state == "paused" and any(
        pause.subject == Subject.CLUSTER and pause.cluster == beat.run.cluster
        for pause in known.pauses
    )


def _of_loss(name: str, beat: RunState, age: float) -> Finding:
    return Finding(
        kind=FindingKind.WORKER_LOST,
        cluster=beat.run.cluster,
        subject=beat.run.worker,
        status="failed",
        title=f"{name}: lost",
        detail="Its heartbeat fell silent; its partitions go to the others. Start it again.",
        age_seconds=age,
        url=_url(beat, "history"),
        action="See its end",
    )


def _of_lateness(name: str, beat: RunState, age: float) -> Finding:
    return Finding(
        kind=FindingKind.HEARTBEAT_LATE,
        cluster=beat.run.cluster,
        subject=beat.run.worker,
        status="running",
        title=f"{name}: heartbeat late",
        detail="Its figures are stale; its partitions stay its own until Kafka says otherwise.",
        age_seconds=age,
        url=_url(beat, "live"),
        action="See it live",
    )


def _of_state(name: str, beat: RunState, by: PausedBy | None) -> Finding:
    """Name a worker that does not work, or has nothing to work on."""
    is_paused = beat.state == "paused"
    idle = "Its intake is paused" if is_paused else "Not working yet or no more"
    idle += _by_whom(by)
    return Finding(
        kind=FindingKind.WORKER_PAUSED if is_paused else FindingKind.WORKER_IDLE,
        cluster=beat.run.cluster,
        subject=beat.run.worker,
        status="waiting",
        title=f"{name}: {beat.state}",
        detail=f"Waits for {beat.waiting_for}" if beat.waiting_for else idle,
        age_seconds=_age_of(beat, beat.state_since),
        url=_url(beat, "workers" if is_paused else "live"),
        action="Resume it there" if is_paused else "See it live",
    )


def _url(beat: RunState, page: str, **chosen: str) -> str:
    """Return a page narrowed down to that worker."""
    names = {"cluster": beat.run.cluster, "worker": beat.run.worker}
    return f"{reverse(page)}?{urlencode(chosen | names)}"


def _of_controller(age: float | None, is_live: bool) -> Iterator[Finding]:
    if is_live and age is not None and age <= LATE_SECONDS:
        return
    yield Finding(
        kind=FindingKind.CONTROLLER_SILENT,
        cluster="",
        status="failed",
        title="Controller: no answer",
        detail="Exports, replays and retention wait for it. Start one: manage.py runcontroller",
        age_seconds=age,
        url=f"{reverse('debug')}?{urlencode({'cluster': CONTROL_CLUSTER})}",
        action="See its runs",
    )


def _of_partitions(beat: RunState, starts: Mapping[Start, datetime]) -> Iterator[Finding]:
    for row in beat.partitions:
        name, at = f"Partition {row.partition} of {row.topic}", place(row)
        for cause, detail in row.parked.items():
            is_flood = cause == ParkingCause.DEAD_LETTER_FLOOD
            yield Finding(
                kind=FindingKind.DEAD_LETTER_FLOOD if is_flood else FindingKind.PARKED,
                cluster=beat.run.cluster,
                subject=f"{at} {cause}",
                status="failed",
                title=f"{name}: parked, {'dead-letter flood' if is_flood else cause}",
                detail=detail,
                age_seconds=_age_of(beat, starts.get((beat.run_id, "parked", f"{at} {cause}"))),
                url=_letters_url(beat) if is_flood else _partition_url(beat, row),
                action="Open dead letters" if is_flood else "Open partition",
            )
        if row.state == PartitionState.STALLED:
            waits = "How many messages wait is unknown"
            if row.lag is not None:
                waits = f"{row.lag:,} messages wait"
            yield Finding(
                kind=FindingKind.STALLED,
                cluster=beat.run.cluster,
                subject=at,
                magnitude=row.lag,
                status="running",
                title=f"{name}: stalled",
                detail=f"{waits}; {beat.run.worker} gets none of them.",
                age_seconds=_age_of(beat, starts.get((beat.run_id, "stalled", at))),
                url=_partition_url(beat, row),
                action="Open partition",
            )
    yield from _of_blockers(beat)


def _age_of(beat: RunState, since: datetime | None) -> float | None:
    return None if since is None else max(0.0, (read_at(beat) - since).total_seconds())


def _letters_url(beat: RunState) -> str:
    return f"{reverse('dead_letters')}?{urlencode({'cluster': beat.run.cluster})}"


def _of_blockers(beat: RunState) -> Iterator[Finding]:
    """One line a worker: its oldest blocker, and how many more there are."""
    late = age_seconds(beat)
    blocked = [
        (row.blocker.age_seconds + late, row.blocker, row)
        for row in beat.partitions
        if row.blocker is not None and row.blocker.age_seconds is not None
    ]
    old = [each for each in blocked if each[0] >= BLOCKED_SECONDS]
    if not old:
        return
    seconds, blocker, row = max(old, key=lambda each: each[0])
    what = blocker.task_id or f"{row.partition}:{blocker.offset}"
    count = row.pending
    pending = "an unknown number of messages" if count is None else f"{count:,} messages"
    more = f"; {len(old) - 1} more of its partitions are blocked too" if len(old) > 1 else ""
    block = block_by(beat, blocker)
    yield Finding(
        kind=FindingKind.COMMIT_BLOCKED,
        cluster=beat.run.cluster,
        subject=beat.run.worker,
        cause=block.cause,
        magnitude=seconds,
        status="running",
        title=f"Partition {row.partition} of {row.topic}: {block.title} {what}",
        detail=f"{block.sentence} On {beat.run.worker}, {pending} have no fate yet{more}.",
        age_seconds=seconds,
        url=_task_url(beat, blocker.task_id) if blocker.task_id else _partition_url(beat, row),
        action="Open task" if blocker.task_id else "Open partition",
    )


def _task_url(beat: RunState, task_id: str) -> str:
    return reverse("task", kwargs={"cluster": beat.run.cluster, "task_id": task_id})


def _partition_url(beat: RunState, row: PartitionBeat) -> str:
    place = {"cluster": beat.run.cluster, "topic": row.topic, "number": row.partition}
    return reverse("partition", kwargs=place)


def _of_sinks(beat: RunState, starts: Mapping[Start, datetime]) -> Iterator[Finding]:
    for sink in beat.sinks:
        if sink.breaker not in BROKEN:
            continue
        probe = sink.next_probe_seconds
        detail = f"{sink.last_error or 'It failed too often in a row'}."
        detail += f" Next probe in {probe:.0f} s." if probe is not None else ""
        title = f"Sink {sink.name} ({sink.kind}) on {beat.run.worker}: breaker open"
        anchor = sink_anchor(beat.run.cluster, sink.name)
        yield Finding(
            kind=FindingKind.BREAKER_OPEN,
            cluster=beat.run.cluster,
            subject=f"{beat.run.worker}/{sink.name}",
            status="failed",
            title=title,
            detail=detail,
            age_seconds=_age_of(beat, starts.get((beat.run_id, "breaker_opened", sink.name))),
            url=f"{reverse('sinks')}?{urlencode({'cluster': beat.run.cluster})}#{anchor}",
            action="Open sink",
        )


def _of_recorder(name: str, beat: RunState, trend: Trend) -> Iterator[Finding]:
    spooled = beat.recorder.spooled_bytes or 0
    slope = trend.spool.get(beat.run_id)
    grows = slope is not None and slope.is_steady
    if spooled > SPOOL_LIMIT_BYTES or grows:
        pace = f", {slope.per_second:,.0f} more each second" if slope and grows else ""
        yield Finding(
            kind=FindingKind.HISTORY_SPOOLED,
            cluster=beat.run.cluster,
            subject=beat.run.worker,
            magnitude=spooled,
            status="retrying",
            title=f"{name}: history is spooled",
            detail=f"{spooled:,} bytes wait on its disk{pace}: Postgres is slow or away.",
            # Without growth only the time since it was empty says when it began.
            age_seconds=slope.seconds if slope and (grows or not slope.lowest) else None,
            url=f"{reverse('workers')}?{urlencode({'cluster': beat.run.cluster})}",
            action="Open workers",
        )


def _of_shed(name: str, beat: RunState, known: Known) -> Iterator[Finding]:
    """Events that were shed in the last ten minutes, or nobody knows when."""
    shed = beat.recorder.shed or 0
    age = _age_of(beat, _shed_at(beat, known))
    is_past = age > RECENT_SECONDS if age is not None else beat.run_id in known.trend.shed
    if not shed or is_past:
        return
    yield Finding(
        kind=FindingKind.HISTORY_GAPS,
        cluster=beat.run.cluster,
        subject=beat.run.worker,
        magnitude=shed,
        status="retrying",
        title=f"{name}: history has gaps",
        detail=f"{shed:,} events could not be kept; the work itself is not touched.",
        age_seconds=age,
        url=_url(beat, "history", kind="recorder_shed"),
        action="See which",
    )


def _shed_at(beat: RunState, known: Known) -> datetime | None:
    """Return when events were last shed, by record or count; None: neither tells."""
    told = known.starts.get((beat.run_id, "recorder_shed", ""))
    times = [] if told is None else [told]
    rise = known.trend.shed.get(beat.run_id)
    if rise is not None and (rose := utc_at(rise.at)) is not None:
        times.append(rose)
    if rise is not None and (beat.recorder.shed or 0) > rise.count:
        times.append(beat.beat_at)
    return max(times, default=None)


def place(row: PartitionBeat) -> str:
    """Return what a stall is told of; a parking's is followed by its cause."""
    return f"{row.topic}/{row.partition}"


def starts(rows: Iterable[RunState]) -> dict[Start, datetime]:
    """Return when each parking, stall and open breaker of the live runs began, and when one last
    shed events, where it is recorded."""
    live = [beat for beat in rows if is_live(beat)]
    odd = {beat.run_id: [row.partition for row in beat.partitions if _is_odd(row)] for beat in live}
    numbers = {number for each in odd.values() for number in each}
    broken = [b for b in live if any(sink.breaker in BROKEN for sink in b.sinks)]
    found: dict[Start, datetime] = {}
    if numbers:
        runs = [run for run, each in odd.items() if each]
        events = Event.objects.filter(run__in=runs, partition__in=numbers)
        told = events.filter(kind__in=("parked", "stalled")).order_by("-ts", "-id")
        columns = ("run", "kind", "topic", "partition", "data__cause", "ts")
        for run, kind, topic, number, cause, at in told.values_list(*columns)[:MOST_EVENTS]:
            what = f"{topic}/{number} {cause}" if kind == "parked" else f"{topic}/{number}"
            found.setdefault((run, kind, what), at)
    if broken:
        events = Event.objects.filter(run__in=[b.run_id for b in broken], kind="breaker_opened")
        latest_first = events.order_by("-ts", "-id").values_list("run", "sink", "ts")
        for run, sink, at in latest_first[:MOST_EVENTS]:
            found.setdefault((run, "breaker_opened", str(sink)), at)
    if shed := [b.run_id for b in live if b.recorder.shed]:
        events = Event.objects.filter(run__in=shed, kind="recorder_shed").order_by("-ts", "-id")
        for run, at in events.values_list("run", "ts")[:MOST_EVENTS]:
            found.setdefault((run, "recorder_shed", ""), at)
    return found


def _is_odd(row: PartitionBeat) -> bool:
    return bool(row.parked) or row.state == PartitionState.STALLED
