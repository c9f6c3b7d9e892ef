"""Reruns that people asked for: shown in numbers before, and done by the controller.

A job chooses its messages once, when its turn comes, and keeps a row of each. A row is marked
before its record is sent and confirmed after the delivery report, so a job whose controller died
goes on where it was. What was sent and not confirmed is sent once more: it bears the identity of
its message, so once-only sinks store it once. With a new identity nothing is sent twice: such
a row stays ``sending``, and a person looks.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from django.conf import settings
from django.db import transaction
from django.db.models import Count
from django.db.models.functions import Now
from django.utils import timezone

from domain.events import MessageRerun, Tell
from domain.message import Record
from domain.paging import BadFilter
from sinks.base import SinkError, TransientError
from sinks.letter_transports import no_road
from sinks.models import Replay
from sinks.replay import Sent, claim_messages, confirm, pacer, release
from workers.control import checked_reason
from workers.control_plane.job_queue import Note
from workers.control_plane.rerun.filters import Filters, filters_of
from workers.control_plane.rerun.matching import Chosen, Match, at_places, choose, still_failed
from workers.control_plane.rerun.outcomes import Place, in_steps
from workers.control_plane.rerun.source import SourceTopic, SourceTopics, rerun_of
from workers.models import RerunJob, RerunMessage, RerunMessageState, RerunState

MIN_RATE, MAX_RATE = 0.1, 1000.0
DEFAULT_RATE = 50.0
MAX_WAITING = 20
MOST_AT_ONCE = 100
STORED_AT_ONCE = 1000
MAX_DETAIL = 500
FINAL = (RerunState.DONE, RerunState.FAILED, RerunState.CANCELLED)
UNKNOWN = "nobody knows whether it was stored"
NOT_SENT = (RerunMessageState.GONE, RerunMessageState.REFUSED, RerunMessageState.LEFT_OUT)


class BadRerun(ValueError):
    """A rerun that cannot be; the text names the field, what was expected and what came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Choices:
    """How messages are rerun. ``rate`` is messages a second."""

    only_failed_tasks: bool = True
    is_new_identity: bool = False
    rate: float = DEFAULT_RATE


def source_topic(cluster: str) -> str:
    """Return the source topic of a cluster by this site's configuration. Raises BadRerun."""
    if reason := no_road(cluster):
        raise BadRerun(reason.replace("a replay needs", "a rerun needs"))
    clusters: Any = settings.DRAKKAR.clusters if settings.DRAKKAR else {}
    topic: str = clusters[cluster].kafka.topic
    return topic


def preview(filters: Filters) -> Chosen:
    """Return what a rerun would be for as things are now; nothing is sent. Raises BadRerun."""
    return choose(filters, source_topic(filters.cluster))


def ask_for(
    filters: Filters, choices: Choices, *, actor: str, key: str, reason: str = ""
) -> RerunJob:
    """Queue a rerun; with a ``key`` used before, the rerun of that key. Raises BadRerun, also for
    a key of another rerun.

    Without an end of the window it ends now: what fails later is not meant.
    """
    if not MIN_RATE <= choices.rate <= MAX_RATE:
        raise BadRerun(f"rate: expected {MIN_RATE:g} to {MAX_RATE:g}, got {choices.rate:g}")
    source_topic(filters.cluster)
    try:
        told = checked_reason(reason)
    except ValueError as exc:
        raise BadRerun(str(exc)) from None
    asked = {
        "cluster": filters.cluster,
        "only_failed_tasks": choices.only_failed_tasks and not choices.is_new_identity,
        "is_new_identity": choices.is_new_identity,
        "rate": choices.rate,
        "actor": actor,
        "reason": told,
    }
    known = RerunJob.objects.filter(key=key).first()
    if known is None:
        if RerunJob.objects.exclude(state__in=FINAL).count() >= MAX_WAITING:
            raise BadRerun(f"{MAX_WAITING} reruns wait already: try again when some are done")
        pinned = filters
        if filters.place is None and filters.until is None:
            pinned = replace(filters, until=timezone.now())
        known, _ = RerunJob.objects.get_or_create(
            key=key,
            defaults={**asked, "filters": pinned.texts(), "filter_text": str(filters)},
        )
    for name, value in {**asked, "filter_text": str(filters)}.items():
        if getattr(known, name) != value:
            raise BadRerun(f"key: it was sent before, with another {name}: send it anew")
    return known


def ask_to_cancel(job: RerunJob, actor: str) -> None:
    """End a rerun: one that waits at once, one that runs after what it is sending. What was sent
    stays sent; an ended one stays as it is."""
    RerunJob.objects.filter(pk=job.pk, state=RerunState.QUEUED).update(
        state=RerunState.CANCELLED, finished_at=Now(), cancelled_by=actor, is_cancel_asked=True
    )
    RerunJob.objects.filter(pk=job.pk, state=RerunState.RUNNING).update(
        is_cancel_asked=True, cancelled_by=actor
    )
    cancelled = RerunJob.objects.filter(pk=job.pk, state=RerunState.CANCELLED)
    if cancelled.exists():
        _leave_out_waiting(job, f"cancelled by {actor}")


