"""Persistent processes of one spawner: one a slot, each answers one request after another.

Standard library only: runs inside the spawner process.

A request is a line of JSON on the process's stdin, its answer one on stdout. What the answer names
stands in docs/handler-guide.md. A process is replaced when it ends, when it breaks that protocol,
when its request must be killed, and after its share of requests.
"""

from __future__ import annotations

import errno
import heapq
import itertools
import json
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Protocol

from domain.process_end import ProcessEnd
from workers.executor.capture import READ_BYTES, EndsCapture
from workers.executor.frames import (
    EXITED,
    GIVEN_BACK,
    NOT_STARTED,
    OVER_LIMIT,
    PROTOCOL,
    REPLACED,
    UNANSWERED,
)
from workers.executor.isolation import signal_group
from workers.executor.launching import Child, Launcher, Used, kill_tree, waiting_bytes
from workers.executor.persistent_answers import checked
from workers.executor.persistent_state import (
    LOG_BYTES,
    PassedOn,
    Process,
    Program,
    Request,
    Seat,
    cpu_seconds,
    used_for,
)
from workers.executor.task_cgroup import Bounds

MAX_STARTS = 3
"""A request waits for no more processes than these, one after another, that end unready."""
RESTART_SECONDS, MAX_RESTART_SECONDS = 0.5, 30.0
"""Wait before the next start after one that did no work; doubled by each in a row."""
CLOSED_SECONDS = 0.25
"""A process that closed a stream counts as broken unless it ends meanwhile."""
UNREAD_SECONDS = 30.0
"""A request that a process left unread when it ended so soon goes to the next one."""
MAX_ODD_LINES = 10_000
"""Objects without an answer that a request may cost to read."""
CUT_SHORT = "its request was cut short"


class Host(Protocol):
    """What the spawner's loop does for its persistent processes."""

    def send(self, message: tuple[Any, ...]) -> None:
        """Queue an answer to the worker."""

    def watch(self, child: Any, descriptor: int, mask: int, handler: Callable[[Any], None]) -> None:
        """Have the handler called when the descriptor is ready."""

    def unwatch(self, child: Any, descriptor: int) -> None:
        """No longer."""

    def new_serial(self) -> int:
        """A serial that nothing which runs has."""

    def keep(self, process: Process) -> None:
        """Reckon with a process; no hunter of strays may take it."""

    def forget(self, process: Process) -> None:
        """It ended."""

    def begin(self, request: Request, timeout_seconds: float) -> None:
        """A process has the request now: its deadline runs, and its start is to be told."""

    def set_aside(self, request: Request) -> None:
        """Undo ``begin``: the request waits again."""

    def finish(self, request: Request, reason: int, code: int, used: Used) -> None:
        """Answer the request and free its slot."""

    def drop(self, request: Request) -> None:
        """Free the slot of a request that no process had."""

    def exchange(self, wanted: int, offered: int) -> bool:
        """Take that slot and free the other one; False when it is not free."""


