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
from recorder.failures.counting import OTHER, span_of
from recorder.models import Event, FailureCount, FailureGroup, Run
from recorder.spans import detail

MOST_COUNTS = 20_000
MOST_MATCHING = 5000
"""Groups that a filter by label or time is looked for in: those that failed last."""
SHOWN_VALUES = 10
SHOWN_SAMPLES = 20
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
    ``spans`` counts by time. ``is_cut``: earlier ones were not looked at.
    """

    count: int = 0
    letters: int = 0
    values: dict[str, Counter[str]] = field(default_factory=dict)
    runs: Counter[UUID] = field(default_factory=Counter)
    spans: Counter[datetime] = field(default_factory=Counter)
    samples: list[Sequence[object]] = field(default_factory=list)
    is_cut: bool = False

    def add(self, row: FailureCount) -> None:
        """Add a row of counts."""
        self.count += row.count
        self.letters += row.letters
        self.runs[row.run] += row.count
        self.spans[row.start] += row.count
        for name, values in row.labels.items():
            self.values.setdefault(name, Counter()).update(values)

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


def _within(filters: Filters) -> list[str]:
    rows = _counts(filters.since, filters.until)
    if filters.label:
        name, value = filters.label
        rows = rows.filter(**{"labels__contains": {name: {}}}, labels__has_key=name)
        return sorted({row.group for row in rows[:MOST_COUNTS] if value in row.labels[name]})
    return list(rows.order_by("group").values_list("group", flat=True).distinct()[:MOST_MATCHING])


def listed(filters: Filters, sort: str = "last_seen", **ends: str) -> Page[FailureGroup]:
    """Return a page of the groups. Raises ValueError naming a bad key."""
    return page(groups(filters), sort, **ends)


def involved(
    names: Iterable[str], since: datetime | None = None, until: datetime | None = None
) -> Mapping[str, Involved]:
    """Return what is involved in each of these groups over that time."""
    found = {name: Involved() for name in names}
    rows = _counts(since, until).filter(group__in=list(found))
    for number, row in enumerate(rows.order_by("-start")[:MOST_COUNTS], start=1):
        each = found[row.group]
        each.add(row)
        if len(each.samples) < SHOWN_SAMPLES:
            each.samples += reversed(row.samples)
        if number == MOST_COUNTS:
            for group in found.values():
                group.is_cut = True
    for each in found.values():
        each.samples = sorted(each.samples, key=lambda sample: str(sample[0]), reverse=True)
        del each.samples[SHOWN_SAMPLES:]
    return found


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
