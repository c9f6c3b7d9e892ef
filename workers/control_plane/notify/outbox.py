"""Outbox of notices: all that wait for a receiver go out in one message.

At least once: notices are marked as under way before they are sent and as sent after it, each in a
transaction of its own. Where the sender ends between the two they are sent again, and the message
says that it may be a repeat. A claim on the receiver keeps two controllers from sending the same.
"""

from __future__ import annotations

import logging
import uuid
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from django.db import connection, transaction
from django.db.models import F

from domain.episode import Change
from domain.finding import Severity
from workers.control_plane.notify.receivers import Message, Notifying, NotSent, Receiver
from workers.models import Notice, NoticeReceiver, NoticeState

TEST = "test"
"""Change of a notice that somebody sends by hand, at once and by itself."""
CLAIM = timedelta(seconds=120)
FIRST_WAIT_SECONDS, MOST_WAIT_SECONDS = 5.0, 600.0
MOST_TAKEN = 200
MOST_LINES = 20
MOST_DETAIL = 500
ORDER = (Change.STARTED, Change.GREW, Change.ENDED, TEST)

logger = logging.getLogger("drakkar.controller")


@dataclass(frozen=True, slots=True)
class _Taken:
    """Notices that one message is made of, under a claim."""

    claim: uuid.UUID
    notices: Sequence[Notice]
    is_repeat: bool


def send_waiting(notifying: Notifying, now: datetime | None = None) -> int:
    """Send what waits for each receiver whose turn it is; return how many messages went out. What
    one refuses is tried again after a wait. Raises DatabaseError."""
    waiting = set(
        Notice.objects.filter(state=NoticeState.QUEUED)
        .values_list("receiver", flat=True)
        .distinct()
    )
    sent = 0
    for receiver in notifying.receivers:
        if receiver.name not in waiting:
            continue
        taken = _take(receiver, now or database_now())
        if taken is None:
            continue
        try:
            notifying.send(receiver, compose(taken.notices, notifying, is_repeat=taken.is_repeat))
        except NotSent as exc:
            logger.warning("controller: receiver %s: not sent: %s", receiver.name, exc)
            _failed(receiver, taken, str(exc), now or database_now())
            continue
        _sent(receiver, taken, now or database_now())
        sent += 1
    return sent


def database_now() -> datetime:
    """Return Postgres' clock. Raises DatabaseError."""
    with connection.cursor() as cursor:
        cursor.execute("SELECT clock_timestamp()")
        found: datetime = cursor.fetchone()[0]
    return found


def _take(receiver: Receiver, at: datetime) -> _Taken | None:
    """Claim the receiver and what waits for it; None: nothing may be sent to it now."""
    NoticeReceiver.objects.get_or_create(name=receiver.name)
    with transaction.atomic():
        row = NoticeReceiver.objects.select_for_update().get(name=receiver.name)
        if row.claimed_until is not None and row.claimed_until > at:
            return None
        rows = Notice.objects.filter(receiver=receiver.name, state=NoticeState.QUEUED)
        tests = list(rows.filter(change=TEST).order_by("id")[:MOST_TAKEN])
        is_due = (row.next_at is None or row.next_at <= at) and not receiver.is_quiet(at)
        notices = tests or (list(rows.order_by("id")[:MOST_TAKEN]) if is_due else [])
        if not notices:
            return None
        claim = uuid.uuid4()
        is_repeat = any(notice.message is not None for notice in notices)
        row.claim, row.claimed_until = claim, at + CLAIM
        row.save(update_fields=["claim", "claimed_until"])
        ids = [notice.id for notice in notices]
        Notice.objects.filter(id__in=ids).update(message=claim, attempts=F("attempts") + 1)
    return _Taken(claim, notices, is_repeat)


def _sent(receiver: Receiver, taken: _Taken, at: datetime) -> None:
    with transaction.atomic():
        Notice.objects.filter(message=taken.claim).update(state=NoticeState.SENT, sent_at=at)
        NoticeReceiver.objects.filter(name=receiver.name, claim=taken.claim).update(
            claim=None,
            claimed_until=None,
            next_at=at + timedelta(seconds=receiver.interval_seconds),
            failures_in_a_row=0,
            sent_at=at,
        )


def _failed(receiver: Receiver, taken: _Taken, error: str, at: datetime) -> None:
    with transaction.atomic():
        Notice.objects.filter(message=taken.claim).update(message=None)
        row = NoticeReceiver.objects.select_for_update().get(name=receiver.name)
        if row.claim != taken.claim:
            return
        wait = min(MOST_WAIT_SECONDS, FIRST_WAIT_SECONDS * 2.0**row.failures_in_a_row)
        row.claim, row.claimed_until = None, None
        row.next_at = at + timedelta(seconds=wait)
        row.failures_in_a_row = min(row.failures_in_a_row + 1, 1000)
        row.error, row.error_at = error[:1000], at
        row.save()


def compose(notices: Sequence[Notice], notifying: Notifying, *, is_repeat: bool) -> Message:
    """Return one message of all these notices, the newly broken first."""
    ordered = sorted(notices, key=lambda each: (ORDER.index(each.change), _rank(each), each.id))
    counts = Counter(each.change for each in notices)
    clusters = sorted({each.cluster for each in notices if each.cluster})
    told = ", ".join(f"{counts[change]} {change}" for change in ORDER if counts[change])
    where = f" ({', '.join(clusters)})" if clusters else ""
    title = f"Drakkar: {told}{where}"
    if len(notices) == 1:
        title = f"Drakkar: {notices[0].title}, {notices[0].change}"
    parts = [_lines(each, notifying) for each in ordered[:MOST_LINES]]
    if len(ordered) > MOST_LINES:
        more = len(ordered) - MOST_LINES
        parts.append(f"and {more} more: {notifying.site_url}/notifications")
    if is_repeat:
        parts.append("This may be a repeat: whether it arrived before is unknown.")
    bad = [each for each in notices if each.change in (Change.STARTED, Change.GREW)]
    worst = max((Severity(each.severity) for each in bad), key=lambda s: s.rank, default=None)
    return Message(title[:250], "\n\n".join(parts), worst or Severity.NOTICE, is_good=not bad)


def _rank(notice: Notice) -> int:
    return -Severity(notice.severity).rank


def _lines(notice: Notice, notifying: Notifying) -> str:
    lines = [f"{notice.change.upper()} ({notice.severity}): {notice.title}"]
    if notice.detail:
        lines.append(notice.detail[:MOST_DETAIL])
    if notice.path:
        lines.append(f"{notifying.site_url}{notice.path}")
    if notice.anchor and notice.change != Change.ENDED:
        lines.append(f"Runbook: {notifying.runbook_url}#{notice.anchor}")
    return "\n".join(lines)
