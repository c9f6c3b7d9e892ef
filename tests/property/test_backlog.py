"""The recorder's FIFO: whatever happens in whatever order, nothing is lost that is not counted."""

from __future__ import annotations

import shutil
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from recorder import spool as spool_module
from recorder.backlog import Backlog
from recorder.rows import Row, size_bytes
from recorder.runs import RunDescription, uuid7
from recorder.shedding import NEVER_SHED, SUCCESSES, ShedAccount
from recorder.spool import DeadSpool, Spool

KINDS = st.sampled_from(["consumed", "consumed", "consumed", "task_failed", "dead_lettered"])
BUFFER_BYTES = 8 * 700
STEPS = [500, 3_000, 1 << 24]


def description() -> RunDescription:
    return RunDescription(
        id=uuid7(1.0), cluster="main", worker="w", host="h", pid=1, version="0",
        isolation="groups", slots=1, config_hash="", config={}, environment={}, started_at=1.0,
    )  # fmt: skip


def left_on_disk(folder: Path) -> list[Row]:
    """What an heir reads."""
    found: list[Row] = []
    for path in folder.glob("*.spool"):
        file = DeadSpool.lock(path)
        assert file is not None
        spool = DeadSpool(path, file)
        while (batch := spool.peek()) is not None:
            found += batch
            spool.pop()
        spool.close()
    return found


class WhatWaitsIsKeptInOrder(RuleBasedStateMachine):
    """A writer, a server that comes and goes, a disk with little room."""

    @initialize(room=st.sampled_from([1_000, 4_000, 9_000, 1_000_000]), step=st.sampled_from(STEPS))
    def begin(self, room: int, step: int) -> None:
        spool_module._THIN_BYTES = step
        self.folder = Path(tempfile.mkdtemp())
        self.shed = ShedAccount()
        self.backlog = Backlog(Spool(self.folder, description(), room), self.shed)
        self.kinds: dict[int, str] = {}
        self.sent: list[int] = []
        self.lent: list[Row] = []

    def teardown(self) -> None:
        if hasattr(self, "folder"):
            self.backlog.leave()
            self.backlog.close()
            rest = [row["seq"] for row in left_on_disk(self.folder)]
            memory = [row["seq"] for row in self.backlog.rows]
            shutil.rmtree(self.folder)
            spool_module._THIN_BYTES = STEPS[-1]
            self.check(self.sent + rest + memory)

    def check(self, kept: list[int]) -> None:
        assert kept == sorted(set(kept)), "in order, each once"
        gone = set(self.kinds) - set(kept)
        account = self.shed.settle(1.0)
        told: dict[str, Any] = {} if account is None else dict(account.shed)
        assert Counter(told) == Counter(self.kinds[seq] for seq in gone)
        assert not {self.kinds[seq] for seq in gone} & NEVER_SHED
        for first, last, count in account.ranges if account else ():
            assert len([seq for seq in gone if first <= seq <= last]) == count

    @rule(kinds=st.lists(KINDS, min_size=1, max_size=24))
    def add(self, kinds: list[str]) -> None:
        rows = []
        for kind in kinds:
            seq = len(self.kinds) + 1
            self.kinds[seq] = kind
            rows.append({"seq": seq, "kind": kind, "data": f"{seq:090d}"})
        self.backlog.add(rows)
        self.spill()

    def spill(self) -> None:
        before = self.shed.total
        self.backlog.spill(BUFFER_BYTES)
        shed_failures = self.shed._kinds["task_failed"]
        if self.shed.total > before and shed_failures > getattr(self, "failures", 0):
            assert not self.successes_left(), "failures go after the last success"
        self.failures = shed_failures

    def successes_left(self) -> int:
        """Successes that wait in memory, but for those lent out and what fits the buffer."""
        spool: Any = self.backlog._spool
        lent = {row["seq"] for row in self.lent}
        found = [row for row in self.backlog.rows if row["kind"] in SUCCESSES]
        if spool._file is not None:
            place = spool._head
            from recorder.spool import _LENGTH, _body_at, plain

            while place < spool._end:
                body = _body_at(spool._file, place)
                found += [row for row in plain(body) if row["kind"] in SUCCESSES]
                place += _LENGTH.size + len(body)
        return len([row for row in found if row["seq"] not in lent])

    @rule()
    def lend(self) -> None:
        again = self.lent
        self.lent = list(self.backlog.next_batch())
        assert not again or again == self.lent, "the same ones until they are stored"

    @rule()
    def stored(self) -> None:
        if self.lent:
            self.backlog.stored()
            self.sent += [row["seq"] for row in self.lent]
            self.lent = []

    @invariant()
    def memory_is_bounded(self) -> None:
        if hasattr(self, "backlog"):
            assert self.backlog.rows_bytes == sum(map(size_bytes, self.backlog.rows))


TestWhatWaitsIsKeptInOrder = WhatWaitsIsKeptInOrder.TestCase
TestWhatWaitsIsKeptInOrder.settings = settings(max_examples=150, deadline=None)
