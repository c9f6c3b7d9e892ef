"""Reruns for readers: what one would do, as a document and in words, and how far one got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from workers.control_plane.rerun.filters import Filters
from workers.control_plane.rerun.jobs import counts_of
from workers.control_plane.rerun.matching import MAX_MESSAGES, Chosen, Match
from workers.models import RerunJob

SHOWN_MATCHES = 10
COUNTS = {
    "sent": "sent again",
    "ended_well": "of these ended well",
    "failed_again": "of these failed again",
    "on_their_way": "of these have not ended yet",
    "waiting": "wait to be sent",
    "gone": "gone: the topic does not hold them any more",
    "left_out": "left out: ended well, sent by others, cancelled, or of another key",
    "refused": "refused by Kafka",
    "sending": "not confirmed: look for them in the source topic",
}
"""What the counts of a rerun mean."""


def document_of(chosen: Chosen, filters: Filters) -> dict[str, Any]:
    """Return what a rerun would be for, as JSON has it."""
    return {
        "filters": filters.texts(),
        "messages": len(chosen.matches),
        "tasks": chosen.tasks,
        "oldest": _iso(chosen.oldest),
        "newest": _iso(chosen.newest),
        "by_failure": dict(chosen.by_kind),
        "sent_already": chosen.sent_already,
        "failures_seen": chosen.failures_seen,
        "looked_to": _iso(chosen.looked_to),
        "is_cut": chosen.is_cut,
        "first": [_match(match) for match in chosen.matches[:SHOWN_MATCHES]],
    }


def words_of(chosen: Chosen, filters: Filters) -> list[str]:
    """Return the same as lines of text."""
    span = ""
    if chosen.oldest and chosen.newest:
        span = f", failed from {_iso(chosen.oldest)} to {_iso(chosen.newest)}"
    messages = _many(len(chosen.matches), "message")
    found = [f"{filters.cluster}, {filters}: {messages} would be run again"]
    if chosen.matches:
        found.append(f"  with {_many(chosen.tasks, 'failed task')}{span}")
    found += [f"  {count} by {kind}" for kind, count in chosen.by_kind]
    if chosen.sent_already:
        found.append(f"  {chosen.sent_already} more were sent again already (see --again)")
    if chosen.is_cut:
        found.append(f"  more match than one rerun takes ({MAX_MESSAGES}); ask again for the rest")
    if chosen.looked_to:
        found.append(
            f"  failures from {_iso(chosen.looked_to)} on were not looked at (see --since)"
        )
    if filters.key:
        found.append("  the key is compared when a message is read, so there may be fewer")
    return found


def progress_of(job: RerunJob) -> dict[str, Any]:
    """Return how far a rerun got, for pages: its counts in words, in a fixed order."""
    counts: Mapping[str, int] = counts_of(job)
    return {"counts": [(counts[name], text) for name, text in COUNTS.items() if counts.get(name)]}


def _many(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"


def _match(match: Match) -> dict[str, Any]:
    return {
        "topic": match.topic,
        "partition": match.place[0],
        "offset": match.place[1],
        "tasks": list(match.tasks),
        "failure": match.failure,
        "fate": match.fate,
        "at": _iso(match.at),
    }


def _iso(at: Any) -> str | None:
    return at.isoformat() if at is not None else None
