"""The executor of mode ``spawn``: tasks are started by spawner processes."""

from __future__ import annotations

import asyncio
import errno
import itertools
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from domain.failure import FailureKind
from domain.task import Limits
from workers.executor.base import (
    Executor,
    ExecutorUnavailable,
    Exit,
    Launch,
    OnChunk,
    Signs,
    Watcher,
)
from workers.executor.bounding import Bounding, CgroupMode, ProcessLimits, TreeBounds
from workers.executor.cgroups import Cgroups, Refused, prepare
from workers.executor.ending import exit_of_ended, exit_without_run, is_oom_known, shown_note
from workers.executor.following import Followers
from workers.executor.frames import (
    CANCEL,
    CHUNK,
    ENDED,
    FOLLOW,
    GIVEN_BACK,
    NOT_STARTED,
    PROGRESS,
    RECALL,
    RECALLED,
    REPLACED,
    SIGNS,
    START,
    STARTED,
    UNFOLLOW,
)
from workers.executor.link import END_SECONDS, PendingLaunch, SpawnerLink
from workers.executor.oom import OomWatch, kill_counter
from workers.executor.persistent import EndedProcess, Persistent, asked

MAX_DEATHS = 5
DEATHS_WINDOW_SECONDS = 30.0
BACKSTOP_SECONDS = 2.0
"""A spawner that has not ended a task this long after deadline and grace counts as hung."""
RECALL_SECONDS = 0.2
"""A spawner that does not answer a recall meanwhile is not waited for."""

_CHECK_SECONDS = 0.5
_START_SECONDS = 10.0
_CLOSE_SECONDS = 2 * END_SECONDS
"""A spawner or a keeper that does not answer is found out meanwhile, and killed."""


def ignore_failure(error: ExecutorUnavailable) -> None:
    """Leave it to ``run`` to raise."""


def ignore_end(process: EndedProcess) -> None:
    """Nobody wants to know."""


