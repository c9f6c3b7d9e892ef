"""Carries what the owner thread tells onto the loop: one ``call_soon_threadsafe`` each, in
order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from domain.message import Record
from workers.ownership import Assignment, Claim, EndRequest, OwnerListener


class LoopBridge:
    """An ``OwnerListener`` that calls another one on the loop thread."""

    def __init__(self, loop: asyncio.AbstractEventLoop, target: OwnerListener) -> None:
        self._loop = loop
        self._target = target

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def joined(self, protocol: str) -> None:
        self._post(self._target.joined, protocol)

    def waiting(self, detail: str | None) -> None:
        self._post(self._target.waiting, detail)

    def idle(self, detail: str | None) -> None:
        self._post(self._target.idle, detail)

    def assigned(self, assignments: Sequence[Assignment]) -> None:
        self._post(self._target.assigned, assignments)

    def handed_over(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        self._post(self._target.handed_over, records)

    def ending(self, request: EndRequest) -> None:
        self._post(self._target.ending, request)

    def lost(self, claims: Sequence[Claim]) -> None:
        self._post(self._target.lost, claims)

    def committed(self, offsets: Mapping[Claim, int]) -> None:
        self._post(self._target.committed, offsets)

    def commit_failed(self, code: str, detail: str) -> None:
        self._post(self._target.commit_failed, code, detail)

    def marked(self, claim: Claim, offset: int) -> None:
        self._post(self._target.marked, claim, offset)

    def stalled(self, claim: Claim, position: int, end_offset: int) -> None:
        self._post(self._target.stalled, claim, position, end_offset)

    def out_of_range(self, claim: Claim, detail: str) -> None:
        self._post(self._target.out_of_range, claim, detail)

    def stopped(self) -> None:
        self._post(self._target.stopped)

    def failed(self, error: BaseException) -> None:
        self._post(self._target.failed, error)