def filters_of_job(job: RerunJob) -> Filters:
    """Return the messages a rerun is for. Raises BadFilter for those of another release."""
    texts: dict[str, str] = job.filters
    return filters_of(texts, job.cluster, job.created_at)


def counts_of(job: RerunJob) -> dict[str, int]:
    """Return what became of a rerun's messages, by state; of those that were sent ``ended_well``,
    ``failed_again`` and ``on_their_way``."""
    rows = job.messages.values_list("state", "has_failed").annotate(count=Count("id"))
    found: Counter[str] = Counter()
    names = {False: "ended_well", True: "failed_again", None: "on_their_way"}
    for state, has_failed, count in rows.order_by():
        found[state] += count
        if state == RerunMessageState.SENT:
            found[names[has_failed]] += count
    return dict(found)


def run_job(job: RerunJob, sources: SourceTopics, tell: Tell, note: Note) -> Mapping[str, Any]:
    """Do the rerun and return how it ended, as columns of its row.

    Raises DatabaseError and what ``note`` raises; that writes columns on the way.
    """
    try:
        if job.cluster not in sources:
            known = ", ".join(sources) or "none"
            raise BadRerun(f"cluster: the controller knows {known}, not {job.cluster}")
        source = sources[job.cluster]()
        source.open()
        return _Sending(job, source, tell, note).run()
    except (SinkError, BadRerun, BadFilter) as exc:
        _leave_out_waiting(job, "the rerun ended before")
        return {"state": RerunState.FAILED, "error": str(exc)[:MAX_DETAIL]}


def _leave_out_waiting(job: RerunJob, why: str) -> None:
    waiting = job.messages.filter(state=RerunMessageState.WAITING)
    waiting.update(state=RerunMessageState.LEFT_OUT, detail=why[:MAX_DETAIL])


