"""When to commit, and what a commit says besides its offset."""

from __future__ import annotations

import json
from collections.abc import Collection
from dataclasses import dataclass, field, replace

from domain.settled import Ranges, from_steps, ranges_from, to_steps

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
    """Facts for the next owner: kept in Kafka because Postgres may be away.

    Of the owner: ``run`` is its id; ``has_left`` that it gave the partition up by itself;
    ``mark`` the offset of which a step inside the worker (parse, arrange, a hook) runs; ``running``
    the lowest offset whose program runs, ``task`` one of its tasks, ``is_alone`` that no other
    message's program runs; ``lost`` the partitions that were taken from it while it lived.

    Of owners before it, all in a row and without progress: ``deaths`` how many died; ``suspect``
    the offset during whose steps ``strikes`` of them died; ``lone`` the offset during whose program
    ``lone_deaths`` of them died while it ran alone, and its task. ``dead``, ``struck`` and
    ``lone_dead`` name them, as far as known: one that turns out to live is taken off.

    Of the partition: ``settled`` the offsets above the committed one that have their fate.

    Of the group: ``is_paused`` an operator's pause; ``began`` how many partitions the topic had
    when the group began there.
    """

    run: str
    has_left: bool = False
    deaths: int = 0
    mark: int | None = None
    running: int | None = None
    task: str = ""
    is_alone: bool = False
    suspect: int | None = None
    strikes: int = 0
    lone: int | None = None
    lone_task: str = ""
    lone_deaths: int = 0
    is_paused: bool = False
    began: int | None = None
    lost: tuple[int, ...] = ()
    dead: tuple[str, ...] = field(default=(), compare=False)
    struck: tuple[str, ...] = field(default=(), compare=False)
    lone_dead: tuple[str, ...] = field(default=(), compare=False)
    settled: Ranges = ()

    def encode(self) -> str:
        """Compact JSON, at most 4095 characters; what has its default is left out, and ``settled``
        where it finds no room."""
        values = {name: getattr(self, field) for name, field in _NAMES.items()}
        body = {name: value for name, value in values.items() if value != _DEFAULTS[name]}
        text = json.dumps(body, separators=(",", ":"))
        if self.settled:
            body["settled"] = to_steps(self.settled)
            longer = json.dumps(body, separators=(",", ":"))
            text = longer if len(longer) <= MAX_METADATA_CHARACTERS else text
        return text[:MAX_METADATA_CHARACTERS]

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
                running=_offset(body.get("running")),
                task=str(body.get("task", "")),
                is_alone=bool(body.get("alone", False)),
                suspect=_offset(body.get("suspect")),
                strikes=int(body.get("strikes", 0)),
                lone=_offset(body.get("lone")),
                lone_task=str(body.get("lone_task", "")),
                lone_deaths=int(body.get("lone_deaths", 0)),
                is_paused=bool(body.get("paused", False)),
                began=_offset(body.get("began")),
                lost=tuple(int(each) for each in body.get("lost", ())),
                **{
                    key: tuple(str(each) for each in body.get(name, ()))
                    for name, key in _RUN_LISTS.items()
                },
                settled=from_steps(body.get("settled", [])),
            )
        except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
            return None

    @classmethod
    def inherit(
        cls, former: CommitMetadata | None, run: str, alive: Collection[str] = ()
    ) -> CommitMetadata:
        """Return what a new owner begins with. ``alive``: runs that lost the partition and live.

        An owner that left, this very run and one that lives did not die.
        """
        if former is None:
            return cls(run=run)
        heir = replace(
            former, run=run, has_left=False, mark=None, running=None, task="", is_alone=False,
            lost=(),
        ).without({run, *alive})  # fmt: skip
        if former.has_left or former.run == run or former.run in alive:
            return heir
        return heir._after_death_of(former)

    def _after_death_of(self, former: CommitMetadata) -> CommitMetadata:
        """Count a death, and against a message where it is certain what ran then."""
        name = _short(former.run)
        counted = replace(self, deaths=self.deaths + 1, dead=_with(self.dead, name))
        if former.mark is not None:
            counted = counted._suspecting(former.mark)
        if former.running is not None:
            counted = counted._isolating(former.running, former.task)
        if former.mark is not None and former.running is None:
            return replace(
                counted, strikes=counted.strikes + 1, struck=_with(counted.struck, name),
                lone=None, lone_task="", lone_deaths=0, lone_dead=(),
            )  # fmt: skip
        if former.is_alone and former.mark in (None, former.running):
            return replace(
                counted,
                lone_deaths=counted.lone_deaths + 1,
                lone_dead=_with(counted.lone_dead, name),
            )
        return counted

    def _suspecting(self, offset: int) -> CommitMetadata:
        if self.suspect == offset:
            return self
        return replace(self, suspect=offset, strikes=0, struck=())

    def _isolating(self, offset: int, task: str) -> CommitMetadata:
        if self.lone == offset:
            return replace(self, lone_task=task)
        return replace(self, lone=offset, lone_task=task, lone_deaths=0, lone_dead=())

    def without(self, runs: Collection[str]) -> CommitMetadata:
        """Take deaths back of runs that live."""
        names = {_short(run) for run in runs}
        if names.isdisjoint(self.dead + self.struck + self.lone_dead):
            return self
        dead, struck, lone = (
            tuple(name for name in each if name not in names)
            for each in (self.dead, self.struck, self.lone_dead)
        )
        strikes = max(0, self.strikes - len(self.struck) + len(struck))
        lone_deaths = max(0, self.lone_deaths - len(self.lone_dead) + len(lone))
        return replace(
            self,
            deaths=max(0, self.deaths - len(self.dead) + len(dead)),
            dead=dead,
            suspect=self.suspect if strikes else None,
            strikes=strikes,
            struck=struck,
            lone=self.lone if lone_deaths else None,
            lone_task=self.lone_task if lone_deaths else "",
            lone_deaths=lone_deaths,
            lone_dead=lone,
        )

    def passed(self, watermark: int) -> CommitMetadata:
        """Progress: nobody died in a row any more, and what is held against lower offsets ends, as
        does what is told of them."""
        found = replace(self, deaths=0, dead=()) if self.deaths else self
        if found.settled and found.settled[0][0] < watermark:
            found = replace(found, settled=ranges_from(watermark, found.settled))
        if found.suspect is not None and found.suspect < watermark:
            found = replace(found, suspect=None, strikes=0, struck=())
        if found.lone is not None and found.lone < watermark:
            found = replace(found, lone=None, lone_task="", lone_deaths=0, lone_dead=())
        return found

    def moved(self, committed: int, offset: int) -> CommitMetadata:
        """Return what stands beside the offset to which an operator moved the commit: nothing is
        in work, and what had its fate above both is passed over still."""
        above = max(committed, offset)
        kept = tuple((max(first, above), last) for first, last in self.settled if last >= above)
        resting = replace(self, mark=None, running=None, task="", is_alone=False, settled=kept)
        return resting.passed(offset) if offset > committed else resting


