"""Delivers the payloads of letters straight to the sinks that refused them, by live workers.

As with replays to the source a letter is claimed before and confirmed after; here each by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from enum import StrEnum

from django.db import transaction
from django.utils import timezone

from sinks.models import DeadLetter, LetterState, Replay
from sinks.replay import Outcome, release

CHUNK_LETTERS = 40


class Arrival(StrEnum):
    """What became of a payload. UNKNOWN: it may have been stored."""

    STORED = "stored"
    REFUSED = "refused"
    GONE = "gone"
    UNKNOWN = "unknown"


class NoCourier(Exception):
    """Nobody is there who could deliver; the text says what would help."""


Courier = Callable[[Sequence[DeadLetter], str, Callable[[], None]], Sequence[tuple[Arrival, str]]]
"""Delivers letters of one cluster for an actor, and calls the third meanwhile now and then; what
became of each, in order. Raises NoCourier; nothing was delivered then."""
Told = Callable[[DeadLetter, str], None]


def deliver_chunk(
    letters: Sequence[DeadLetter],
    courier: Courier,
    *,
    actor: str,
    outcome: Outcome,
    tick: Callable[[], None],
    told: Told,
) -> list[DeadLetter]:
    """Deliver a few letters at once; those that were stored. Raises NoCourier."""
    claimed = [(letter, made) for letter in letters if (made := _claim(letter, actor))]
    outcome.taken += len(letters) - len(claimed)
    try:
        arrivals = courier([letter for letter, _ in claimed], actor, tick) if claimed else ()
    except NoCourier:
        for _, made in claimed:
            release([made], "no worker took it")
        raise
    stored = []
    for (letter, made), (arrival, detail) in zip(claimed, arrivals, strict=True):
        told(letter, _end(letter, made, arrival, detail, outcome))
        if arrival is Arrival.STORED:
            stored.append(letter)
    return stored


@transaction.atomic
def _claim(letter: DeadLetter, actor: str) -> int | None:
    """The id of the replay made; None: somebody else was faster."""
    is_taken = DeadLetter.objects.filter(pk=letter.pk, state=LetterState.OPEN).update(
        state=LetterState.REPLAYED
    )
    if not is_taken:
        return None
    target = f"sink {letter.sink}"[:249]
    made = Replay(letter=letter, actor=actor, target_topic=target, asked_at=timezone.now())
    made.save()
    return int(made.pk)


def _end(letter: DeadLetter, made: int, arrival: Arrival, detail: str, outcome: Outcome) -> str:
    if arrival is Arrival.STORED:
        Replay.objects.filter(pk=made).update(confirmed_at=timezone.now())
        outcome.replayed += 1
        outcome.letters += 1
        return f"replayed to sink {letter.sink}"
    if arrival is Arrival.UNKNOWN:
        outcome.unconfirmed.append(str(letter))
        return f"not confirmed, it may have been stored: {detail}"
    release([made], detail)
    if arrival is Arrival.GONE:
        outcome.expired += DeadLetter.objects.filter(pk=letter.pk, state=LetterState.OPEN).update(
            state=LetterState.EXPIRED
        )
        return "expired: the topic does not hold it any more"
    outcome.failed.append(str(letter))
    return f"refused: {detail}"
