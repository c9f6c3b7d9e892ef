"""Groups of failures and their counts, for pages, the API and findings.

Every question is bounded: a page of groups, and the newest ``MOST_COUNTS`` rows of counts of its
time. Counts are of five minutes each, so times are rounded to these.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from uuid import UUID

from django.db.models import Max, QuerySet

from domain.paging import Page, page
from recorder.databases import history
from recorder.failures.counting import OTHER, span_of
from recorder.models import Event, FailureCount, FailureGroup, Run
from recorder.spans import detail

MOST_COUNTS = 20_000
MOST_MATCHING = 5000
"""Groups that are compared at once."""
SHOWN_VALUES = 10
SHOWN_SAMPLES = 20
_LATEST = f"""
SELECT * FROM recorder_failurecount WHERE {{}}
    (%s::timestamptz IS NULL OR start >= %s) AND (%s::timestamptz IS NULL OR start < %s)
ORDER BY start DESC LIMIT {MOST_COUNTS}
"""  # noqa: S608 - constants of this module only
_OF_GROUPS = _LATEST.format('"group" = ANY(%s) AND')
_BY_RUN = f"""
SELECT "group", date_trunc('hour', start, 'UTC'), run, count(*), sum(count), sum(letters)
FROM ({_OF_GROUPS}) latest GROUP BY 1, 2, 3
"""  # noqa: S608 - constants of this module only
_BY_LABEL = f"""
SELECT "group", name, value, sum(failures::bigint)
FROM ({_OF_GROUPS}) latest, jsonb_each(labels) AS label (name, by_value),
    jsonb_each_text(by_value) AS counted (value, failures)
GROUP BY 1, 2, 3
"""  # noqa: S608 - constants of this module only
_WITHIN = f"""
SELECT DISTINCT "group" FROM ({_LATEST.format("")}) latest
"""  # noqa: S608 - constants of this module only
SORTS = ("last_seen", "count", "first_seen")


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """Groups that are meant; empty and None mean all. ``since`` and ``until`` (left out) are of the
    failures; ``text`` stands in the title."""

    cluster: str = ""
    state: str = ""
    kind: str = ""
    label: tuple[str, str] | None = None
    since: datetime | None = None
    until: datetime | None = None
    text: str = ""


@dataclass(slots=True, kw_only=True)
class Involved:
    """What the failures of some groups have in common, over some time.

    ``values`` counts by label name and value, ``OTHER`` for those not counted by themselves.
    ``spans`` counts by the hour. ``is_cut``: earlier ones were not looked at.
    """

    count: int = 0
    letters: int = 0
    values: dict[str, Counter[str]] = field(default_factory=dict)
    runs: Counter[UUID] = field(default_factory=Counter)
    spans: Counter[datetime] = field(default_factory=Counter)
    is_cut: bool = False

    @property
    def most(self) -> list[tuple[str, str, float]]:
        """Name, value and share of each label's most frequent value, the greatest share first."""
        found = []
        for name, values in self.values.items():
            known = [each for each in values.most_common(2) if each[0] != OTHER]
            if known and self.count:
                found.append((name, known[0][0], known[0][1] / self.count))
        return sorted(found, key=lambda each: -each[2])

    def facets(self) -> list[tuple[str, list[tuple[str, int]]]]:
        """Return for each label its values with their counts, the most first."""
        return [
            (name, [each for each in values.most_common(SHOWN_VALUES + 1) if each[0] != OTHER])
            for name, values in sorted(self.values.items())
        ]


def groups(filters: Filters) -> QuerySet[FailureGroup]:
    """Return the groups that are meant, in no order yet."""
    names = ("cluster", "state", "kind")
    given = {name: getattr(filters, name) for name in names if getattr(filters, name)}
    found = FailureGroup.objects.filter(**given)
    if filters.text:
        found = found.filter(title__icontains=filters.text)
    if filters.since:
        found = found.filter(last_seen__gte=filters.since)
    if filters.until:
        found = found.filter(first_seen__lt=filters.until)
    if filters.label or (filters.since and filters.until):
        found = found.filter(fingerprint__in=_within(filters))
    return found


