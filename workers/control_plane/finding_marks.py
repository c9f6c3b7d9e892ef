"""Marks of findings: who has taken one on or silenced it, why and until when."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from django.db.models.functions import Now

from workers.control_plane.findings import Finding
from workers.models import FindingMark, MarkKind

MAX_HOURS = 24 * 30
MAX_REASON = 500


@dataclass(frozen=True, slots=True)
class Marked:
    """A finding with its mark (None: nobody marked it), and those that are part of it."""

    finding: Finding
    mark: FindingMark | None
    parts: Sequence[Finding] = ()

    @property
    def is_silenced(self) -> bool:
        """Whether it is folded away."""
        return self.mark is not None and self.mark.kind == MarkKind.SILENCED


def standing_marks() -> list[FindingMark]:
    """Return the marks that have not ended, those that end first first. Raises DatabaseError."""
    return list(FindingMark.objects.filter(until__gt=Now()).order_by("until", "id"))


def with_marks(found: Iterable[Finding]) -> list[Marked]:
    """Return each finding that is part of no other with its mark, in their order. Raises
    DatabaseError."""
    marks = {mark.key: mark for mark in standing_marks()}
    parts: dict[str, list[Finding]] = {}
    for finding in found:
        parts.setdefault(finding.part_of, []).append(finding)
    return [
        Marked(finding, marks.get(finding.key), parts.get(finding.key, ()))
        for finding in parts.get("", ())
    ]


def mark(finding: Finding, kind: MarkKind, owner: str, reason: str, hours: float) -> None:
    """Mark a finding from now on; a mark it has is replaced. Raises ValueError naming what is
    wrong, DatabaseError."""
    if not 0 < hours <= MAX_HOURS:
        raise ValueError(f"hours: expected more than 0, at most {MAX_HOURS}, got {hours:g}")
    if not reason or len(reason) > MAX_REASON:
        raise ValueError(f"reason: expected 1 to {MAX_REASON} characters, got {len(reason)}")
    FindingMark.objects.update_or_create(
        key=finding.key,
        defaults={
            "cluster": finding.cluster,
            "title": finding.title,
            "kind": kind,
            "owner": owner,
            "reason": reason,
            "since": Now(),
            "until": Now() + timedelta(hours=hours),
            "seen_at": Now(),
        },
    )


def unmark(key: str) -> None:
    """End a mark; nothing where there is none. Raises DatabaseError."""
    FindingMark.objects.filter(key=key).delete()
