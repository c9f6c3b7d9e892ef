"""Sends dead letters to their source topic again: each message once, and never by accident.

A letter is claimed (compare-and-set on its state) in a transaction of its own before its record is
produced, and confirmed after the delivery report. A sender that dies in between leaves a letter
that is ``replayed`` with a replay nobody confirmed: a person looks and decides (``UNCONFIRMED``).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from functools import reduce
from operator import or_
from typing import Any, Protocol
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q, QuerySet
from django.utils import timezone

from domain.letter import fingerprint
from domain.message import Header
from domain.origin import ONLY_TASKS_HEADER, REPLAY_HEADER
from sinks.base import ConfigError, PermanentError, SinkError, TransientError
from sinks.letter_rows import headers_of, narrowed
from sinks.models import DeadLetter, LetterState, Replay

STEP_ROWS = 200
UNCONFIRMED_SECONDS = 60.0
"""A replay that was asked for longer ago has no sender that still waits for its report."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Original:
    """A record as it was, without what the dead-letter topic added."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """Place where a record was stored."""

    topic: str
    partition: int
    offset: int


class ReplayTransport(Protocol):
    """From the dead-letter topic to the source topic of one cluster."""

    @property
    def topic(self) -> str:
        """Source topic."""

    def open(self) -> None:
        """Look at the source topic. Raises SinkError."""

    def read(self, letter: DeadLetter) -> Original | None:
        """Return the letter's record in its topic; None when it is gone. Raises SinkError."""

    def send(self, original: Original, partition: int) -> Sent:
        """Store it, in that partition where there are as many. Raises SinkError."""


Content = Callable[[DeadLetter, ReplayTransport], Original | None]
"""Maker of what is sent for a letter; None: it is gone. Raises SinkError."""


@dataclass(slots=True)
class Outcome:
    """Outcome of a replay. ``letters`` counts those that one record answers together."""

    replayed: int = 0
    letters: int = 0
    expired: int = 0
    taken: int = 0
    failed: list[str] = field(default_factory=list)
    unconfirmed: list[str] = field(default_factory=list)
    is_cut_short: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Selection:
    """Choice of letters of a cluster; empty means all. ``group`` is a failure group, ``label`` a
    ``name=value`` of the task's, ``reason`` stands in the letter's. ``up_to_id``: none that came
    later. ``is_unconfirmed``: not the open ones but those whose sender died."""

    cluster: str
    ids: Sequence[int] = ()
    worker: str = ""
    stage: str = ""
    failure: str = ""
    sink: str = ""
    group: str = ""
    label: str = ""
    reason: str = ""
    up_to_id: int = 0
    since: datetime | None = None
    until: datetime | None = None
    is_unconfirmed: bool = False


def selected(selection: Selection) -> QuerySet[DeadLetter]:
    """Return the letters that would be replayed, oldest first."""
    letters = chosen_letters(selection)
    if not selection.is_unconfirmed:
        return letters.filter(state=LetterState.OPEN).order_by("id")
    lost = Exists(_unconfirmed().filter(letter=OuterRef("pk")))
    return letters.filter(lost, state=LetterState.REPLAYED).order_by("id")


def chosen_letters(selection: Selection) -> QuerySet[DeadLetter]:
    """Return the letters of a selection, whatever became of them, in no order."""
    names = ("worker", "stage")
    given = {name: getattr(selection, name) for name in names if getattr(selection, name)}
    letters = DeadLetter.objects.filter(cluster=selection.cluster, **given)
    if selection.ids:
        letters = letters.filter(pk__in=selection.ids)
    if selection.up_to_id:
        letters = letters.filter(pk__lte=selection.up_to_id)
    return narrowed(letters, selection)


def _unconfirmed() -> QuerySet[Replay]:
    before = timezone.now() - timedelta(seconds=UNCONFIRMED_SECONDS)
    return Replay.objects.filter(confirmed_at=None, error="", asked_at__lt=before)


def walk(selection: Selection, limit: int) -> Iterator[DeadLetter]:
    """Up to ``limit`` selected letters in short steps; letters that come meanwhile are left out."""
    letters = selected(selection)
    newest = letters.order_by("-id").values_list("id", flat=True).first()
    after, left = 0, limit
    while newest is not None and left > 0:
        step = list(letters.filter(id__gt=after, id__lte=newest)[: min(STEP_ROWS, left)])
        if not step:
            return
        yield from step
        after, left = step[-1].pk, left - len(step)


