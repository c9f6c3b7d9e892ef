"""When to commit, and what a commit says besides its offset."""

from __future__ import annotations

import json
from dataclasses import dataclass

MAX_METADATA_CHARACTERS = 4095
"""Kafka's ``offset.metadata.max.bytes`` default, less one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitPolicy:
    """All partitions in one asynchronous commit, every so often or after so many fates."""

    interval_seconds: float = 0.5
    max_fates: int = 1000

    def is_due(self, *, since_seconds: float, passed: int) -> bool:
        """Whether to commit: ``passed`` offsets moved on since the last commit."""
        return passed > 0 and (since_seconds >= self.interval_seconds or passed >= self.max_fates)


@dataclass(frozen=True, slots=True, kw_only=True)
class CommitMetadata:
    """What the next owner must know: kept in Kafka because Postgres may be away.

    ``run`` is the owner's run id, ``deaths`` how many owners in a row died without progress,
    ``mark`` the offset in hand when one died, ``is_paused`` an operator's pause.
    """

    run: str
    deaths: int = 0
    mark: int | None = None
    is_paused: bool = False

    def encode(self) -> str:
        """Compact JSON, at most 4095 characters."""
        body: dict[str, object] = {"run": self.run, "deaths": self.deaths}
        if self.mark is not None:
            body["mark"] = self.mark
        if self.is_paused:
            body["paused"] = True
        return json.dumps(body, separators=(",", ":"))[:MAX_METADATA_CHARACTERS]

    @classmethod
    def decode(cls, text: str | None) -> CommitMetadata | None:
        """Read it back; None for another program's metadata or none at all."""
        try:
            body = json.loads(text or "")
            mark = body.get("mark")
            return cls(
                run=str(body["run"]),
                deaths=int(body.get("deaths", 0)),
                mark=None if mark is None else int(mark),
                is_paused=bool(body.get("paused", False)),
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            return None
