"""Carries what the consumer thread tells onto the loop: one ``call_soon_threadsafe`` each, in
order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from domain.commit import CommitMetadata
from domain.message import Record
from workers.consumer.ownership import Assignment, Claim, EndRequest
from workers.pipeline.epochs import Epochs
from workers.runtime.membership import Membership


class LoopBridge:
    """An ``OwnerListener`` that calls, on the loop thread, whoever owns what was told of."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        membership: Membership,
        epochs: Epochs,
        fail: Callable[[BaseException], None],
    ) -> None:
        self._loop = loop
        self._membership = membership
        self._epochs = epochs
        self._fail = fail

    def _post(self, call: Callable[..., None], *args: Any) -> None:
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(call, *args)

    def joined(self, protocol: str) -> None:
        self._post(self._membership.joined, protocol)

    def waiting(self, detail: str | None) -> None:
        self._post(self._membership.waiting, detail)

    def idle(self, detail: str | None) -> None:
        self._post(self._membership.idle, detail)

    def assigned(self, assignments: Sequence[Assignment]) -> None:
        self._post(self._epochs.assigned, assignments)

    def handed_over(self, records: Mapping[Claim, Sequence[Record]]) -> None:
        self._post(self._epochs.handed_over, records)

    def ending(self, request: EndRequest) -> None:
        self._post(self._epochs.ending, request)

    def lost(self, claims: Sequence[Claim]) -> None:
        self._post(self._epochs.lost, claims)

    def committed(self, offsets: Mapping[Claim, int]) -> None:
        self._post(self._epochs.committed, offsets)

    def commit_failed(self, code: str, detail: str) -> None:
        self._post(self._epochs.commit_failed, code, detail)

    def noted(self, claim: Claim, number: int) -> None:
        self._post(self._epochs.noted, claim, number)

    def absolved(self, claim: Claim, metadata: CommitMetadata) -> None:
        self._post(self._epochs.absolved, claim, metadata)

    def stalled(self, claim: Claim, position: int, end_offset: int) -> None:
        self._post(self._epochs.stalled, claim, position, end_offset)

    def out_of_range(self, claim: Claim, detail: str) -> None:
        self._post(self._epochs.out_of_range, claim, detail)

    def stopped(self) -> None:
        self._post(self._membership.stopped)

    def failed(self, error: BaseException) -> None:
        self._post(self._fail, error)
