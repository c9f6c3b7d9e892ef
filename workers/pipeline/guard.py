"""The crash guard: after owners died in a row, one step at a time, and the group knows which.

A *step* is what runs inside the worker for a message: parse, arrange, a hook. Under the guard the
steps of a partition run one after another, each once the group has its mark, so that a death in
one tells of which message. Programs and deliveries run beside each other as ever; the group knows
which before they start. A message that is suspected has the partition for itself until it has its
fate.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from enum import Enum
from typing import cast

from domain.commit import CommitMetadata
from workers.consumer.ownership import NO_NOTE, GuardNote

GUARDED_DEATHS = 2
POISON_STRIKES = 3
LONE_DEATHS = 5
GUARDED_MESSAGES = 500
"""Messages that must pass before a partition is trusted again of which none is suspected."""


class _Unguarded:
    """Asynchronous context without effect, without the coroutines of ``nullcontext``."""

    def __aenter__(self) -> _Unguarded:
        return self

    def __aexit__(self, *_: object) -> _Unguarded:
        return self

    def __await__(self) -> Iterator[None]:
        return iter(())


UNGUARDED = cast(AbstractAsyncContextManager[None], _Unguarded())


class Verdict(Enum):
    """Verdict on a message before anything of it runs."""

    TRY = "try"
    POISON = "poison"
    SUSPECT = "suspect"


class CrashGuard:
    """One partition's guard for one epoch; used on the loop thread."""

    def __init__(self, inherited: CommitMetadata, publish: Callable[[], None]) -> None:
        self._publish = publish
        self.note = NO_NOTE
        """Note of the commit metadata on this partition, besides its offset."""
        self._mark: int | None = None
        self._running: dict[str, int] = {}
        self._steps = asyncio.Lock()
        self._known = 0
        self._heard = asyncio.Event()
        self._alone: int | None = None
        self._is_forgiven = False
        self._is_draining = False
        self.inherit(inherited)

    def inherit(self, inherited: CommitMetadata) -> None:
        """Begin with this; later: with less, when former owners turn out to live."""
        self._inherited = inherited
        named = (inherited.suspect, inherited.lone)
        self._named = {offset for offset in named if offset is not None}
        is_needed = inherited.deaths >= GUARDED_DEATHS or bool(self._named)
        self._left = GUARDED_MESSAGES if is_needed else 0
        self._is_noting = inherited.deaths > 0 or is_needed
        if not self._is_noting:
            self._end()

    @property
    def is_active(self) -> bool:
        """Whether steps are marked and messages are arranged one at a time."""
        return self._left > 0

    @property
    def is_noting(self) -> bool:
        """Whether the group is told of programs and deliveries."""
        return self._is_noting

    # -- which messages

    def may_begin(self, offset: int, in_hand: int) -> bool:
        """Whether a message may be arranged while ``in_hand`` others are unfinished."""
        if not self.is_active or not in_hand:
            return True
        return self._alone is None and offset not in self._named

    def judge(self, offset: int) -> Verdict:
        """Return the verdict on the next message; it is in hand from now on."""
        found = self._inherited
        if offset == found.suspect and found.strikes >= POISON_STRIKES:
            return Verdict.POISON
        is_lone = offset == found.lone and found.lone_deaths >= LONE_DEATHS
        if is_lone and not self._is_forgiven:
            return Verdict.SUSPECT
        if offset in self._named:
            self._alone = offset
        return Verdict.TRY

    @property
    def poison_reason(self) -> str:
        """Why the suspected message is not tried again."""
        return f"{self._inherited.strikes} workers in a row died during a step of it"

    @property
    def suspect_reason(self) -> str:
        """Why an operator has to decide, with the message and its task."""
        found = self._inherited
        return (
            f"offset {found.lone}: {found.lone_deaths} workers in a row died while nothing of the "
            f"partition but its program or delivery ran (task {found.lone_task or 'unknown'})"
        )

    def forgive(self) -> None:
        """An operator wants the suspect run once more."""
        self._is_forgiven = True

    def passed(self, offset: int) -> None:
        """A message has its fate: with the last suspected one the guard ends."""
        if not self._is_noting:
            return
        self._left = max(0, self._left - 1)
        if offset == self._alone:
            self._alone = None
        if self._named:
            # It had the partition for itself: one below that did not come is no longer there.
            self._named = {named for named in self._named if named > offset}
            self._left = self._left if self._named else 0
        if not self._left:
            self._end()

    def _end(self) -> None:
        """Steps and programs go on without notes."""
        self._left, self._is_noting = 0, False
        self._mark = None
        self._running.clear()
        self._say()
        self._heard.set()

    # -- what the group knows

    def step(self, offset: int) -> AbstractAsyncContextManager[None]:
        """Around a step of a message; under the guard it begins when the group has its mark."""
        return self._marked(offset) if self._left else UNGUARDED

    @asynccontextmanager
    async def _marked(self, offset: int) -> AsyncIterator[None]:
        async with self._steps:
            self._mark = offset if self._left else None
            try:
                await self._until_known(self._say())
                yield
            finally:
                self._mark = None
                self._say()

    def work(self, offset: int, task: str) -> AbstractAsyncContextManager[None]:
        """Around what may last and is no step: a program, a delivery. Under the guard it starts
        when the group knows of it; a death in it is held against nobody."""
        return self._noted(offset, task) if self._is_noting else UNGUARDED

    @asynccontextmanager
    async def _noted(self, offset: int, task: str) -> AsyncIterator[None]:
        self._running[task] = offset
        try:
            await self._until_known(self._say())
            yield
        finally:
            self._running.pop(task, None)
            self._say()

    def _say(self) -> int:
        """Publish what runs now; the number of the note that says so."""
        lowest = min(self._running.values(), default=None)
        task = next((name for name, offset in self._running.items() if offset == lowest), "")
        is_alone = len(set(self._running.values())) == 1
        said = self.note
        now = (self._mark, lowest, task, is_alone)
        if now != (said.mark, said.running, said.task, said.is_alone):
            self.note = GuardNote(said.number + 1, *now)
            self._publish()
        return self.note.number

    async def _until_known(self, number: int) -> None:
        while self._left and not self._is_draining and self._known < number:
            self._heard.clear()
            await self._heard.wait()

    def drain(self) -> None:
        """Wait for no answers: the consumer thread, which waits for the end of this epoch or of
        another, reads none. It sends the notes all the same."""
        self._is_draining = True
        self._heard.set()

    def resume(self) -> None:
        """Wait for answers again: the end of the other epochs is over."""
        self._is_draining = False

    def noted(self, number: int) -> None:
        """The group has this note."""
        self._known = max(self._known, number)
        self._heard.set()
