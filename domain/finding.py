"""Kinds of findings: how bad each is, and where the runbook tells of it."""

from __future__ import annotations

from enum import StrEnum


class Severity(StrEnum):
    """Whom a finding concerns: nobody at once, somebody in the morning, or somebody now."""

    NOTICE = "notice"
    WARN = "warn"
    PAGE = "page"

    @property
    def rank(self) -> int:
        """Place among the severities, the mildest first."""
        return tuple(Severity).index(self)


class FindingKind(StrEnum):
    """Invariants that can be broken; each is a heading of docs/runbook.md."""

    NO_WORKER = "no_worker"
    LAG_GROWS = "lag_grows"
    WORKER_LOST = "worker_lost"
    HEARTBEAT_LATE = "heartbeat_late"
    WORKER_IDLE = "worker_idle"
    WORKER_PAUSED = "worker_paused"
    PARTITION_PAUSED = "partition_paused"
    PAUSED = "paused"
    CONTROLLER_SILENT = "controller_silent"
    PARKED = "parked"
    DEAD_LETTER_FLOOD = "dead_letter_flood"
    STALLED = "stalled"
    FAILURE_GROUP = "failure_group"
    TASKS_FAIL = "tasks_fail"
    COMMIT_BLOCKED = "commit_blocked"
    BREAKER_OPEN = "breaker_open"
    SINK_PAUSED = "sink_paused"
    HISTORY_AWAY = "history_away"
    HISTORY_SPOOLED = "history_spooled"
    HISTORY_GAPS = "history_gaps"

    @property
    def severity(self) -> Severity:
        """Severity of every finding of the kind."""
        if self in _PAGES:
            return Severity.PAGE
        return Severity.NOTICE if self in _NOTICES else Severity.WARN


_PAGES = {
    FindingKind.NO_WORKER,
    FindingKind.WORKER_LOST,
    FindingKind.CONTROLLER_SILENT,
    FindingKind.PARKED,
    FindingKind.DEAD_LETTER_FLOOD,
    FindingKind.STALLED,
    FindingKind.BREAKER_OPEN,
}
_NOTICES = {
    FindingKind.HEARTBEAT_LATE,
    FindingKind.WORKER_IDLE,
    FindingKind.WORKER_PAUSED,
    FindingKind.PARTITION_PAUSED,
    FindingKind.PAUSED,
    FindingKind.SINK_PAUSED,
}


def anchor(kind: str, cause: str = "") -> str:
    """Return the anchor of docs/runbook.md for a kind, and for its cause where it has one."""
    return f"{kind}-{cause}" if cause else kind