NO_METADATA = CommitMetadata(run="")
"""Of a partition whose former owners committed none."""

MAX_NAMED = 8
"""Runs named in each list."""
MAX_LOST = 100
"""Partitions of which a run says that it lost them."""
_RUN_LISTS = {"dead": "dead", "struck": "struck", "lone_dead": "lone_dead"}
_NAMES = {
    "run": "run",
    "left": "has_left",
    "deaths": "deaths",
    "mark": "mark",
    "running": "running",
    "task": "task",
    "alone": "is_alone",
    "suspect": "suspect",
    "strikes": "strikes",
    "lone": "lone",
    "lone_task": "lone_task",
    "lone_deaths": "lone_deaths",
    "paused": "is_paused",
    "began": "began",
    "lost": "lost",
    **_RUN_LISTS,
}


_DEFAULTS = {
    name: CommitMetadata.__dataclass_fields__[field].default for name, field in _NAMES.items()
}


def _offset(value: object) -> int | None:
    return int(value) if isinstance(value, (int, str)) else None


def _short(run: str) -> str:
    """Return the end of a run's id: that of a UUID differs there, and lists of it stay short."""
    return run[-12:]


def _with(names: tuple[str, ...], name: str) -> tuple[str, ...]:
    return (*names, name)[-MAX_NAMED:]
