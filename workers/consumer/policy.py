"""Behaviour of the consumer thread."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from domain.commit import CommitPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class ConsumerPolicy:
    """Behaviour of the consumer thread. All times in seconds."""

    run: str
    max_poll_records: int = 500
    start_at: Literal["earliest", "latest", "error"] = "earliest"
    """For the source; the retry topic always begins with its first message."""
    retry_topic: str | None = None
    revoke_timeout_seconds: float = 5.0
    slice_seconds: float = 0.05
    noting_slice_seconds: float = 0.002
    noting_seconds: float = 0.25
    no_room_seconds: float = 1.0
    first_check_seconds: float = 10.0
    check_interval_seconds: float = 60.0
    figures_interval_seconds: float = 1.0
    retry_seconds: float = 1.0
    ask_timeout_seconds: float = 5.0
    stall_seconds: float = 30.0
    idle_seconds: float = 60.0
    refused_seconds: float = 30.0
    close_timeout_seconds: float = 5.0
    commit: CommitPolicy = field(default_factory=CommitPolicy)

    def start_of(self, topic: str) -> Literal["earliest", "latest", "error"]:
        """Return where a group without offsets begins in a topic."""
        return "earliest" if topic == self.retry_topic else self.start_at