def original_of(letter: DeadLetter, transport: ReplayTransport) -> Original | None:
    """Return the whole original: the row's where it holds all of it, else the topic's.

    None when it is gone, or when the topic holds another record at that place (it was made anew).
    Raises SinkError.
    """
    if letter.is_whole:
        return Original(
            key=_bytes(letter.key), value=_bytes(letter.value), headers=headers_of(letter)
        )
    found = transport.read(letter)
    if found is None:
        return None
    is_it = fingerprint(found.key, found.value, found.headers) == letter.fingerprint
    return found if is_it else None


def _bytes(content: Any) -> bytes | None:
    return None if content is None else bytes(content)


def replay(
    letters: Iterator[DeadLetter],
    transport: ReplayTransport,
    *,
    actor: str,
    pace: Callable[[], None],
    told: Callable[[DeadLetter, str], None],
    arrived: Callable[[DeadLetter, Sent], None],
    content: Content = original_of,
    job: UUID | None = None,
) -> Outcome:
    """Replay each; ``pace`` waits for its turn, ``told`` hears what became of it, ``arrived`` of
    each that was sent. ``content`` says what is sent, ``job`` for which job.

    Stops where Kafka is away. Raises SinkError when it is away at once; nothing is claimed then.
    """
    sending = _Sending(transport=transport, actor=actor, arrived=arrived, content=content, job=job)
    transport.open()
    for letter in letters:
        pace()
        told(letter, sending.replay(letter))
        if sending.outcome.is_cut_short:
            break
    return sending.outcome


@dataclass(slots=True, kw_only=True)
class _Sending:
    """One replay of many letters; each step answers what became of its letter."""

    transport: ReplayTransport
    actor: str
    arrived: Callable[[DeadLetter, Sent], None]
    content: Content
    job: UUID | None
    outcome: Outcome = field(default_factory=Outcome)

    def replay(self, letter: DeadLetter) -> str:
        try:
            original = self.content(letter, self.transport)
        except SinkError as exc:
            self.outcome.failed.append(str(letter))
            self.outcome.is_cut_short = isinstance(exc, TransientError)
            return f"not read: {exc}"
        if original is None:
            return self._expire(letter)
        replays = claim(letter, self.actor, self.transport.topic, self.job)
        if not replays:
            self.outcome.taken += 1
            return "left out: replayed already"
        return self._send(letter, original, replays)

    def _expire(self, letter: DeadLetter) -> str:
        gone = DeadLetter.objects.filter(pk=letter.pk, state=letter.state)
        self.outcome.expired += gone.update(state=LetterState.EXPIRED)
        return "expired: the topic does not hold it any more"

    def _send(self, letter: DeadLetter, original: Original, replays: list[int]) -> str:
        try:
            sent = self.transport.send(with_origin(original, letter.origin), letter.partition)
        except (PermanentError, ConfigError) as exc:
            release(replays, str(exc))
            self.outcome.failed.append(str(letter))
            return f"refused: {exc}"
        except SinkError as exc:
            self.outcome.unconfirmed.append(str(letter))
            self.outcome.is_cut_short = True
            return f"not confirmed, it may have arrived: {exc}"
        confirm(replays, sent)
        self.outcome.replayed += 1
        self.outcome.letters += len(replays)
        self.arrived(letter, sent)
        return f"replayed to {sent.topic} {sent.partition}:{sent.offset}"


