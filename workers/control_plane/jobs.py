"""Jobs that the controller does at intervals; a later job is one more entry of ``JOBS``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta

from django.db.models import ExpressionWrapper, F, FloatField, Q
from django.db.models.functions import Extract, Now
from django.utils import timezone

from domain.events import Tell, WorkerLost
from domain.unknown import total
from recorder import export_jobs
from recorder.audit_retention import prune_audit
from recorder.databases import is_apart
from recorder.export_jobs import ExportLimits, expire
from recorder.export_sweep import sweep
from recorder.failures.retention import prune_failures
from recorder.models import ExportJob, RunState, RunStateName, StoredRun
from recorder.partitions import create_ahead, default_rows
from recorder.retention import Retention, prune
from recorder.rollups.retention import RollupRetention, prune_rollups
from recorder.writer import follow
from sinks import letter_jobs
from sinks.letter_jobs import ReplayTransports
from sinks.models import LetterJob
from workers.broker.base import BrokerUnavailable
from workers.broker.kafka_lag import group_lag
from workers.config import KafkaConfig
from workers.control_plane import leftovers
from workers.control_plane.job_queue import JobQueue
from workers.control_plane.live.tail_reader import forget_tails
from workers.control_plane.notify.episodes import observe
from workers.control_plane.notify.outbox import send_waiting
from workers.control_plane.notify.receivers import Notifying
from workers.control_plane.past_runs import ENDED_STATES
from workers.control_plane.queries import beats, is_live, partitions_of
from workers.control_plane.requests import expire_unanswered, fail_abandoned
from workers.control_plane.rerun import jobs as rerun_jobs
from workers.control_plane.rerun.source import SourceTopics
from workers.control_plane.rerun.watch import note_outcomes
from workers.control_plane.run_retention import RunRetention, prune_runs
from workers.control_plane.situation import situation
from workers.models import RerunJob
from workers.runtime.heartbeat import BEAT_SECONDS
from workers.runtime.metric_history import forget_old

SILENT_BEATS = REACHED_BEATS = 3
EXPORTS = JobQueue(ExportJob, done="events_done")
LETTERS = JobQueue(LetterJob, done="letters_done")
RERUNS = JobQueue(RerunJob, done="messages_done")

logger = logging.getLogger("drakkar.controller")


@dataclass(frozen=True, slots=True, kw_only=True)
class Upkeep:
    """Rules of the jobs, from the configuration."""

    retention: Retention
    rollups: RollupRetention
    audit_days: int
    request_days: int
    exports: ExportLimits
    kafka: Mapping[str, KafkaConfig]
    retry_topics: Mapping[str, str] = field(default_factory=dict)
    """Of the clusters that have one."""
    transports: ReplayTransports
    sources: SourceTopics
    notifying: Notifying = field(default_factory=Notifying)


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """One turn of the controller. ``reached_seconds``: how long it has reached Postgres.

    For the metrics, ``lags`` holds each cluster's lag, ``counts`` what jobs counted; None is
    unknown.
    """

    tell: Tell
    wall: float
    reached_seconds: float
    upkeep: Upkeep
    lags: dict[str, int | None]
    counts: dict[str, int | None] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """Work at intervals. What ``run`` raises is told, counted and tried again later.

    A ``is_long`` job runs in a thread of its own, with its own connection, one at a time.
    """

    name: str
    interval_seconds: float
    run: Callable[[Turn], None]
    is_long: bool = False


def make_partitions(turn: Turn) -> None:
    """Partitions ahead; rows that fell beside them move into theirs."""
    create_ahead(timezone.now(), max_bytes=turn.upkeep.retention.max_bytes)


def count_strays(turn: Turn) -> None:
    """Rows that have no day of theirs, for the metrics and the alarm."""
    turn.counts["default_rows"] = None
    turn.counts["default_rows"] = default_rows()


def follow_history(_turn: Turn) -> None:
    """Have control know how far runs are stored in a history that is apart: a worker that died
    between the two did not say."""
    if not is_apart():
        return
    known = dict(RunState.objects.values_list("run_id", "run__recorded_seq").filter(recent_run()))
    behind = StoredRun.objects.filter(id__in=list(known)).values_list("id", "recorded_seq")
    for run, seq in behind:
        if seq > known[run]:
            follow(run, seq)


def recent_run() -> Q:
    """Runs that live, or ended within the hour: what another one adopts of them comes by then."""
    return ~Q(state__in=ENDED_STATES) | Q(beat_at__gt=Now() - timedelta(hours=1))


def judge_lost(turn: Turn) -> None:
    """Runs silent for three beats by the database's clock are lost; their next beat takes it back.

    Only a judge that itself reached Postgres for three beats may judge: after an outage every run
    looks silent until it could beat again.
    """
    if turn.reached_seconds < REACHED_BEATS * BEAT_SECONDS:
        return
    silent = RunState.objects.exclude(state__in=ENDED_STATES).filter(
        beat_at__lt=Now() - timedelta(seconds=SILENT_BEATS * BEAT_SECONDS)
    )
    age = ExpressionWrapper(Extract(Now() - F("beat_at"), "epoch"), output_field=FloatField())
    rows = list(silent.annotate(silent_seconds=age).select_related("run"))
    for beat in rows:
        judged = silent.filter(run_id=beat.run_id).update(
            state=RunStateName.LOST, ended_at=F("beat_at")
        )
        if judged:
            turn.tell(
                WorkerLost(
                    at=turn.wall,
                    lost_run=str(beat.run_id),
                    cluster=beat.run.cluster,
                    worker=beat.run.worker,
                    silent_seconds=float(beat.silent_seconds),
                )
            )


def end_stale_requests(turn: Turn) -> None:
    """Requests nobody took, or whose worker ended, get their end."""
    expire_unanswered()
    fail_abandoned(RunState.objects.filter(state__in=ENDED_STATES).values("run_id"))


def prune_history(turn: Turn) -> None:
    """Days past their time or bytes go, then runs without events, up to 2,000 a turn; a lock that
    cannot be had is tried again at the next."""
    count = prune_failures(turn.upkeep.retention.days, timezone.now())
    if count:
        logger.info("retention: deleted %d rows of failure groups", count)
    for part in prune(turn.upkeep.retention, timezone.now()):
        logger.info("retention: dropped %s (%d bytes, %s)", part.span, part.size_bytes, part.reason)
    days = RunRetention(days=turn.upkeep.retention.days, changed_days=turn.upkeep.rollups.hour_days)
    if runs := prune_runs(days, timezone.now()):
        logger.info("retention: deleted %d runs whose events are gone", runs)


def prune_rollup_rows(turn: Turn) -> None:
    """Rollups and gauges past their days go, up to 50,000 of each table and span a turn."""
    count = prune_rollups(turn.upkeep.rollups, timezone.now())
    if count:
        logger.info("retention: deleted %d rollups (rollup_minute_days, rollup_retention_days)",
                    count)  # fmt: skip


def prune_audit_entries(turn: Turn) -> None:
    """Audit entries past their time go, up to 20,000 a turn."""
    count = prune_audit(turn.upkeep.audit_days, timezone.now())
    if count:
        logger.info("retention: deleted %d audit entries (audit_retention_days)", count)


def prune_leftovers(turn: Turn) -> None:
    """Sessions past their time; requests, jobs and notices past their days; up to 20,000 of each a
    turn."""
    days = turn.upkeep.request_days, turn.upkeep.retention.days
    receivers = [receiver.name for receiver in turn.upkeep.notifying.receivers]
    for name, count in leftovers.prune(*days, receivers, timezone.now()).items():
        if count:
            logger.info("retention: deleted %d %s", count, name)


def observe_findings(turn: Turn) -> None:
    """What is wrong now, and whom to tell that it began, grew or ended.

    As for lost runs, only who reached Postgres for three beats judges: after an outage everything
    looks silent.
    """
    if turn.reached_seconds >= REACHED_BEATS * BEAT_SECONDS:
        observe(situation().findings, turn.upkeep.notifying)


def send_notices(turn: Turn) -> None:
    """Notices that wait, in one message to each receiver."""
    send_waiting(turn.upkeep.notifying)


def sweep_exports(turn: Turn) -> None:
    """Files of exports that no job will finish or give out."""
    for name in sweep(turn.upkeep.exports):
        logger.info("exports: removed %s, which no job needs", name)


def forget_tracks(turn: Turn) -> None:
    """Figures of the last ten minutes that are an hour old."""
    forget_old()


def sweep_tails(turn: Turn) -> None:
    """Live tails that nobody reads any more, and those of dead runs."""
    forget_tails()


def make_exports(turn: Turn) -> None:
    """Exports that people asked for; those past their time go."""
    expire(turn.upkeep.exports)
    run_exports(turn.upkeep.exports)


def do_letter_jobs(turn: Turn) -> None:
    """Replays and resolutions that people asked for."""
    run_letter_jobs(turn.upkeep.transports, turn.tell)


def run_exports(limits: ExportLimits) -> int:
    """Make the exports that wait; return how many. Raises DatabaseError."""
    return EXPORTS.run_waiting(lambda job, note: export_jobs.run_job(job, limits, note))


def run_letter_jobs(transports: ReplayTransports, tell: Tell) -> int:
    """Do the jobs on letters that wait; return how many. Raises DatabaseError."""
    return LETTERS.run_waiting(lambda job, note: letter_jobs.run_job(job, transports, tell, note))


def do_reruns(turn: Turn) -> None:
    """Reruns that people asked for, and how those before ended."""
    run_reruns(turn.upkeep.sources, turn.tell)
    note_outcomes()


def run_reruns(sources: SourceTopics, tell: Tell) -> int:
    """Do the reruns that wait; return how many. Raises DatabaseError."""
    return RERUNS.run_waiting(lambda job, note: rerun_jobs.run_job(job, sources, tell, note))


def measure_lags(turn: Turn) -> None:
    """Each cluster's lag: as its live workers say, else as Kafka does."""
    live = [beat for beat in beats() if is_live(beat)]
    for cluster, kafka in turn.upkeep.kafka.items():
        rows = partitions_of(beat for beat in live if beat.run.cluster == cluster)
        if rows:
            turn.lags[cluster] = total(row.beat.lag for row in rows)
            continue
        try:
            turn.lags[cluster] = group_lag(kafka, turn.upkeep.retry_topics.get(cluster))
        except BrokerUnavailable as exc:
            turn.lags[cluster] = None
            logger.debug("lag of %s is unknown: %s", cluster, exc)


