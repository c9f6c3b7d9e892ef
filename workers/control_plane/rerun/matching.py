"""Choice of the messages that a rerun is for: those whose latest outcome is a failure.

A message that was sent again stands for itself at its new place: it is chosen there if it failed
there, and its first place is not chosen any more. So what was rerun with success is found no more.

Bounded: the oldest ``MAX_FAILURES`` failures of the window are looked at, and a rerun takes the
first ``MAX_MESSAGES`` messages; ``Chosen`` says how far it came.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any
from uuid import UUID

from django.db.models import DateTimeField, ExpressionWrapper, F, Q, Value

from recorder.models import Event
from recorder.reading import of_runs, runs_of_cluster
from sinks.models import DeadLetter, LetterState, Replay
from workers.control_plane.rerun.filters import Filters
from workers.control_plane.rerun.outcomes import (
    STEP_MESSAGES,
    Failure,
    Outcome,
    Place,
    by_partition,
    in_steps,
    numbers_of,
    outcomes,
)
from workers.models import RerunMessage, RerunMessageState

MAX_FAILURES = 100_000
MAX_MESSAGES = 10_000
FAILED_KINDS = ("task_failed", "dead_lettered")
_TASK = re.compile(r"(\d{1,10}):(\d{1,19}):.*", re.ASCII)
IN_HAND = (RerunMessageState.WAITING, RerunMessageState.SENDING, RerunMessageState.SENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A message that is to be run again. ``tasks`` are the numbers of its tasks that failed; empty:
    the whole of it. ``at`` is when it failed last, None where it did not."""

    topic: str
    place: Place
    tasks: tuple[int, ...] = ()
    failures: Sequence[Failure] = ()
    fate: str = ""
    at: datetime | None = None
    timestamp: int | None = None

    @property
    def failure(self) -> str:
        """Kind of its first failure; empty where it has none."""
        return self.failures[0].kind if self.failures else ""


@dataclass(slots=True, kw_only=True)
class Chosen:
    """The messages, those of a partition in the order of their offsets.

    ``looked_to``: failures from then on were not looked at; None: all were. ``is_cut``: more match
    than one rerun takes, and these are those that failed first. ``sent_already``: messages that
    failed and were sent again since.
    """

    matches: list[Match] = field(default_factory=list)
    failures_seen: int = 0
    looked_to: datetime | None = None
    is_cut: bool = False
    sent_already: int = 0

    @property
    def tasks(self) -> int:
        """Tasks that failed in these messages."""
        return sum(len(match.failures) for match in self.matches)

    @property
    def by_kind(self) -> list[tuple[str, int]]:
        """Messages by the kind of their first failure, the most first."""
        return Counter(match.failure for match in self.matches if match.failure).most_common()

    @property
    def oldest(self) -> datetime | None:
        """When the first of them failed."""
        return min((match.at for match in self.matches if match.at), default=None)

    @property
    def newest(self) -> datetime | None:
        """When the last of them failed."""
        return max((match.at for match in self.matches if match.at), default=None)


def choose(filters: Filters, topic: str, most: int = MAX_MESSAGES) -> Chosen:
    """Return the messages that the filters mean, of the cluster's source topic.

    The message's key stands in no history: it is compared when its bytes are read.
    """
    runs = runs_of_cluster(filters.cluster)
    if filters.place is not None:
        return _named(filters, topic, runs)
    found = Chosen()
    places: dict[Place, datetime] = {}
    rows = list(_failures(filters, topic, runs)[: MAX_FAILURES + 1])
    for row_topic, partition, offset, task_id, ts in rows[:MAX_FAILURES]:
        place = (partition, offset) if row_topic == topic else _first_life(task_id)
        if place is not None and filters.partition in (None, place[0]):
            places.setdefault(place, ts)
    found.failures_seen = min(len(rows), MAX_FAILURES)
    if len(rows) > MAX_FAILURES:
        found.looked_to = rows[MAX_FAILURES][-1]
    for part in in_steps(list(places), STEP_MESSAGES):
        found.matches += _matches(filters, topic, part, runs, found)
        if len(found.matches) > most:
            found.is_cut = True
            del found.matches[most:]
            break
    # Each partition's in their first order: messages of one key stay behind one another.
    found.matches.sort(key=lambda match: match.place[::-1])
    return found


