"""What a person says of a group of failures: acknowledged, resolved, ignored, open; note, owner."""

from __future__ import annotations

from datetime import datetime

from domain.paging import BadFilter
from recorder.models import FailureGroup, FailureState

MAX_NOTE, MAX_OWNER = 2000, 150
TENFOLD = 10
ACTIONS = {
    "acknowledge": FailureState.ACKNOWLEDGED,
    "resolve": FailureState.RESOLVED,
    "ignore": FailureState.IGNORED,
    "reopen": FailureState.OPEN,
    "note": None,
}
"""State that each action leads to; None: as it is."""


def change(
    group: FailureGroup,
    action: str,
    *,
    actor: str,
    now: datetime,
    note: str | None = None,
    owner: str | None = None,
    until: datetime | None = None,
) -> None:
    """Change what is said of a group and store that; counts are left alone. Raises BadFilter.

    ``ignore`` holds until the group has failed ten times as often as now, or, with ``until``, until
    it fails after that. A resolved group is open again at its next failure.
    """
    if action not in ACTIONS:
        raise BadFilter(f"action: expected one of {', '.join(ACTIONS)}, got {action[:40]}")
    for name, text, most in (("note", note, MAX_NOTE), ("owner", owner, MAX_OWNER)):
        if text is not None and len(text) > most:
            raise BadFilter(f"{name}: expected at most {most} characters, got {len(text):,}")
    if until is not None and (action != "ignore" or until <= now):
        raise BadFilter("until: expected a time to come, of the action ignore")
    changes: dict[str, object] = {"changed_at": now, "changed_by": actor}
    if note is not None:
        changes["note"] = note
    if owner is not None:
        changes["owner"] = owner
    state = ACTIONS[action]
    if state is not None:
        is_ignored = state is FailureState.IGNORED
        changes |= {
            "state": state,
            "resolved_at": now if state is FailureState.RESOLVED else None,
            "ignored_until": until if is_ignored else None,
            "ignored_count": TENFOLD * group.count if is_ignored and until is None else None,
            "came_back_at": None,
        }
    FailureGroup.objects.filter(pk=group.pk).update(**changes)
    group.refresh_from_db()
