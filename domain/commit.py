"""When to commit, and what a commit says besides its offset."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace

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

    ``run`` is the owner's run id; ``has_left`` that it gave the partition up by itself; ``deaths``
    how many owners in a row died without progress; ``mark`` the offset in hand; ``suspect`` the
    offset whose mark ``strikes`` dead owners in a row left behind; ``is_paused`` an operator's
    pause.
    """

    run: str
    has_left: bool = False
    deaths: int = 0
    mark: int | None = None
    suspect: int | None = None
    strikes: int = 0
    is_paused: bool = False

    def encode(self) -> str:
        """Compact JSON, at most 4095 characters; what has its default is left out."""
        values = {name: getattr(self, field) for name, field in _NAMES.items()}
        body = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        return json.dumps(body, separators=(",", ":"))[:MAX_METADATA_CHARACTERS]

    @classmethod
    def decode(cls, text: str | None) -> CommitMetadata | None:
        """Read it back; None for another program's metadata or none at all."""
        try:
            body = json.loads(text or "")
            return cls(
                run=str(body["run"]),
                has_left=bool(body.get("left", False)),
                deaths=int(body.get("deaths", 0)),
                mark=_offset(body.get("mark")),
                suspect=_offset(body.get("suspect")),
                strikes=int(body.get("strikes", 0)),
                is_paused=bool(body.get("paused", False)),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    @classmethod
    def inherit(cls, former: CommitMetadata | None, run: str) -> CommitMetadata:
        """What a new owner begins with. An owner that left, or this very run, did not die.

        An owner that died with no mark counts against no message.
        """
        if former is None:
            return cls(run=run)
        heir = replace(former, run=run, has_left=False, mark=None)
        if former.has_left or former.run == run:
            return heir
        if former.mark is None:
            return replace(heir, deaths=former.deaths + 1)
        strikes = former.strikes + 1 if former.suspect == former.mark else 1
        return replace(heir, deaths=former.deaths + 1, suspect=former.mark, strikes=strikes)


NO_LEGACY = CommitMetadata(run="")
"""What a partition begins with when nobody left word."""

_NAMES = {
    "run": "run",
    "left": "has_left",
    "deaths": "deaths",
    "mark": "mark",
    "suspect": "suspect",
    "strikes": "strikes",
    "paused": "is_paused",
}


_DEFAULTS = {
    name: CommitMetadata.__dataclass_fields__[field].default for name, field in _NAMES.items()
}


def _offset(value: object) -> int | None:
    return int(value) if isinstance(value, (int, str)) else None