def still_failed(
    filters: Filters, topic: str, places: Sequence[Place], job_id: UUID
) -> Mapping[Place, Match]:
    """Return those of a rerun's messages that it is still for, with what failed of each."""
    runs = runs_of_cluster(filters.cluster)
    found = Chosen()
    matches = _matches(filters, topic, places, runs, found, job_id)
    return {match.place: match for match in matches}


def _named(filters: Filters, topic: str, runs: frozenset[UUID]) -> Chosen:
    """Return the one message that is named, whatever became of it."""
    place = filters.place
    assert place is not None
    outcome = outcomes(topic, [place], runs).get(place, Outcome())
    failures = list(outcome.failures.values()) if outcome.has_failed else []
    if filters.task:
        numbers = numbers_of([filters.task])
        failures = [each for each in failures if numbers_of([each.task_id]) == numbers]
    else:
        numbers = numbers_of(outcome.failures) if failures else ()
    match = Match(
        topic=topic,
        place=place,
        tasks=numbers,
        failures=failures,
        fate=outcome.fate,
        at=outcome.at,
        timestamp=outcome.timestamp,
    )
    sent = place in _sent_again(filters.cluster, topic, [place], None)
    return Chosen(matches=[match], sent_already=int(sent), failures_seen=len(failures))


def _failures(filters: Filters, topic: str, runs: frozenset[UUID]) -> Any:
    """Topics, places, tasks and times of failures that may be meant, oldest first.

    Those of another topic are of deferred messages: their tasks are named after the first life.
    """
    rows = Event.objects.filter(of_runs(runs), kind__in=FAILED_KINDS)
    rows = rows.filter(Q(topic=topic) | Q(task_id__isnull=False))
    is_task = Q(kind="task_failed")
    if filters.failure:
        rows = rows.filter(Q(data__failure=filters.failure) | Q(data__group=filters.failure))
    if filters.exit_code is not None:
        rows = rows.filter(is_task, exit_code=filters.exit_code)
    if filters.label:
        rows = rows.filter(~is_task | Q(labels__contains=dict([filters.label])))
    if filters.partition is not None:
        rows = rows.filter(~Q(topic=topic) | Q(partition=filters.partition))
    if filters.since:
        rows = rows.filter(ts__gte=filters.since)
    if filters.until:
        rows = rows.filter(ts__lt=filters.until)
    # Sorted, not walked by time: failures are few, and the index by kind finds them.
    by_time = ExpressionWrapper(F("ts") + Value(timedelta()), output_field=DateTimeField())
    return rows.order_by(by_time).values_list("topic", "partition", "offset", "task_id", "ts")


def _first_life(task_id: str | None) -> Place | None:
    found = _TASK.fullmatch(task_id or "")
    return (int(found[1]), int(found[2])) if found else None


def _matches(
    filters: Filters,
    topic: str,
    places: Sequence[Place],
    runs: frozenset[UUID],
    chosen: Chosen,
    own_job: UUID | None = None,
) -> Iterator[Match]:
    """Return those of the places that failed at last, as the filters say, and are in no hand."""
    known = {
        place: outcome
        for place, outcome in outcomes(topic, places, runs).items()
        if outcome.has_failed
    }
    sent = _sent_again(filters.cluster, topic, list(known), own_job)
    if filters.again:
        sent -= _not_ended(filters.cluster, topic, sent, runs, own_job)
    closed = _closed_letters(filters, topic, list(known))
    for place in places:
        if place not in known:
            continue
        outcome = known[place]
        failures = list(outcome.failures.values())
        if place in sent:
            chosen.sent_already += any(_is_meant(filters, failure) for failure in failures)
            continue
        failures = [
            failure
            for failure in failures
            if not failure.letters
            or not closed.issuperset((*place, *letter) for letter in failure.letters)
        ]
        if not any(_is_meant(filters, failure) for failure in failures):
            continue
        yield Match(
            topic=topic,
            place=place,
            tasks=numbers_of(failure.task_id for failure in failures),
            failures=failures,
            fate=outcome.fate,
            at=max(failure.at for failure in failures),
            timestamp=outcome.timestamp,
        )