class _Sending:
    """One run of a rerun by its runner."""

    def __init__(self, job: RerunJob, source: SourceTopic, tell: Tell, note: Note) -> None:
        self._job = job
        self._source = source
        self._tell = tell
        self._note = note
        self._filters = filters_of_job(job)
        self._pace = pacer(job.rate, time.monotonic, time.sleep)

    def run(self) -> Mapping[str, Any]:
        """Send what waits, in steps. Raises SinkError, DatabaseError and what ``note`` raises."""
        job = self._job
        if job.messages_total is None:
            self._choose()
        else:
            self._go_on()
        at_once = max(1, min(MOST_AT_ONCE, int(job.rate / 2)))
        waiting = job.messages.filter(state=RerunMessageState.WAITING).order_by("id")
        while rows := list(waiting[:at_once]):
            if RerunJob.objects.filter(pk=job.pk, is_cancel_asked=True).exists():
                _leave_out_waiting(job, "cancelled")
                return {"state": RerunState.CANCELLED}
            for _ in rows:
                self._pace()
            self._send(rows)
            job.messages_done += len(rows)
            self._note(messages_done=job.messages_done)
        return self._end()

    def _choose(self) -> None:
        """Keep a row of each message, all or none."""
        job, chosen = self._job, choose(self._filters, self._source.topic)
        with transaction.atomic():
            for part in in_steps(chosen.matches, STORED_AT_ONCE):
                RerunMessage.objects.bulk_create(self._row(match) for match in part)
            self._note(messages_total=len(chosen.matches))
        job.messages_total = len(chosen.matches)

    def _row(self, match: Match) -> RerunMessage:
        tasks = match.tasks if self._job.only_failed_tasks else ()
        return RerunMessage(
            job=self._job,
            cluster=self._job.cluster,
            topic=match.topic,
            partition=match.place[0],
            offset=match.place[1],
            timestamp=match.timestamp,
            tasks=",".join(map(str, tasks)),
            failure=match.failure[:16],
        )

    def _go_on(self) -> None:
        """Take up what a runner left that died: what it may have sent is sent again, unless it
        would be another message."""
        job = self._job
        if not job.is_new_identity:
            doubtful = list(job.messages.filter(state=RerunMessageState.SENDING))
            for part in in_steps([(row.partition, row.offset) for row in doubtful], MOST_AT_ONCE):
                self._release_letters(part, "its sender died; sent again")
            job.messages.filter(state=RerunMessageState.SENDING).update(
                state=RerunMessageState.WAITING
            )
        job.messages_done = job.messages.exclude(state=RerunMessageState.WAITING).count()

    def _release_letters(self, places: Sequence[Place], why: str) -> None:
        replays = Replay.objects.filter(
            at_places(places, "letter__"), letter__cluster=self._job.cluster,
            letter__topic=self._source.topic, confirmed_at=None, error="", actor=self._job.actor,
        )  # fmt: skip
        release(list(replays.values_list("id", flat=True)), why)

    def _send(self, rows: Sequence[RerunMessage]) -> None:
        rows = self._still_meant(rows)
        if not rows:
            return
        records = self._source.read([_place(row) for row in rows])
        ready = [
            (row, record) for row in rows if (record := self._usable(row, records)) is not None
        ]
        if ready:
            self._store(ready)

    def _still_meant(self, rows: Sequence[RerunMessage]) -> Sequence[RerunMessage]:
        """Leave out what others sent again since it was chosen, or what ended well."""
        fresh = [row for row in rows if row.sent_at is None]
        if self._filters.place is not None or not fresh:
            return rows
        known = still_failed(
            self._filters, self._source.topic, [_place(row) for row in fresh], self._job.pk
        )
        for row in fresh:
            if _place(row) not in known:
                _end(row, RerunMessageState.LEFT_OUT, "it ended well, or was sent again, since")
        return [row for row in rows if row.state == RerunMessageState.WAITING]

    def _usable(self, row: RerunMessage, records: Mapping[Place, Record | None]) -> Record | None:
        record, key = records[_place(row)], self._filters.key
        if record is None:
            _end(row, RerunMessageState.GONE, "the topic does not hold it any more")
        elif row.timestamp not in (None, record.timestamp):
            _end(row, RerunMessageState.GONE, "the topic holds another record at that place")
        elif key and (record.key or b"") != key.encode():
            _end(row, RerunMessageState.LEFT_OUT, "it has another key")
        else:
            return record
        return None

    def _store(self, ready: Sequence[tuple[RerunMessage, Record]]) -> None:
        """Mark, claim the letters, send, and confirm each. Raises TransientError."""
        job = self._job
        rows = [row for row, _ in ready]
        with transaction.atomic():
            RerunMessage.objects.filter(pk__in=[row.pk for row in rows]).update(
                state=RerunMessageState.SENDING, sent_at=Now()
            )
            letters = claim_messages(
                job.cluster, self._source.topic, [_place(row) for row in rows], job.actor
            )
        made = [
            (
                row.partition,
                rerun_of(record, job.cluster, _numbers(row), is_new_identity=job.is_new_identity),
            )
            for row, record in ready
        ]
        reports: Sequence[Sent | SinkError]
        try:
            reports = self._source.send(made)
        except TransientError as exc:
            reports = [exc] * len(made)
        for row, report in zip(rows, reports, strict=True):
            replays = letters.get(_place(row), ())
            if isinstance(report, Sent):
                confirm(replays, report)
                self._confirm(row, report)
            elif not isinstance(report, TransientError):
                release(replays, str(report))
                _end(row, RerunMessageState.REFUSED, str(report))
            elif not job.is_new_identity:
                # To be found again: stored twice it is one message still.
                release(replays, f"{UNKNOWN}: {report}")
                _end(row, RerunMessageState.REFUSED, f"{UNKNOWN}: {report}")
        doubts = [report for report in reports if isinstance(report, TransientError)]
        if doubts:
            raise doubts[0]

    def _confirm(self, row: RerunMessage, sent: Sent) -> None:
        row.state = RerunMessageState.SENT
        row.target_topic = sent.topic
        row.target_partition, row.target_offset = sent.partition, sent.offset
        row.save(update_fields=["state", "target_topic", "target_partition", "target_offset"])
        self._tell(
            MessageRerun(
                at=timezone.now().timestamp(),
                topic=row.topic,
                partition=row.partition,
                offset=row.offset,
                target=f"{sent.topic} {sent.partition}:{sent.offset}",
                actor=self._job.actor,
                tasks=_numbers(row) or None,
                is_new_identity=self._job.is_new_identity,
            )
        )

    def _end(self) -> Mapping[str, Any]:
        refused = self._job.messages.filter(state=RerunMessageState.REFUSED).first()
        if refused is not None:
            error = f"{refused.partition}:{refused.offset} was refused: {refused.detail}"
            return {"state": RerunState.FAILED, "error": error[:MAX_DETAIL]}
        return {"state": RerunState.DONE}


def _end(row: RerunMessage, state: RerunMessageState, detail: str) -> None:
    row.state, row.detail = state, detail[:MAX_DETAIL]
    row.save(update_fields=["state", "detail"])


def _place(row: RerunMessage) -> Place:
    return row.partition, row.offset


def _numbers(row: RerunMessage) -> tuple[int, ...]:
    return tuple(int(number) for number in row.tasks.split(",") if number)
