"""Rows of dead letters: written with their events, and read."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Protocol

import orjson
from django.db.models import Count, Max, Min, Q, QuerySet

from domain.failure import Stage
from domain.letter import LetterContent
from domain.message import Header
from sinks.models import DeadLetter, LetterState

ORIGIN_CHARACTERS = 600
"""Longer than any true one; a header may claim what it likes, an index may not hold it."""
REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MOST_GROUPED, MOST_FAILURES = 100_000, 100
"""Letters that are counted by failure, the latest of them, and failures that are listed."""
CONTENT = ("key", "value", "headers", "traceback")
"""Columns that lists do without."""


def store_letters(cluster: str, worker: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """Make a row of each ``dead_lettered`` event row; one that is there stays as it is.

    Runs in the caller's transaction. Raises DatabaseError, and TypeError or ValueError for a row
    that is not made as this version makes them (another one's spool holds such).
    """
    try:
        letters = [
            _letter(cluster, worker, row, LetterContent(**row["content"]))
            for row in rows
            if "content" in row
        ]
    except (LookupError, AttributeError) as exc:
        raise ValueError(f"not a letter of this version: {exc!r}") from exc
    if letters:
        DeadLetter.objects.bulk_create(letters, ignore_conflicts=True)


def _letter(
    cluster: str, worker: str, row: Mapping[str, Any], content: LetterContent
) -> DeadLetter:
    told = orjson.loads(row["data"])
    names = ("stage", "failure", "reason", "attempts", "delivery_id")
    places = ("letter_topic", "letter_partition", "letter_offset")
    return DeadLetter(
        cluster=cluster,
        worker=worker,
        at=row["ts"],
        topic=row["topic"],
        partition=row["partition"],
        offset=row["offset"],
        task_id=row.get("task_id") or "",
        sink=row.get("sink") or "",
        origin=_clean(content.origin)[:ORIGIN_CHARACTERS],
        key=content.key,
        value=content.value,
        headers=[[_clean(name), _base64(value)] for name, value in content.headers],
        size_bytes=content.size_bytes,
        is_whole=content.is_whole and all("\0" not in name for name, _ in content.headers),
        fingerprint=content.fingerprint,
        failure_group=row.get("failure_group", {}).get("group", ""),
        labels=_labels(content.labels),
        traceback=told.get("traceback", ""),  # a spool of before has none
        **{name: told[name] for name in (*names, *places)},
    )


def _labels(labels: Mapping[str, str] | None) -> dict[str, str] | None:
    return None if labels is None else {_clean(n): _clean(text) for n, text in labels.items()}


def _clean(text: str) -> str:
    """Postgres takes neither NUL nor lone surrogates."""
    return text.replace("\0", REPLACEMENT).encode("utf-8", "replace").decode()


def _base64(value: bytes | None) -> str | None:
    return None if value is None else base64.b64encode(value).decode()


def headers_of(letter: DeadLetter) -> list[Header]:
    """The original's headers as bytes."""
    return [(n, None if v is None else base64.b64decode(v)) for n, v in letter.headers]


@dataclass(frozen=True, slots=True, kw_only=True)
class Filters:
    """What the reader wants to see; empty means all. ``message``: its topic, partition, offset.
    ``group`` is a failure group, ``label`` a ``name=value`` of the task's, ``reason`` stands in the
    letter's; ``until`` is left out."""

    cluster: str = ""
    worker: str = ""
    stage: str = ""
    state: str = ""
    failure: str = ""
    group: str = ""
    sink: str = ""
    label: str = ""
    reason: str = ""
    since: datetime | None = None
    until: datetime | None = None
    message: tuple[str, int, int] | None = None


def matching(filters: Filters) -> QuerySet[DeadLetter]:
    """The letters asked for, in no order yet, without their content."""
    names = ("cluster", "worker", "stage", "state")
    given = {name: getattr(filters, name) for name in names if getattr(filters, name)}
    if filters.message is not None:
        given |= dict(zip(("topic", "partition", "offset"), filters.message, strict=True))
    letters = DeadLetter.objects.defer(*CONTENT).filter(**given)
    return narrowed(letters, filters)


def by_failure(filters: Filters) -> tuple[list[dict[str, Any]], bool]:
    """Return the failure groups of the letters that fit, those with the latest letter first, and
    whether earlier letters were not counted.

    Of each ``failure_group`` (empty: unknown), ``cluster``, ``kind``, ``count``, ``open``,
    ``deliver`` (those open that hold a payload), ``first`` and ``last``.
    """
    latest = matching(filters).order_by("-at", "-id").values("pk")
    is_open = Q(state=LetterState.OPEN)
    groups = (
        DeadLetter.objects.filter(pk__in=latest[:MOST_GROUPED])
        .values("failure_group", "cluster")
        .annotate(
            kind=Max("failure"),
            count=Count("id"),
            open=Count("id", filter=is_open),
            deliver=Count("id", filter=is_open & Q(stage=Stage.DELIVER.value)),
            first=Min("at"),
            last=Max("at"),
        )
        .order_by("-last", "failure_group", "cluster")
    )
    found: list[dict[str, Any]] = [dict(group) for group in groups[: MOST_FAILURES + 1]]
    return found, sum(each["count"] for each in found) >= MOST_GROUPED


def has_unknown_labels(filters: Filters) -> bool:
    """Whether letters fit but for a label, because their own are unknown."""
    return matching(replace(filters, label="")).filter(labels__isnull=True).exists()


class Narrow(Protocol):
    """Filters that a list of letters and a job have in common; empty means all."""

    @property
    def failure(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def sink(self) -> str: ...
    @property
    def label(self) -> str: ...
    @property
    def reason(self) -> str: ...
    @property
    def since(self) -> datetime | None: ...
    @property
    def until(self) -> datetime | None: ...


def narrowed(letters: QuerySet[DeadLetter], filters: Narrow) -> QuerySet[DeadLetter]:
    """Return those of the letters that the filters mean; by a label none whose are unknown."""
    name, _, value = filters.label.partition("=")
    given: dict[str, Any] = {
        "failure": filters.failure,
        "failure_group": filters.group,
        "sink": filters.sink,
        "labels__contains": {name: value} if filters.label else None,
        "reason__icontains": filters.reason,
        "at__gte": filters.since,
        "at__lt": filters.until,
    }
    return letters.filter(**{name: value for name, value in given.items() if value})


def family(letter: DeadLetter) -> QuerySet[DeadLetter]:
    """Letters of the same message and of its replays, this one left out, oldest first."""
    kin = DeadLetter.objects.filter(origin=letter.origin).exclude(pk=letter.pk)
    return kin.defer(*CONTENT).order_by("at", "id")
