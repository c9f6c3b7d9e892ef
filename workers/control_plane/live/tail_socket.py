"""``/ws/tail/<cluster>/<task>``: what a task prints while it runs, and how it stands.

Every frame is a ``tail``. ``is_anew`` says: forget the text that you show. ``state`` is a word of
``TailState``, or ``connecting`` (the worker has not answered yet), or ``lost`` (no live worker has
the task). ``cursor`` is empty: a client that comes back begins with what is kept.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import orjson

from domain.beat import to_json
from domain.live_tail import Written
from domain.origin import TASK_ID
from workers.control_plane.live.paced import AWAY, UNKNOWN, Admit, PacedConsumer
from workers.control_plane.live.tail_hub import TAILS, Name, SharedTail, TooManyTails

MAX_TASK_ID = 255
REPEAT_SECONDS = 2.0
"""A frame comes at least so often: a client that hears nothing for longer is cut off."""
FRAME_CHARACTERS = 100_000
CONNECTING, LOST = "connecting", "lost"
_TASK_ID = re.compile(TASK_ID, re.ASCII)


@dataclass(frozen=True, slots=True, kw_only=True)
class TailFrame:
    """What is new since the frame before; ``facts`` are those of ``TailFacts`` that are known."""

    n: int
    is_anew: bool
    state: str
    worker: str | None
    facts: dict[str, Any]
    written: list[Written]
    cursor: dict[str, int] = field(default_factory=dict)
    type: Literal["tail"] = "tail"


class TailConsumer(PacedConsumer):
    """One reader of one task."""

    def __init__(self, admit: Admit) -> None:
        super().__init__(admit)
        self._name: Name = ("", "")

    def _asked(self) -> int | None:
        self._name = self.scope["tail"]
        return UNKNOWN if not is_task_id(self._name[1]) else None

    async def _send_until(self) -> int:
        """Send what is kept, then what comes."""
        try:
            tail = TAILS.join(self._name)
        except TooManyTails:
            return AWAY
        try:
            return await self._send_frames(tail)
        finally:
            TAILS.leave(self._name)

    async def _send_frames(self, tail: SharedTail) -> int:
        number, version = -1, 0
        while not tail.is_away:
            if tail.is_located:
                version = tail.version
                is_anew, written, number = tail.since(number)
                for part in _parts(written):
                    frame = self._frame(tail, part, is_anew=is_anew)
                    text = orjson.dumps(asdict(frame)).decode()
                    if (code := await self._paced(frame.n, text)) is not None:
                        return code
                    is_anew = False
            if tail.version == version:
                await self._news(tail)
        return AWAY

    def _frame(self, tail: SharedTail, written: list[Written], *, is_anew: bool) -> TailFrame:
        return TailFrame(
            n=self._next(),
            is_anew=is_anew,
            state=_state_of(tail),
            worker=tail.worker,
            facts={} if tail.facts is None else to_json(tail.facts),
            written=written,
        )

    async def _news(self, tail: SharedTail) -> None:
        """Wait until something was looked at, not for ever."""
        with suppress(TimeoutError):
            await asyncio.wait_for(tail.changed.wait(), REPEAT_SECONDS)


def _parts(written: list[Written]) -> list[list[Written]]:
    """Return it in parts that fit into frames, though JSON writes a control character as six; at
    least one."""
    parts: list[list[Written]] = [[]]
    size = 0
    for each in written:
        if size + len(each.text) > FRAME_CHARACTERS and parts[-1]:
            parts.append([])
            size = 0
        parts[-1].append(each)
        size += len(each.text)
    return parts


def is_task_id(text: str) -> bool:
    """Tell whether a task could have such an id."""
    return len(text) <= MAX_TASK_ID and _TASK_ID.fullmatch(text) is not None


def _state_of(tail: SharedTail) -> str:
    if tail.worker is None:
        return LOST
    return CONNECTING if tail.facts is None else tail.facts.state