class SpawnExecutor(Executor):
    """Spreads launches over ``spawners`` processes, no more of them than slots; replaces one that
    dies. Each has its share of the slots, and numbers of its own.

    ``on_spawner_lost(pid, tasks, detail)`` is told of each death with the number of tasks lost by
    it; ``on_failed`` once, when five deaths in 30 s made the executor give up. ``oom_counter`` is
    the file in which the kernel counts its kills; None: that of our own cgroup.
    ``nice``: see ``Launcher``. ``cgroups``: see ``Bounding``; ``limits`` are the usual ones, so
    that what cannot be in force is known at the start. ``persistent``: the program of the processes
    that answer requests, one a slot; None: there are none. ``on_process_end`` is told of each that
    must be replaced.
    """

    def __init__(
        self,
        *,
        spawners: int,
        slots: int,
        on_spawner_lost: Callable[[int, int, str], None],
        on_failed: Callable[[ExecutorUnavailable], None] = ignore_failure,
        prefer: Literal["pid_namespace", "groups"] = "pid_namespace",
        prefer_launcher: Literal["native", "python"] = "native",
        oom_counter: Path | None = None,
        nice: int = 0,
        persistent: Persistent | None = None,
        cgroups: CgroupMode = "limited",
        limits: Limits | None = None,
        on_process_end: Callable[[EndedProcess], None] = ignore_end,
    ) -> None:
        count = min(spawners, slots)
        self._shares = [range(first, slots, count) for first in range(count)]
        self._on_spawner_lost = on_spawner_lost
        self._on_failed = on_failed
        self._prefer = prefer
        self._nice = nice
        self._persistent = persistent
        self._on_process_end = on_process_end
        self._oom_counter = oom_counter
        self._oom = OomWatch(oom_counter)
        self._cgroup_mode = cgroups
        self._limits = limits
        self._cgroups: Cgroups | None = None
        self._bounding = Bounding("off", None)
        self._cgroup_tier = ""
        self._spawner_numbers = itertools.count()
        self._links: list[SpawnerLink] = []
        self._numbers = itertools.count(1)
        self._by_task: dict[str, PendingLaunch] = {}
        self._deaths: deque[float] = deque(maxlen=MAX_DEATHS)
        self._hung: set[int] = set()
        self._failure: ExecutorUnavailable | None = None
        self._check: asyncio.TimerHandle | None = None
        self._all_ended: asyncio.Event = asyncio.Event()
        self._is_closing = False
        self._isolation = ""
        self._launcher: str = prefer_launcher

    @property
    def isolation(self) -> str:
        """The tier in force: ``pid_namespace`` or ``groups``; empty before ``start``."""
        return self._isolation

    @property
    def launcher(self) -> str:
        """How processes are started: ``native`` or ``python``; before ``start`` the one wanted."""
        return self._launcher

    @property
    def cgroups(self) -> str:
        """Whether tasks have cgroups: ``tasks: memory, pids, cpu`` or ``none: reason``; empty
        before ``start``."""
        return self._cgroup_tier

    @property
    def spawner_pids(self) -> list[int]:
        """The processes the worker started, one a spawner."""
        return [link.pid for link in self._links]

    async def start(self) -> None:
        """Start all spawners and wait until they answer. Raises ExecutorUnavailable."""
        self._loop = asyncio.get_running_loop()
        # Before the spawners, which are born where the worker is.
        self._find_cgroups()
        try:
            for slots in self._shares:
                self._open_link(slots)
            async with asyncio.timeout(_START_SECONDS):
                while waiting := [link.ready for link in self._links if not link.ready.done()]:
                    await asyncio.wait(waiting)
        except (OSError, TimeoutError) as exc:
            await self.close()
            raise ExecutorUnavailable(f"spawner cannot be started: {exc!r}") from exc
        if self._failure is not None:
            raise self._failure
        self._isolation, self._launcher = self._links[0].isolation, self._links[0].launcher
        self._check = self._loop.call_later(_CHECK_SECONDS, self._check_overdue)

    def _find_cgroups(self) -> None:
        is_off = self._cgroup_mode == "off"
        found = Refused("executor.cgroups is off") if is_off else prepare(self._nice)
        self._cgroups = found if isinstance(found, Cgroups) else None
        self._bounding = Bounding(self._cgroup_mode, self._cgroups)
        self._bounding.of(self._limits)
        self._cgroup_tier = str(found)
        # Only now: where the worker was moved, another cgroup counts its kills.
        self._oom = OomWatch(self._oom_counter or kill_counter())

    def _open_link(self, slots: Sequence[int]) -> None:
        link = SpawnerLink(
            tier=self._prefer,
            nice=self._nice,
            slots=slots,
            launcher=self._launcher,
            number=next(self._spawner_numbers),
            cgroup=None if self._cgroups is None else self._cgroups.folder,
            on_answer=self._answered,
            on_end=self._lost,
        )
        link.open()
        if self._persistent is not None:
            bounded = self._bounding.of(self._persistent.limits)
            link.send(self._persistent.message(*bounded))
        self._links.append(link)

    async def run(self, launch: Launch, watcher: Watcher) -> Exit | None:
        """Run to the end and return it, or None. Raises ExecutorUnavailable after it gave up or
        closed."""
        if self._failure is not None:
            raise self._failure
        if self._is_closing or not self._links:
            raise ExecutorUnavailable("the executor is not running")
        number = next(self._numbers)
        link = min(self._links, key=_load)
        try:
            link.send(_request(number, launch, *self._bounding.of(launch.limits)))
        except ValueError as exc:  # Not plain text and bytes, or beyond 2 GiB.
            detail, now = f"cannot be handed to the spawner: {exc}", time.monotonic()
            watcher.started(None, now, None)
            return exit_without_run(FailureKind.SPAWN, detail, now, spawn_errno=errno.EINVAL)
        pending = self._register(link, number, launch, watcher)
        try:
            outcome: Exit | None = await pending.future
            return outcome
        except asyncio.CancelledError:
            await self._abandon(pending)
            raise
        finally:
            if self._by_task.get(launch.task_id) is pending:
                del self._by_task[launch.task_id]

    def _register(
        self, link: SpawnerLink, number: int, launch: Launch, watcher: Watcher
    ) -> PendingLaunch:
        bound = launch.timeout_seconds + launch.kill_grace_seconds + BACKSTOP_SECONDS
        if launch.is_request and self._persistent is not None:
            bound += self._persistent.longest_wait_seconds
        pending = PendingLaunch(
            self._loop.create_future(),
            link,
            number,
            launch,
            watcher,
            overdue_at=self._loop.time() + bound,
            is_ahead=len(link.launches) >= len(link.slots),
        )
        # An epoch may begin while the same task of the one before is still being killed.
        self._by_task[launch.task_id] = link.launches[number] = pending
        return pending

    def cancel(self, task_id: str) -> bool:
        """Have it asked to end, and killed after its grace; False: it is not in hand."""
        pending = self._by_task.get(task_id)
        if pending is None or pending.future.done():
            return False
        bound = pending.launch.kill_grace_seconds + BACKSTOP_SECONDS
        pending.overdue_at = min(pending.overdue_at, self._loop.time() + bound)
        pending.link.send((CANCEL, pending.number, False))
        return True

    def follow(self, task_id: str, on_chunk: OnChunk) -> bool:
        """Have its output told as it comes; False: it is not in hand."""
        pending = self._by_task.get(task_id)
        if pending is None or pending.future.done():
            return False
        if pending.followers is None:
            pending.followers = Followers()
        token = next(self._numbers)
        # The spawner is asked once it has told the start: it knows the process by then.
        if pending.followers.add(on_chunk, token) and pending.is_start_told:
            pending.link.send((FOLLOW, pending.number, token))
        return True

    def unfollow(self, task_id: str, on_chunk: OnChunk) -> None:
        """Tell no more of it."""
        pending = self._by_task.get(task_id)
        if pending is None or pending.followers is None:
            return
        pending.followers.remove(on_chunk)
        if not pending.followers:
            pending.followers = None
            pending.link.send((UNFOLLOW, pending.number))

    async def recall(self) -> None:
        """Have what waits for a slot given back, and all starts made known."""
        asked = []
        for link in self._links:
            if not all(pending.is_start_told for pending in link.launches.values()):
                number = next(self._numbers)
                link.recalls[number] = self._loop.create_future()
                link.send((RECALL, number))
                asked.append(link.recalls[number])
        if asked:
            await asyncio.wait(asked, timeout=RECALL_SECONDS)

    async def _abandon(self, pending: PendingLaunch) -> None:
        """Have the process killed and wait until it is dead, whoever else cancels meanwhile."""
        if pending.link.launches.get(pending.number) is pending:
            pending.future = self._loop.create_future()
            pending.link.send((CANCEL, pending.number, True))
        while not pending.future.done():
            try:
                await asyncio.wait((pending.future,))
            except asyncio.CancelledError:
                continue
        if pending.outcome is not None:
            pending.watcher.cut_short(pending.outcome)

    def _answered(self, link: SpawnerLink, answer: tuple[Any, ...]) -> None:
        kind, number = answer[:2]
        if kind == REPLACED:
            self._on_process_end(EndedProcess.of(answer))
            return
        if kind == RECALLED:
            link.recalls.pop(number).set_result(None)
            return
        pending = link.launches.get(number)
        if pending is None:
            return
        if kind == ENDED:
            del link.launches[number]
            pending.tell_start(answer[2], answer[3], answer[6])
            outcome = exit_of_ended(pending.launch, answer)
            pending.resolve(outcome if is_oom_known(answer) else self._explained(outcome))
        elif kind == GIVEN_BACK:
            del link.launches[number]
            pending.resolve(None)
        elif kind == NOT_STARTED:
            del link.launches[number]
            pending.tell_start(answer[2], answer[3], None)
            pending.resolve(_not_started(pending.launch, answer))
        else:
            self._told(pending, kind, answer[2:])

    def _told(self, pending: PendingLaunch, kind: int, told: tuple[Any, ...]) -> None:
        """A program runs on, and this is known of it."""
        if kind == STARTED:
            pending.tell_start(*told)
            for token in pending.followers.tokens if pending.followers else ():
                pending.link.send((FOLLOW, pending.number, token))
        elif kind == PROGRESS:
            pending.progress, pending.note = told[0], shown_note(told[1])
            pending.watcher.progressed(pending.progress, pending.note)
        elif pending.followers is None:
            return
        elif kind == CHUNK:
            pending.followers.take(*told)
        elif kind == SIGNS:
            elapsed, cpu, rss, processes = told
            pending.followers.tell(
                Signs(elapsed_seconds=elapsed, cpu_seconds=cpu, rss_bytes=rss, processes=processes)
            )

    def _explained(self, outcome: Exit) -> Exit:
        """A SIGKILL that is not ours may be the kernel's, for want of memory."""
        is_killed = outcome.exit_code == -signal.SIGKILL and outcome.failure is FailureKind.SIGNAL
        if not is_killed or not self._oom.explains():
            return outcome
        detail = "killed by the kernel: the memory of the worker's cgroup is used up"
        return replace(outcome, failure=FailureKind.OOM, detail=detail)

    def _check_overdue(self) -> None:
        self._oom.note()
        if self._cgroups is not None:
            self._cgroups.clear_away()
        now = self._loop.time()
        for link in self._links:
            late = [number for number, f in link.launches.items() if now > f.overdue_at]
            if late:
                self._hung.update(late)
                link.kill()
        self._check = self._loop.call_later(_CHECK_SECONDS, self._check_overdue)

    # -- death of a spawner --

    def _lost(self, link: SpawnerLink, detail: str) -> None:
        if link in self._links:
            self._links.remove(link)
        if self._is_closing:
            self._end_launches(link, FailureKind.CANCELLED, "the executor was closed")
            if not self._links:
                self._all_ended.set()
            return
        if self._cgroups is not None:
            self._cgroups.bury(link.number)
        tasks = len(link.launches)
        self._deaths.append(self._loop.time())
        self._replace(detail, link.slots)
        self._end_launches(link, FailureKind.LOST, f"spawner {link.pid} died: {detail}")
        self._on_spawner_lost(link.pid, tasks, detail)

    def _replace(self, detail: str, slots: Sequence[int]) -> None:
        if self._deaths[-1] - self._deaths[0] <= DEATHS_WINDOW_SECONDS and (
            len(self._deaths) == MAX_DEATHS
        ):
            self._give_up(f"{MAX_DEATHS} spawners died in {DEATHS_WINDOW_SECONDS:g} s: {detail}")
            return
        try:
            self._open_link(slots)
        except OSError as exc:
            self._give_up(f"spawner cannot be started: {exc}")

    def _give_up(self, reason: str) -> None:
        if self._failure is not None:
            return
        self._failure = ExecutorUnavailable(reason)
        for link in self._links:
            link.kill()
        self._on_failed(self._failure)

    def _end_launches(self, link: SpawnerLink, failure: FailureKind, detail: str) -> None:
        now = time.monotonic()
        for number, pending in link.launches.items():
            is_hung = number in self._hung
            self._hung.discard(number)
            if pending.is_ahead and failure is FailureKind.LOST:
                pending.resolve(None)
                continue
            pending.tell_start(None, now, None)
            kind, text = failure, detail
            if is_hung:
                kind = FailureKind.TIMEOUT
                text = f"no end within {pending.launch.timeout_seconds:g} s; spawner hung"
            pending.resolve(
                exit_without_run(
                    kind,
                    text,
                    now,
                    pid=pending.pid,
                    started_at=pending.taken_at,
                    progress=pending.progress,
                    note=pending.note,
                    is_output_lost=True,
                )
            )
        link.launches.clear()
        for recall in link.recalls.values():
            recall.set_result(None)
        link.recalls.clear()

    async def close(self) -> None:
        """Kill what still runs and end the spawners; unfinished launches end as ``cancelled``."""
        self._is_closing = True
        if self._check is not None:
            self._check.cancel()
        try:
            if self._links:
                for link in self._links:
                    link.kill()
                async with asyncio.timeout(_CLOSE_SECONDS):
                    await self._all_ended.wait()
        finally:
            if self._cgroups is not None:
                self._cgroups.close()
                self._cgroups = None


def _request(
    number: int, launch: Launch, limits: ProcessLimits | None, bounds: TreeBounds | None
) -> tuple[Any, ...]:
    if launch.is_request:
        return asked(number, launch)
    return (
        START,
        number,
        launch.argv,
        launch.env,
        launch.stdin,
        launch.cwd,
        launch.timeout_seconds,
        launch.kill_grace_seconds,
        launch.max_stdout_bytes,
        launch.max_stderr_bytes,
        launch.stall_timeout_seconds,
        limits,
        bounds,
    )


def _not_started(launch: Launch, answer: tuple[Any, ...]) -> Exit:
    _, _, _, _, code, text, now = answer
    what = "no persistent process" if launch.is_request else f"cannot start {launch.argv[:1]!r}"
    detail = f"{what}: {text}"
    return exit_without_run(FailureKind.SPAWN, detail, now, spawn_errno=code)


def _load(link: SpawnerLink) -> float:
    return len(link.launches) / len(link.slots)
