"""Groups of failures that are news: new, back, or far more frequent than in the day before."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum

from django.db.models import IntegerField, OuterRef, QuerySet, Subquery, Sum

from recorder.failures.counting import span_of
from recorder.models import FailureCount, FailureGroup, FailureState
from recorder.rollups.reading import Dimension, Scope, totals

WINDOW, DAY = timedelta(minutes=30), timedelta(days=1)
LEAST, TIMES = 5, 10.0
QUIET, MOST_QUIET = timedelta(minutes=3), timedelta(minutes=15)
LEAST_SPAN = timedelta(minutes=2)
"""Time of which its share is taken at least."""
GAPS = 3
"""Mean gaps between its failures after which a group is quiet."""
MOST_GROUPS, MOST_SHARED = 100, 2
"""Groups that are looked at, and those whose share is asked for."""


class Why(StrEnum):
    """Reason for which a group is news."""

    NEW = "new"
    BACK = "back"
    MORE = "more"


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """A group that is news. ``count`` are its failures from ``since`` on, in the last half hour.

    ``began_at`` is when it became news; None: some time in the window. ``share`` is that of its
    cluster's attempts of the same time; None: unknown, or not asked for.
    """

    group: FailureGroup
    why: Why
    count: int
    since: datetime
    began_at: datetime | None
    share: float | None = None

    @property
    def per_minute(self) -> float:
        """Failures a minute while it failed."""
        return self.count / max(1.0, (self.group.last_seen - self.since) / timedelta(minutes=1))

    @property
    def is_taken(self) -> bool:
        """Whether somebody has taken it on."""
        return self.group.state == FailureState.ACKNOWLEDGED

    def is_quiet(self, now: datetime) -> bool:
        """Whether it is over: nothing failed for far longer than between its failures."""
        gap = (self.group.last_seen - self.since) / max(1, self.count - 1)
        return now - self.group.last_seen > min(MOST_QUIET, max(QUIET, GAPS * gap))


def news(now: datetime, cluster: str = "") -> list[News]:
    """Return the groups that are news and not quiet, those that fail fastest first. One is new or
    back for a day. What is resolved or ignored is no news. Raises DatabaseError."""
    edge = span_of(now - WINDOW)
    told = (_of(group, now, edge) for group in _candidates(now, edge, cluster))
    found = [each for each in told if each is not None and not each.is_quiet(now)]
    found.sort(key=lambda each: (-each.per_minute, each.group.pk))
    return [*map(_shared, found[:MOST_SHARED]), *found[MOST_SHARED:]]


def _candidates(now: datetime, edge: datetime, cluster: str) -> QuerySet[FailureGroup]:
    """Groups that failed lately, with their failures since the edge and in the day before it."""
    states = (FailureState.OPEN, FailureState.ACKNOWLEDGED)
    groups = FailureGroup.objects.filter(state__in=states, last_seen__gte=now - MOST_QUIET)
    if cluster:
        groups = groups.filter(cluster=cluster)
    return groups.annotate(recent=_sum(edge, now + DAY), before=_sum(edge - DAY, edge)).order_by(
        "-last_seen", "pk"
    )[:MOST_GROUPS]


def _sum(since: datetime, until: datetime) -> Subquery:
    rows = FailureCount.objects.filter(group=OuterRef("pk"), start__gte=since, start__lt=until)
    sums = rows.order_by().values("group").annotate(total=Sum("count")).values("total")
    return Subquery(sums, output_field=IntegerField())


def _of(group: FailureGroup, now: datetime, edge: datetime) -> News | None:
    recent = group.recent or 0  # type: ignore[attr-defined]
    before = group.before or 0  # type: ignore[attr-defined]
    if recent < LEAST:
        return None
    for why, at in ((Why.BACK, group.came_back_at), (Why.NEW, group.first_seen)):
        if at is not None and at > now - DAY:
            return News(group=group, why=why, count=recent, since=max(at, edge), began_at=at)
    if recent * (DAY / WINDOW) < TIMES * before:
        return None
    return News(group=group, why=Why.MORE, count=recent, since=edge, began_at=None)


def _shared(each: News) -> News:
    """Return it with its share of what its cluster tried meanwhile, and soon after a short one."""
    scope, until = (
        Scope(cluster=each.group.cluster),
        max(each.since + LEAST_SPAN, each.group.last_seen),
    )
    tried = sum(row.count for row in totals(scope, each.since, until, Dimension.CLUSTER))
    return replace(each, share=min(1.0, each.count / tried) if tried else None)