def pacer(
    rate: float, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Callable[[], None]:
    """Waits so that no more than ``rate`` a second pass, without catching up in a burst."""
    free_at = clock()

    def wait() -> None:
        nonlocal free_at
        now = clock()
        if free_at > now:
            sleep(free_at - now)
        free_at = max(free_at, now) + 1.0 / rate

    return wait


def resolve(letter: DeadLetter, actor: str, reason: str) -> bool:
    """Close an open letter for good, with the reason; False when it is not open any more."""
    return bool(
        DeadLetter.objects.filter(pk=letter.pk, state=LetterState.OPEN).update(
            state=LetterState.RESOLVED,
            resolved_at=timezone.now(),
            resolved_by=actor,
            resolution=reason,
        )
    )


def with_origin(original: Original, origin: str) -> Original:
    """Return the record with the header that says of which message it is a replay; it answers all
    letters of the message, so all its tasks run again."""
    left_out = (REPLAY_HEADER, ONLY_TASKS_HEADER)
    headers = [header for header in original.headers if header[0] not in left_out]
    headers.append((REPLAY_HEADER, origin.encode()))
    return Original(key=original.key, value=original.value, headers=headers)


@transaction.atomic
def claim(letter: DeadLetter, actor: str, topic: str, job: UUID | None = None) -> list[int]:
    """Take the letter, with every letter of the same message that waits: one record answers all.

    The rows are locked in one order and the state compared under the lock. Returns the ids of the
    replays made; none: somebody else was faster.
    """
    kin = DeadLetter.objects.select_for_update().filter(
        cluster=letter.cluster, origin=letter.origin, topic=letter.topic
    )
    if not letter.origin.startswith(f"{letter.cluster}/{letter.topic}/"):
        # Written by a release that took over the header of another stage: many share it.
        kin = kin.filter(partition=letter.partition, offset=letter.offset)
    states = dict(kin.order_by("id").values_list("id", "state"))
    waiting = {pk for pk, state in states.items() if state == LetterState.OPEN}
    if letter.state == LetterState.REPLAYED:
        waiting |= _give_up(list(states), actor)
    if letter.pk not in waiting:
        return []
    DeadLetter.objects.filter(pk__in=waiting).update(state=LetterState.REPLAYED)
    now = timezone.now()
    made = [
        Replay(letter_id=pk, job_id=job, actor=actor, target_topic=topic, asked_at=now)
        for pk in sorted(waiting)
    ]
    return [replay.pk for replay in Replay.objects.bulk_create(made)]


@transaction.atomic
def claim_messages(
    cluster: str, topic: str, places: Collection[tuple[int, int]], actor: str
) -> dict[tuple[int, int], list[int]]:
    """Take the open letters of messages ``(partition, offset)`` that are about to be sent again.

    Returns the ids of the replays made of each that has any. Confirm or ``release`` them.
    """
    offsets: dict[int, list[int]] = {}
    for partition, offset in places:
        offsets.setdefault(partition, []).append(offset)
    where = reduce(or_, (Q(partition=p, offset__in=each) for p, each in offsets.items()), Q())
    waiting = DeadLetter.objects.select_for_update().filter(
        where, cluster=cluster, topic=topic, state=LetterState.OPEN
    )
    letters = list(waiting.order_by("id").only("id", "partition", "offset")) if places else []
    DeadLetter.objects.filter(pk__in=[letter.pk for letter in letters]).update(
        state=LetterState.REPLAYED
    )
    now = timezone.now()
    made = Replay.objects.bulk_create(
        Replay(letter_id=letter.pk, actor=actor, target_topic=topic, asked_at=now)
        for letter in letters
    )
    found: dict[tuple[int, int], list[int]] = {}
    for letter, replayed in zip(letters, made, strict=True):
        found.setdefault((letter.partition, letter.offset), []).append(replayed.pk)
    return found


def _give_up(letters: Sequence[int], actor: str) -> set[int]:
    """End the old replays that nobody confirmed; the letters they were of."""
    lost = _unconfirmed().filter(letter__in=letters)
    found = set(lost.values_list("letter_id", flat=True))
    lost.update(error=f"never confirmed; sent again by {actor}")
    return found


def confirm(replays: Sequence[int], sent: Sent) -> None:
    """Note where the record that answers the letters was stored."""
    Replay.objects.filter(pk__in=replays).update(
        confirmed_at=timezone.now(),
        target_topic=sent.topic,
        target_partition=sent.partition,
        target_offset=sent.offset,
    )


@transaction.atomic
def release(replays: Sequence[int], error: str) -> None:
    """Open letters again: what they were to do surely was not done."""
    made = Replay.objects.filter(pk__in=replays)
    made.update(error=error.replace("\0", "") or "refused")
    letters = made.values_list("letter_id", flat=True)
    DeadLetter.objects.filter(pk__in=list(letters)).update(state=LetterState.OPEN)