class PersistentProcesses:
    """One process of the program a slot, started at once and again when it ends.

    A request that finds none ready waits, with its slot, for the first that is.
    """

    def __init__(
        self, host: Host, launcher: Launcher, program: Program, slots: Sequence[int]
    ) -> None:
        self._host = host
        self._launcher = launcher
        self._program = program
        self._seats = {slot: Seat(slot) for slot in slots}
        self._waiting: deque[Request] = deque()
        self._moments: list[tuple[float, int, Callable[[], None]]] = []
        self._ties = itertools.count()
        now = time.monotonic()
        for place, seat in enumerate(self._seats.values()):
            # Their turns end one after another, or all would be replaced at the same time.
            quota = program.max_requests * (place + 1) // len(self._seats)
            self._at(now, partial(self._start, seat, max(quota, 1)))

    # -- requests ------------------------------------------------------------------------------

    def choose(self, free: list[int]) -> int:
        """Take a free slot off the heap: the lowest whose process is ready, or the lowest."""
        if not self._is_ready(free[0]):
            for slot in free:
                if self._is_ready(slot):
                    free.remove(slot)
                    heapq.heapify(free)
                    return slot
        return heapq.heappop(free)

    def take(self, request: Request) -> None:
        """Hand a new request to the process of its slot, or have it wait."""
        process = self._seats[request.slot].process
        if process is not None and _is_ready(process):
            self._hand_over(request, process)
        else:
            self._waiting.append(request)

    def reuse(self, slot: int) -> int:
        """Give a slot that came free to the request that has waited longest, where it is ready;
        returns the slot that is free then."""
        if not self._waiting or not self._is_ready(slot):
            return slot
        request = self._waiting.popleft()
        request.slot, slot = slot, request.slot
        self._serve(request)
        return slot

    def withdraw(self, request: Child) -> bool:
        """Give back a request that still waits; False when a process has it."""
        if not isinstance(request, Request) or request.process is not None:
            return False
        self._waiting.remove(request)
        self._host.send((GIVEN_BACK, request.number))
        self._host.drop(request)
        return True

    def withdraw_all(self) -> None:
        """Give back all that wait."""
        while self._waiting:
            self.withdraw(self._waiting[0])

    def _serve(self, request: Request) -> None:
        process = self._seats[request.slot].process
        assert process is not None
        self._hand_over(request, process)

    def _hand_over(self, request: Request, process: Process) -> None:
        now = time.monotonic()
        if process.progress_fd in process.watched:
            self._host.unwatch(process, process.progress_fd)
        self._take_progress(process)
        request.process, process.request = process, request
        request.pid, request.host_pid = process.pid, process.host_pid
        request.taken_at = request.started_at = request.sign_at = now
        request.progress_fd = process.progress_fd
        request.cpu_seconds = cpu_seconds(process)
        request.error_bytes_before = request.errors.size
        process.errors = request.errors
        process.said_bytes = process.odd_lines = 0
        process.said_bytes_cap = request.answer_bytes
        process.unsent = memoryview(request.line)
        self._host.begin(request, request.timeout_seconds)
        self._write(process)
        if process.served + 1 == process.quota and self._program.max_requests:
            # Where the program takes long to get ready, the slot waits for it the less.
            self._at(now, partial(self._start_following, process))

    def _write(self, process: Process) -> None:
        descriptor = process.input_fd
        assert descriptor is not None
        try:
            while process.unsent:
                process.unsent = process.unsent[os.write(descriptor, process.unsent) :]
        except BlockingIOError:
            if descriptor not in process.watched:
                self._host.watch(process, descriptor, select.EPOLLOUT, self._write)
            return
        except BrokenPipeError:
            self._closed(process, "stdin")
        if descriptor in process.watched:
            self._host.unwatch(process, descriptor)

    # -- what a process says -------------------------------------------------------------------

    def _read_output(self, process: Process) -> None:
        try:
            data = os.read(process.output_fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            self._heard(process, data)
        else:
            self._host.unwatch(process, process.output_fd)
            self._closed(process, "stdout")

    def _read_errors(self, process: Process) -> None:
        try:
            data = os.read(process.error_fd, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            process.errors.add(data)
            if process.request is not None:
                process.request.sign_at = time.monotonic()
        else:
            self._host.unwatch(process, process.error_fd)

    def _heard(self, process: Process, data: bytes) -> None:
        if process.end_cause:
            process.errors.add(data)
            return
        if process.request is not None:
            process.request.sign_at = time.monotonic()
        process.said_bytes += len(data)
        if process.said_bytes > process.said_bytes_cap:
            process.partial.clear()
            self._break(process, OVER_LIMIT, f"more than {process.said_bytes_cap} bytes of stdout")
            return
        *lines, rest = data.split(b"\n")
        if lines and process.partial:
            lines[0] = bytes(process.partial) + lines[0]
            process.partial.clear()
        process.partial += rest
        for line in lines:
            self._line(process, line)

    def _line(self, process: Process, line: bytes) -> None:
        if line[:1] == b"{" and not process.end_cause:
            try:
                found = json.loads(line.decode())
            except (ValueError, RecursionError) as exc:
                if b'"exit_code"' in line:
                    self._break(process, PROTOCOL, f"an answer that cannot be read: {exc}")
                    return
            else:
                if "exit_code" in found or "id" in found:
                    self._answer(process, found)
                    return
                if found.get("ready") is True:
                    self._said_ready(process)
                    return
            process.odd_lines += 1
            if process.odd_lines > MAX_ODD_LINES:
                what = f"more than {MAX_ODD_LINES} objects on stdout that are no answer"
                self._break(process, PROTOCOL, what)
        process.errors.add(line + b"\n")

    def _answer(self, process: Process, found: dict[str, Any]) -> None:
        request = process.request
        if request is None or process.unsent:
            what = "a whole request" if request is not None else "a request"
            self._break(process, PROTOCOL, f"an answer before it got {what}")
            return
        try:
            code, stdout, stderr = checked(found, str(request.number))
        except ValueError as exc:
            self._break(process, PROTOCOL, str(exc))
            return
        # Written before the answer, whichever of the two pipes is read first.
        _drain(process.error_fd, process.errors)
        request.output.add(stdout)
        if stderr:
            request.errors.add(stderr)
        process.served += 1
        self._part(process)
        process.seat.failures = 0
        if request.reason != EXITED:  # It was told to end, and will.
            self._kill(process, ProcessEnd.KILLED, CUT_SHORT)
        elif process.served == process.quota and self._program.max_requests:
            self._retire(process)
        reason = OVER_LIMIT if request.output.is_over else request.reason
        self._host.finish(request, reason, code, used_for(process, request))

    def _part(self, process: Process) -> None:
        """The process has no request from now on."""
        if process.request is not None:
            self._take_progress(process)
            process.request.progress_fd = -1
        process.request = None
        process.errors = process.log
        process.unsent = memoryview(b"")

    def _take_progress(self, process: Process) -> None:
        """What it told last belongs to its request, or to none and is dropped."""
        if process.progress_fd >= 0 and (size := waiting_bytes(process.progress_fd)):
            data = os.read(process.progress_fd, size)
            if process.request is not None:
                process.request.take_progress(data)

    def _drop_progress(self, process: Process) -> None:
        """Until its first request: a full pipe would keep it from becoming ready."""
        try:
            data = os.read(process.progress_fd, READ_BYTES)
        except BlockingIOError:
            return
        if not data:
            self._host.unwatch(process, process.progress_fd)

    def _said_ready(self, process: Process) -> None:
        process.has_said_ready = True
        self._offer(process)

    def _offer_all(self) -> None:
        for seat in self._seats.values():
            if seat.process is not None:
                self._offer(seat.process)

    def _offer(self, process: Process) -> None:
        """Hand a process that became ready what has waited longest."""
        seat = process.seat
        if not self._waiting or seat.process is not process or not _is_ready(process):
            return
        first = self._waiting[0]
        holder = next((one for one in self._waiting if one.slot == seat.slot), None)
        if holder is not None:
            first.slot, holder.slot = seat.slot, first.slot
        elif self._host.exchange(seat.slot, first.slot):
            first.slot = seat.slot
        else:
            return  # The slot is busy with a program of its own.
        self._hand_over(self._waiting.popleft(), process)

    # -- starts --------------------------------------------------------------------------------

    def _start(self, seat: Seat, quota: int) -> None:
        if seat.process is None:
            seat.process = self._launch(seat, quota)
            if seat.process is not None:
                self._offer(seat.process)

    def _start_following(self, process: Process) -> None:
        seat = process.seat
        if seat.process is process and seat.following is None:
            seat.following = self._launch(seat, self._program.max_requests)

    def _launch(self, seat: Seat, quota: int) -> Process | None:
        program = self._program
        process = Process(self._host.new_serial(), seat, quota)
        process.stdin = memoryview(b"")
        process.output = PassedOn(partial(self._heard, process))
        process.grace_seconds = program.grace_seconds
        try:
            bounds = None if program.bounds is None else Bounds._make(program.bounds)
            self._launcher.launch(
                process, program.argv, program.env, program.cwd, program.limits, bounds
            )
        except Exception as exc:  # noqa: BLE001 - told by the request that waits for it
            code = exc.errno if isinstance(exc, OSError) and exc.errno else errno.EINVAL
            seat.last_words = str(exc)
            self._failed_start(seat, code, self._program.max_requests)
            return None
        for descriptor in (process.output_fd, process.error_fd, process.progress_fd):
            os.set_blocking(descriptor, False)
        self._host.keep(process)
        self._host.watch(process, process.pidfd, select.EPOLLIN, self.ended)
        self._host.watch(process, process.output_fd, select.EPOLLIN, self._read_output)
        self._host.watch(process, process.error_fd, select.EPOLLIN, self._read_errors)
        self._host.watch(process, process.progress_fd, select.EPOLLIN, self._drop_progress)
        if program.ready_seconds is None:
            process.has_said_ready = True
        else:
            self._at(process.started_at + program.ready_seconds, partial(self._overdue, process))
        return process

    def _failed_start(self, seat: Seat, code: int, quota: int) -> None:
        """A process did nothing; the next one comes later. One that waits may have waited enough:
        a program that cannot be started fails it at once, one that ends unready the third time."""
        seat.failures += 1
        wait = min(RESTART_SECONDS * 2.0 ** min(seat.failures - 1, 10), MAX_RESTART_SECONDS)
        self._at(time.monotonic() + wait, partial(self._start, seat, max(quota, 1)))
        if self._waiting and (code != errno.ECHILD or seat.failures >= MAX_STARTS):
            request = self._waiting.popleft()
            now = time.monotonic()
            answer = (request.slot, request.taken_at, code, seat.last_words, now)
            self._host.send((NOT_STARTED, request.number, *answer))
            self._host.drop(request)

    def _overdue(self, process: Process) -> None:
        if process.has_said_ready or process.end_cause or process.pidfd < 0:
            return
        process.end_cause = ProcessEnd.NOT_READY
        process.end_detail = f"not ready within {self._program.ready_seconds:g} s"
        signal_group(process.pid, signal.SIGTERM)
        self._kill_later(process)

    # -- ends ----------------------------------------------------------------------------------

    def ended(self, process: Process) -> None:
        """Take the last output of a process that ended, and see to its request and its seat."""
        for descriptor in tuple(process.watched):
            self._host.unwatch(process, descriptor)
        was_read = not _is_unread(process)
        self._take_progress(process)
        self._host.forget(process)
        status, used = self._launcher.collect(process)
        used = self._launcher.leave_cgroup(process, used)
        code = os.waitstatus_to_exitcode(status)
        if process.partial:
            process.errors.add(bytes(process.partial))
        request = process.request
        if request is not None:
            self._part(process)
            if process.end_cause is None and request.reason != EXITED:
                process.end_cause, process.end_detail = ProcessEnd.KILLED, CUT_SHORT
            is_early = time.monotonic() - request.started_at < UNREAD_SECONDS
            if request.reason == EXITED and not was_read and is_early:
                self._take_back(process, request)
                request = None
        self._describe_end(process, code)
        self._leave(process, has_worked=bool(process.served) or request is not None)
        if request is not None:
            # Last: its slot is given to the next one, by what stands there now.
            self._fail(request, code, used)
        elif self._waiting:  # Taken back: another slot's process may have nothing to do.
            self._offer_all()

    def _take_back(self, process: Process, request: Request) -> None:
        """The process read nothing of it: it waits for the next one, before all others."""
        words = request.errors.size - request.error_bytes_before
        process.log.add(request.errors.tail(min(words, LOG_BYTES)))
        self._host.set_aside(request)
        request.process = None
        self._waiting.appendleft(request)

    def _fail(self, request: Request, code: int, used: Used) -> None:
        reason = UNANSWERED if request.reason == EXITED else request.reason
        if request.cpu_seconds is not None and (total := used[0] + used[1]):
            share = max(0.0, total - request.cpu_seconds) / total
            used = (used[0] * share, used[1] * share, *used[2:])
        self._host.finish(request, reason, code, used)

    def _describe_end(self, process: Process, code: int) -> None:
        ending = f"exit code {code}" if code >= 0 else f"killed by signal {-code}"
        words = process.log.kept().decode("utf-8", "replace").strip()
        what = process.end_detail or ending
        process.seat.last_words = f"{what}: {words}" if words else what
        cause = process.end_cause or ProcessEnd.ENDED
        if cause is not ProcessEnd.RECYCLED:
            seconds = time.monotonic() - process.started_at
            told = (cause.value, process.seat.last_words, process.served, seconds)
            self._host.send((REPLACED, process.seat.slot, process.host_pid, *told))

    def _leave(self, process: Process, *, has_worked: bool) -> None:
        seat = process.seat
        if seat.following is process:
            seat.following = None
        if seat.process is not process:
            return
        seat.process, seat.following = seat.following, None
        if seat.process is not None:
            self._offer(seat.process)
        elif has_worked:
            seat.failures = 0
            quota = max(self._program.max_requests, 1)
            self._at(time.monotonic(), partial(self._start, seat, quota))
        else:
            seat.last_words = f"ended before it was ready for a request: {seat.last_words}"
            self._failed_start(seat, errno.ECHILD, self._program.max_requests)

    def _retire(self, process: Process) -> None:
        """It served its share: the one started ahead takes its seat; it ends at the end of its
        stdin, or is killed after its grace."""
        seat = process.seat
        process.end_cause, process.end_detail = (
            ProcessEnd.RECYCLED,
            f"served {process.served} requests",
        )
        if process.input_fd is not None:
            os.close(process.input_fd)
            process.input_fd = None
        self._kill_later(process)
        seat.process, seat.following = seat.following, None
        if seat.process is None:
            self._at(time.monotonic(), partial(self._start, seat, self._program.max_requests))

    def _closed(self, process: Process, stream: str) -> None:
        """A stream was closed: by an end that we shall hear of, or by a process that is broken."""

        def judge() -> None:
            if not process.end_cause and process.pidfd >= 0:
                self._break(process, PROTOCOL, f"it closed its {stream}")

        self._at(time.monotonic() + CLOSED_SECONDS, judge)

    def _break(self, process: Process, reason: int, detail: str) -> None:
        """The process is of no use any more: kill it, and its request fails for this reason."""
        request = process.request
        if request is not None and request.reason == EXITED:
            request.reason, request.detail = reason, detail
        self._kill(
            process,
            ProcessEnd.OUTPUT_LIMIT if reason == OVER_LIMIT else ProcessEnd.PROTOCOL,
            detail,
        )

    def _kill(self, process: Process, cause: ProcessEnd, detail: str) -> None:
        process.end_cause, process.end_detail = cause, detail
        kill_tree(process)

    def _kill_later(self, process: Process) -> None:
        def kill() -> None:
            if process.pidfd >= 0:
                kill_tree(process)

        self._at(time.monotonic() + process.grace_seconds, kill)

    # -- clock ---------------------------------------------------------------------------------

    @property
    def next_moment(self) -> float | None:
        """When ``serve_clock`` is to be called, monotonic; None: nothing is awaited."""
        return self._moments[0][0] if self._moments else None

    def serve_clock(self, now: float) -> None:
        """Do what is due. Not among the events: starts take descriptor numbers freed there."""
        while self._moments and self._moments[0][0] <= now:
            heapq.heappop(self._moments)[2]()

    def _at(self, moment: float, action: Callable[[], None]) -> None:
        heapq.heappush(self._moments, (moment, next(self._ties), action))

    def _is_ready(self, slot: int) -> bool:
        process = self._seats[slot].process
        return process is not None and _is_ready(process)


def _is_ready(process: Process) -> bool:
    is_there = process.pidfd >= 0 and process.end_cause is None
    return is_there and process.has_said_ready and process.request is None


def _is_unread(process: Process) -> bool:
    """Whether all that its request wrote to it is still in the pipe."""
    if process.request is None or process.input_fd is None:
        return False
    written = len(process.request.line) - len(process.unsent)
    return waiting_bytes(process.input_fd) >= written


def _drain(descriptor: int, capture: EndsCapture) -> None:
    """Read what is in the pipe, at most a read."""
    if size := waiting_bytes(descriptor):
        capture.add(os.read(descriptor, min(size, READ_BYTES)))