def titled(words: Sequence[str], cluster: str, most: int) -> list[FailureGroup]:
    """Return groups with all these words in their title, of a cluster (empty: of all), those that
    failed last first. Of older ones than the latest ``MOST_MATCHING`` none is found."""
    latest = groups(Filters(cluster=cluster)).order_by("-last_seen").values("pk")[:MOST_MATCHING]
    found = FailureGroup.objects.filter(pk__in=latest)
    for word in words:
        found = found.filter(title__icontains=word)
    return list(found.order_by("-last_seen", "pk")[:most])


def _within(filters: Filters) -> list[str]:
    statement = _WITHIN
    values: list[datetime | str | None] = [
        filters.since,
        filters.since,
        filters.until,
        filters.until,
    ]
    if filters.label:
        statement += " WHERE labels -> %s ? %s"
        values += filters.label
    with history().cursor() as cursor:
        cursor.execute(statement, values)
        return [group for (group,) in cursor.fetchall()]


def listed(filters: Filters, sort: str = "last_seen", **ends: str) -> Page[FailureGroup]:
    """Return a page of the groups. Raises ValueError naming a bad key."""
    return page(groups(filters), sort, **ends)


def involved(
    names: Iterable[str], since: datetime | None = None, until: datetime | None = None
) -> Mapping[str, Involved]:
    """Return what is involved in each of these groups over that time, but for samples."""
    found = {name: Involved() for name in names}
    span = since and span_of(since)
    values = [list(found), span, span, until, until]
    seen = 0
    with history().cursor() as cursor:
        cursor.execute(_BY_RUN, values)
        for group, hour, run, rows, count, letters in cursor.fetchall():
            part = found[group]
            seen += rows
            part.count += int(count)
            part.letters += int(letters)
            part.runs[run] += int(count)
            part.spans[hour] += int(count)
        cursor.execute(_BY_LABEL, values)
        for group, name, value, count in cursor.fetchall():
            found[group].values.setdefault(name, Counter())[value] = int(count)
    for part in found.values():
        part.is_cut = seen >= MOST_COUNTS
    return found


def samples(group: str) -> list[Sequence[object]]:
    """Return the latest failures of a group: time, kind, topic, partition, offset, task, attempt;
    newest first."""
    rows = FailureCount.objects.filter(group=group).order_by("-start")[:SHOWN_SAMPLES]
    found = [sample for row in rows for sample in reversed(row.samples)]
    return sorted(found, key=lambda sample: str(sample[0]), reverse=True)[:SHOWN_SAMPLES]


def together(parts: Iterable[Involved]) -> Involved:
    """Return all of them as one."""
    result = Involved()
    for part in parts:
        result.count += part.count
        result.letters += part.letters
        result.runs.update(part.runs)
        result.spans.update(part.spans)
        result.is_cut |= part.is_cut
        for name, values in part.values.items():
            result.values.setdefault(name, Counter()).update(values)
    return result


def _counts(since: datetime | None, until: datetime | None) -> QuerySet[FailureCount]:
    rows = FailureCount.objects.all()
    if since:
        rows = rows.filter(start__gte=span_of(since))
    return rows.filter(start__lt=until) if until else rows


def groups_of(events: Iterable[Event], most: int = 5) -> list[FailureGroup]:
    """Return the groups that these failures and letters were counted in, the latest first."""
    told = set(filter(None, map(group_name, events)))
    found = FailureGroup.objects.filter(pk__in=told).order_by("-last_seen")
    return list(found[:most]) if told else []


def group_name(event: Event) -> str:
    """Return the fingerprint of the group that a failure or letter was counted in; empty: none."""
    return str(detail(event).get("group") or "")


def last_deploys() -> dict[str, datetime]:
    """Return when each cluster last got other versions."""
    changed = Run.objects.exclude(version_changes=None).exclude(version_changes=[])
    return dict(changed.values_list("cluster").annotate(at=Max("started_at")))


def runs_by_id(ids: Iterable[UUID]) -> dict[UUID, Run]:
    """Return the runs of these ids that are known still, without their configuration."""
    return Run.objects.defer("config", "environment").in_bulk(list(ids))


def by_run(
    counts: Mapping[UUID, int], runs: Mapping[UUID, Run], name: str
) -> list[tuple[str, int]]:
    """Return counts by a column of the runs (``worker``, ``host``, a version), the most first; a
    run that is not known any more counts as empty."""
    found: Counter[str] = Counter()
    for run_id, count in counts.items():
        run = runs.get(run_id)
        found[str(getattr(run, name)) if run is not None else ""] += count
    return found.most_common(SHOWN_VALUES)
