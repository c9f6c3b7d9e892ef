"""Delivers the payloads of letters straight to the sinks that refused them, by live workers.

As with replays to the source a letter is claimed before and confirmed after; here each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum
from uuid import UUID

from django.db import transaction
from django.utils import timezone

from domain.failure import Stage
from domain.origin import is_of_several
from sinks.models import DeadLetter, LetterState, Replay
from sinks.replay import Outcome, release

CHUNK_LETTERS = 40


class RedeliveryOutcome(StrEnum):
    """End of a payload. UNKNOWN: it may have been stored."""

    STORED = "stored"
    REFUSED = "refused"
    GONE = "gone"
    UNKNOWN = "unknown"


class NoLiveWorker(Exception):
    """Nobody is there who could deliver; the text says what would help."""


Redeliver = Callable[
    [Sequence[DeadLetter], str, Callable[[], None]], Sequence[tuple[RedeliveryOutcome, str]]
]
"""Delivers letters of one cluster for an actor, and calls the third meanwhile now and then; what
became of each, in order. Raises NoLiveWorker; nothing was delivered then."""
Told = Callable[[DeadLetter, str], None]


def deliver_chunk(
    letters: Sequence[DeadLetter],
    redeliver: Redeliver,
    *,
    actor: str,
    job: UUID,
    outcome: Outcome,
    tick: Callable[[], None],
    told: Told,
) -> list[DeadLetter]:
    """Deliver a few letters at once; those that were stored. Raises NoLiveWorker."""
    claimed = [(letter, made) for letter in letters if (made := _claim(letter, actor, job))]
    outcome.taken += len(letters) - len(claimed)
    try:
        outcomes = redeliver([letter for letter, _ in claimed], actor, tick) if claimed else ()
    except NoLiveWorker:
        for _, made in claimed:
            release([made], "no worker took it")
        raise
    stored: list[DeadLetter] = []
    for (letter, made), (came, detail) in zip(claimed, outcomes, strict=True):
        if came is RedeliveryOutcome.REFUSED and any(_is_with(letter, other) for other in stored):
            came = RedeliveryOutcome.STORED
        told(letter, _end(letter, made, came, detail, outcome))
        if came is RedeliveryOutcome.STORED:
            stored.append(letter)
            outcome.letters += _answer_others(letter, actor, job)
    return stored


def _is_with(letter: DeadLetter, stored: DeadLetter) -> bool:
    """Whether both are of one payload that several messages made, and one refusal of it."""
    same = ("cluster", "topic", "stage", "sink", "task_id", "delivery_id")
    is_same = all(getattr(letter, name) == getattr(stored, name) for name in same)
    return is_same and letter.origin != stored.origin and _is_from_several(stored)


def _is_from_several(letter: DeadLetter) -> bool:
    ids = (letter.task_id, letter.delivery_id)
    return letter.stage == Stage.DELIVER and any(is_of_several(each) for each in ids)


@transaction.atomic
def _answer_others(letter: DeadLetter, actor: str, job: UUID) -> int:
    """Close the letters of the other messages that the stored payload was made from; how many."""
    if not _is_from_several(letter):
        return 0
    others = DeadLetter.objects.select_for_update().filter(
        cluster=letter.cluster,
        topic=letter.topic,
        stage=letter.stage,
        sink=letter.sink,
        task_id=letter.task_id,
        delivery_id=letter.delivery_id,
        state=LetterState.OPEN,
    )
    open_ones = others.exclude(origin=letter.origin).order_by("id")
    answered = list(open_ones.values_list("id", flat=True))
    now, target = timezone.now(), _target(letter)
    Replay.objects.bulk_create(
        Replay(
            letter_id=pk,
            job_id=job,
            actor=actor,
            target_topic=target,
            asked_at=now,
            confirmed_at=now,
        )
        for pk in answered
    )
    return DeadLetter.objects.filter(pk__in=answered).update(state=LetterState.REPLAYED)


def _target(letter: DeadLetter) -> str:
    return f"sink {letter.sink}"[:249]


@transaction.atomic
def _claim(letter: DeadLetter, actor: str, job: UUID) -> int | None:
    """Return the id of the replay made; None: somebody else was faster."""
    is_taken = DeadLetter.objects.filter(pk=letter.pk, state=LetterState.OPEN).update(
        state=LetterState.REPLAYED
    )
    if not is_taken:
        return None
    now = timezone.now()
    made = Replay(
        letter=letter, job_id=job, actor=actor, target_topic=_target(letter), asked_at=now
    )
    made.save()
    return int(made.pk)


def _end(
    letter: DeadLetter, made: int, came: RedeliveryOutcome, detail: str, outcome: Outcome
) -> str:
    if came is RedeliveryOutcome.STORED:
        Replay.objects.filter(pk=made).update(confirmed_at=timezone.now())
        outcome.replayed += 1
        outcome.letters += 1
        return f"replayed to sink {letter.sink}"
    if came is RedeliveryOutcome.UNKNOWN:
        outcome.unconfirmed.append(str(letter))
        return f"not confirmed, it may have been stored: {detail}"
    release([made], detail)
    if came is RedeliveryOutcome.GONE:
        outcome.expired += DeadLetter.objects.filter(pk=letter.pk, state=LetterState.OPEN).update(
            state=LetterState.EXPIRED
        )
        return "expired: the topic does not hold it any more"
    outcome.failed.append(str(letter))
    return f"refused: {detail}"
