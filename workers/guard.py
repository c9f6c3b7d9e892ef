"""The crash guard: after owners died in a row, messages are taken one at a time, each marked."""

from __future__ import annotations

import asyncio

from domain.commit import CommitMetadata

GUARDED_DEATHS = 2
POISON_STRIKES = 3
GUARDED_MESSAGES = 500
"""How many messages must pass before a partition is trusted again."""


class CrashGuard:
    """One partition's guard for one epoch; used on the loop thread."""

    def __init__(self, legacy: CommitMetadata) -> None:
        self._suspect, self._strikes = legacy.suspect, legacy.strikes
        is_needed = legacy.deaths >= GUARDED_DEATHS or legacy.strikes > 0
        self._left = GUARDED_MESSAGES if is_needed else 0
        self._marked = asyncio.Event()
        self.mark: int | None = None
        """The offset whose steps run now; it stands in the commit metadata."""

    @property
    def is_active(self) -> bool:
        """Whether messages are taken one at a time."""
        return self._left > 0

    def poison(self, offset: int) -> str | None:
        """Why a message must not be tried again, or None."""
        if offset != self._suspect or self._strikes < POISON_STRIKES:
            return None
        return f"{self._strikes} workers in a row died while they had it in hand"

    def begin(self, offset: int) -> None:
        """Mark a message; ``wait`` returns when the group has the mark.

        A mark that stands already is not committed, so not acknowledged, a second time.
        """
        if offset != self.mark:
            self.mark = offset
            self._marked.clear()

    def marked(self, offset: int) -> None:
        """The group has this mark."""
        if offset == self.mark:
            self._marked.set()

    async def wait(self) -> None:
        """Until the group has the mark."""
        await self._marked.wait()

    def passed(self, offset: int) -> None:
        """A message has its fate."""
        self._left = max(0, self._left - 1)
        if offset == self.mark:
            self.mark = None