JOBS = (
    Job(name="partitions", interval_seconds=300.0, run=make_partitions, is_long=True),
    Job(name="lost", interval_seconds=1.0, run=judge_lost),
    Job(name="requests", interval_seconds=5.0, run=end_stale_requests),
    Job(name="strays", interval_seconds=15.0, run=count_strays, is_long=True),
    Job(name="history", interval_seconds=60.0, run=follow_history, is_long=True),
    Job(name="retention", interval_seconds=60.0, run=prune_history, is_long=True),
    Job(name="rollups", interval_seconds=60.0, run=prune_rollup_rows, is_long=True),
    Job(name="audit", interval_seconds=60.0, run=prune_audit_entries),
    Job(name="leftovers", interval_seconds=60.0, run=prune_leftovers, is_long=True),
    Job(name="export_files", interval_seconds=300.0, run=sweep_exports, is_long=True),
    Job(name="tracks", interval_seconds=300.0, run=forget_tracks),
    Job(name="tails", interval_seconds=60.0, run=sweep_tails),
    Job(name="exports", interval_seconds=1.0, run=make_exports, is_long=True),
    Job(name="letters", interval_seconds=1.0, run=do_letter_jobs, is_long=True),
    Job(name="reruns", interval_seconds=1.0, run=do_reruns, is_long=True),
    Job(name="findings", interval_seconds=5.0, run=observe_findings, is_long=True),
    Job(name="notices", interval_seconds=2.0, run=send_notices, is_long=True),
    Job(name="lags", interval_seconds=15.0, run=measure_lags, is_long=True),
)
