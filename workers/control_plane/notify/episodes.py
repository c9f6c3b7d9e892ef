"""Episodes of findings in Postgres: each look at what is wrong moves them on, and queues what is to
be told in the same transaction."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta

from django.db import connection, transaction
from django.db.models import Count

from domain.episode import Change, Episode, Quiet, Sight, step
from domain.finding import Severity
from workers.control_plane.findings import Finding
from workers.control_plane.notify.receivers import Notifying, Receiver
from workers.models import FindingEpisode, FindingMark, MarkKind, Notice, NoticeState

LOCK = 0x6472616B6E6F7465
MOST_QUEUED = 1000
"""Notices that wait for one receiver; what comes beyond is dropped, and told so on the page."""
QUIET = {MarkKind.ACKNOWLEDGED: Quiet.GROWTH, MarkKind.SILENCED: Quiet.ALL}


def observe(found: Iterable[Finding], notifying: Notifying, now: datetime | None = None) -> None:
    """Move each episode on by what is seen at ``now`` (default: Postgres' clock), and queue what
    receivers are told of it. Of two controllers one at a time does. Raises DatabaseError."""
    seen = {finding.key: finding for finding in reversed(list(found))}
    with transaction.atomic():
        with connection.cursor() as cursor:
            cursor.execute("SELECT pg_advisory_xact_lock(%s), now()", [LOCK])
            at: datetime = now or cursor.fetchone()[1]
        _forget_marks(seen, at, notifying)
        marks = dict(FindingMark.objects.values_list("key", "kind"))
        known = {row.key: row for row in FindingEpisode.objects.filter(ended_at=None)}
        told: list[tuple[FindingEpisode, Change]] = []
        for key in {**known, **seen}:
            quiet = seen[key].quiet if key in seen else Quiet.NOTHING
            if key in marks:
                quiet = QUIET[MarkKind(marks[key])]
            row, change = _moved(known.get(key), seen.get(key), at, notifying, quiet)
            if change is not None and row is not None:
                told.append((row, change))
        _queue(told, notifying.receivers)


def _forget_marks(seen: Mapping[str, Finding], at: datetime, notifying: Notifying) -> None:
    FindingMark.objects.filter(until__lte=at).delete()
    FindingMark.objects.filter(key__in=seen).update(seen_at=at)
    gone = at - timedelta(seconds=notifying.rules.gone_seconds)
    FindingMark.objects.filter(kind=MarkKind.ACKNOWLEDGED, seen_at__lt=gone).delete()


def _moved(
    row: FindingEpisode | None,
    finding: Finding | None,
    at: datetime,
    notifying: Notifying,
    quiet: Quiet,
) -> tuple[FindingEpisode | None, Change | None]:
    """Store an episode's next state; return its row, and what is to be told of it."""
    sight = None
    if finding is not None:
        sight = Sight(severity=finding.severity, magnitude=finding.magnitude)
    before = None if row is None else _state_of(row)
    after, change = step(before, sight, at.timestamp(), notifying.rules, quiet)
    if row is None:
        row = FindingEpisode(began_at=at)
    if after is None:
        if not row.told_severity:
            row.delete()
            return None, change
        row.ended_at = at
    else:
        row.gone_at = None if after.gone_at is None else _moment(after.gone_at)
        row.told_severity = after.told.severity if after.told else ""
        row.told_magnitude = after.told.magnitude if after.told else None
    if finding is not None:
        row.key, row.kind, row.cluster = finding.key, finding.kind, finding.cluster
        row.severity, row.magnitude = finding.severity, finding.magnitude
        row.title, row.detail = finding.title, finding.detail
        row.path, row.anchor, row.seen_at = finding.url, finding.anchor, at
    row.save()
    return row, change


def _state_of(row: FindingEpisode) -> Episode:
    told = None
    if row.told_severity:
        told = Sight(severity=Severity(row.told_severity), magnitude=row.told_magnitude)
    return Episode(
        began_at=row.began_at.timestamp(),
        told=told,
        gone_at=None if row.gone_at is None else row.gone_at.timestamp(),
    )


def _moment(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _queue(told: Sequence[tuple[FindingEpisode, Change]], receivers: Iterable[Receiver]) -> None:
    """Queue one notice for each change and each receiver that wants it."""
    if not told:
        return
    waiting = Notice.objects.filter(state=NoticeState.QUEUED).values_list("receiver")
    queued = Counter(dict(waiting.annotate(count=Count("id"))))
    rows = []
    for receiver in receivers:
        for row, change in told:
            severity = Severity(row.told_severity or row.severity)
            if not receiver.wants(severity, row.cluster):
                continue
            queued[receiver.name] += 1
            is_full = queued[receiver.name] > MOST_QUEUED
            rows.append(
                Notice(
                    receiver=receiver.name,
                    change=change,
                    severity=severity,
                    cluster=row.cluster,
                    title=row.title,
                    detail=_detail(row, change),
                    path=row.path,
                    anchor=row.anchor,
                    state=NoticeState.DROPPED if is_full else NoticeState.QUEUED,
                )
            )
    Notice.objects.bulk_create(rows)


def _detail(row: FindingEpisode, change: Change) -> str:
    if change is not Change.ENDED or row.ended_at is None:
        return row.detail
    gone = row.gone_at or row.ended_at
    return f"It was listed from {row.began_at:%Y-%m-%d %H:%M:%S} to {gone:%H:%M:%S} UTC."