def _is_meant(filters: Filters, failure: Failure) -> bool:
    label = filters.label
    return (
        (filters.failure in ("", failure.kind) or filters.failure in failure.groups)
        and (filters.exit_code is None or failure.exit_code == filters.exit_code)
        and (label is None or failure.labels.get(label[0]) == label[1])
        and (filters.since is None or failure.at >= filters.since)
        and (filters.until is None or failure.at < filters.until)
    )


def _sent_again(
    cluster: str, topic: str, places: Sequence[Place], own_job: UUID | None
) -> set[Place]:
    """Return those of the messages that were, or are being, sent again."""
    if not places:
        return set()
    reruns = RerunMessage.objects.filter(
        at_places(places), cluster=cluster, topic=topic, state__in=IN_HAND
    ).exclude(job=own_job)
    letters = Replay.objects.filter(
        at_places(places, "letter__"), letter__cluster=cluster, letter__topic=topic,
        error="", target_topic=topic,
    )  # fmt: skip
    return {
        *reruns.values_list("partition", "offset"),
        *letters.values_list("letter__partition", "letter__offset"),
    }


def _not_ended(
    cluster: str, topic: str, places: set[Place], runs: frozenset[UUID], own_job: UUID | None
) -> set[Place]:
    """Return those whose record that was sent again has no end that the history tells."""
    if not places:
        return set()
    targets: dict[Place, set[Place]] = {place: set() for place in places}
    sent = RerunMessage.objects.filter(
        at_places(list(places)), cluster=cluster, topic=topic, state=RerunMessageState.SENT
    ).exclude(job=own_job)
    names = ("partition", "offset", "target_partition", "target_offset")
    letters = Replay.objects.filter(
        at_places(list(places), "letter__"), letter__cluster=cluster, letter__topic=topic,
        error="", target_topic=topic, target_offset__isnull=False,
    )  # fmt: skip
    letter_names = ("letter__partition", "letter__offset", *names[2:])
    for partition, offset, *target in [
        *sent.values_list(*names), *letters.values_list(*letter_names)
    ]:  # fmt: skip
        targets[partition, offset].add((target[0], target[1]))
    told = outcomes(topic, set().union(*targets.values()), runs)
    ended = {place for place, outcome in told.items() if outcome.has_ended}
    return {place for place, found in targets.items() if not found & ended}


def _closed_letters(
    filters: Filters, topic: str, places: Sequence[Place]
) -> set[tuple[int, int, str, int, int]]:
    """Return the messages' letters that were resolved or, unless those that were sent again are
    asked for, replayed since: each by its message's place and its own."""
    if not places:
        return set()
    states = [LetterState.RESOLVED, *(() if filters.again else (LetterState.REPLAYED,))]
    letters = DeadLetter.objects.filter(
        at_places(places), cluster=filters.cluster, topic=topic, state__in=states
    )
    letter = ("letter_topic", "letter_partition", "letter_offset")
    return set(letters.values_list("partition", "offset", *letter))


def at_places(places: Sequence[Place], prefix: str = "") -> Q:
    """Rows at these places."""
    return reduce(
        or_,
        (
            Q(**{f"{prefix}partition": partition, f"{prefix}offset__in": offsets})
            for partition, offsets in by_partition(places).items()
        ),
    )
