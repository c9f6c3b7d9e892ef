"""Events of letters: the same, whoever sends or closes them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from django.utils import timezone

from domain.events import Replayed, Resolved, Tell
from sinks.models import DeadLetter
from sinks.replay import Sent


def tell_sent(
    tell: Tell, letter: DeadLetter, sent: Sent, actor: str, edited: Sequence[str] = ()
) -> None:
    """A record that answers the letter is in its topic; ``edited``: what was changed of it."""
    _replayed(tell, letter, f"{sent.topic} {sent.partition}:{sent.offset}", actor, edited)


def tell_stored(tell: Tell, letter: DeadLetter, actor: str) -> None:
    """Confirm a letter whose payload is in its sink."""
    _replayed(tell, letter, f"sink {letter.sink}", actor, ())


def tell_resolved(tell: Tell, letter: DeadLetter, actor: str, reason: str) -> None:
    """A person closed the letter."""
    tell(Resolved(at=_now(), actor=actor, reason=reason, **_place(letter)))


def _replayed(
    tell: Tell, letter: DeadLetter, target: str, actor: str, edited: Sequence[str]
) -> None:
    parts = tuple(edited) or None
    tell(Replayed(at=_now(), target=target, actor=actor, edited=parts, **_place(letter)))


def _place(letter: DeadLetter) -> dict[str, Any]:
    return {"topic": letter.topic, "partition": letter.partition, "offset": letter.offset}


def _now() -> float:
    return timezone.now().timestamp()
