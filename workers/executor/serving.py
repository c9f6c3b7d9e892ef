"""The spawner's loop: requests in, processes run to their ends, answers out.

Standard library only: runs inside the spawner process. One thread, one epoll.
"""

from __future__ import annotations

import errno
import heapq
import os
import select
import signal
import socket
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from workers.executor.capture import READ_BYTES, EndsCapture, HeadCapture
from workers.executor.frames import (
    ASK,
    CANCEL,
    CANCELLED,
    CHUNK,
    ENDED,
    EXITED,
    FOLLOW,
    GIVEN_BACK,
    NOT_STARTED,
    OVER_LIMIT,
    PERSIST,
    PROGRESS,
    RECALL,
    RECALLED,
    SIGNS,
    STALLED,
    STARTED,
    TIMED_OUT,
    UNFOLLOW,
    FrameReader,
    FrameWriter,
)
from workers.executor.isolation import (
    SERIAL_MASK,
    kill_adopted,
    kill_marked,
    reap_orphans,
    signal_group,
)
from workers.executor.launching import Child, Launcher, Used, kill_tree
from workers.executor.live_output import LiveOutput, signs_of_groups
from workers.executor.task_cgroup import Bounds

if TYPE_CHECKING:
    from workers.executor.persistent_processes import PersistentProcesses
    from workers.executor.persistent_state import Process, Request

SWEEP_SECONDS = 0.02
"""Tasks older than this get readers and are told as started; shorter ones pay for neither."""

HOLD_SECONDS = 0.02
"""A request that finds no slot meanwhile is given back."""

ANSWER_SECONDS = 0.004
"""How long an answer may wait for others while the requests at hand keep all slots busy."""

ANSWER_BYTES = 65_536
"""More than this is sent at once."""

STRAY_SECONDS = 0.25
"""How often daemons that left their group are looked for."""

LOOK_SECONDS = 0.25
"""How often tasks with readers are looked at: progress, output that is followed, silence."""

SIGNS_SECONDS = 1.0
"""How often the signs of life of a task that is followed are told."""

_STARTS_PER_ROUND = 8
_RECEIVE_BYTES = READ_BYTES  # More would be a mapping made and unmade for each read.

Handler = Callable[[Any], None]


class Server:
    """Runs processes for the worker at the other end of ``stream`` until that end is closed.

    ``slots`` are numbers: one for each process that may run at once. Requests beyond them wait in
    the order in which they came.
    """

    def __init__(
        self,
        stream: socket.socket,
        keeper_fd: int,
        launcher: Launcher,
        first_mark: int,
        is_nested: bool,
        slots: Sequence[int],
    ) -> None:
        stream.setblocking(False)
        self._stream = stream
        self._launcher = launcher
        self._first_mark = first_mark
        self._is_nested = is_nested
        self._epoll = select.epoll()
        self._epoll.register(stream, select.EPOLLIN)
        self._epoll.register(keeper_fd, select.EPOLLIN)
        self._keeper_fd = keeper_fd
        self._reader = FrameReader()
        self._writer = FrameWriter()
        self._is_writing = False
        self._is_closing = False
        self._slots = slots
        self._free = sorted(slots)
        self._requests: deque[tuple[float, tuple[Any, ...]]] = deque()
        self._recalls: list[int] = []
        self._most_requests = 0
        self._answer_bytes = 0
        self._answer_by: float | None = None
        self._serial = 0
        self._handlers: dict[int, tuple[Handler, Child]] = {}
        self._children: dict[int, Child] = {}
        self._by_pid: dict[int, Child] = {}
        self._by_number: dict[int, Child] = {}
        self._young: deque[Child] = deque()
        self._deadlines: list[tuple[float, int, bool]] = []
        self._sweep_at = 0.0
        self._strays_at: float | None = None
        self._persistent: PersistentProcesses | None = None
        self._processes: dict[int, Process] = {}
        self._look_at: float | None = None

    def send(self, message: tuple[Any, ...]) -> None:
        """Queue an answer; it goes out at the end of the round, or with others a little later."""
        self._answer_bytes += self._writer.put(message)

    def run(self) -> None:
        """Serve until the worker or the keeper is gone, then kill everything."""
        self._flush()
        while not self._is_closing:
            self._handle_events(self._epoll.poll(self._wait_seconds()))
            # After the events: a descriptor number freed there may be used again here.
            self._start_some()
            if self._recalls:
                self._recall()
            now = time.monotonic()
            self._serve_clock(now)
            if not self._writer.is_empty and self._is_answer_due(now):
                self._flush()
        self._kill_all()

    def _is_answer_due(self, now: float) -> bool:
        """Answers wait for company, so that the worker handles several in one turn, while it has
        given us enough to do: more than half of what it gave us last."""
        is_supplied = not self._free and 2 * len(self._requests) > self._most_requests
        if self._answer_by is None:
            self._answer_by = now + ANSWER_SECONDS
        is_late = self._is_writing or now >= self._answer_by
        return is_late or not is_supplied or self._answer_bytes > ANSWER_BYTES

    def _wait_seconds(self) -> float:
        if self._requests and self._free:
            return 0.0
        moments = []
        if self._young:
            moments.append(self._sweep_at)
        if self._deadlines:
            moments.append(self._deadlines[0][0])
        if self._strays_at is not None:
            moments.append(self._strays_at)
        if self._look_at is not None:
            moments.append(self._look_at)
        if self._requests:
            moments.append(self._requests[0][0] + HOLD_SECONDS)
        if self._answer_by is not None:
            moments.append(self._answer_by)
        if self._persistent is not None and (moment := self._persistent.next_moment) is not None:
            moments.append(moment)
        return max(0.0, min(moments) - time.monotonic()) if moments else -1.0

    def _handle_events(self, events: list[tuple[int, int]]) -> None:
        for descriptor, mask in events:
            entry = self._handlers.get(descriptor)
            if entry is not None:
                entry[0](entry[1])
            elif descriptor == self._stream.fileno():
                if mask & ~select.EPOLLOUT:
                    self._receive()
            elif descriptor == self._keeper_fd:
                self._is_closing = True

    def _receive(self) -> None:
        try:
            chunk = self._stream.recv(_RECEIVE_BYTES)
        except BlockingIOError:
            return
        except OSError:
            chunk = b""
        if not chunk:
            self._is_closing = True
            return
        now = time.monotonic()
        for request in self._reader.feed(chunk):
            if request[0] == CANCEL:
                self._cancel(request[1], now, is_at_once=request[2])
            elif request[0] == FOLLOW:
                self._follow(request[1], request[2], now)
            elif request[0] == UNFOLLOW:
                self._unfollow(request[1])
            elif request[0] == RECALL:
                self._recalls.append(request[1])
            elif request[0] == PERSIST:
                self._persist(request[1])
            else:
                self._requests.append((now, request))
        self._most_requests = len(self._requests)

    def _flush(self) -> None:
        self._answer_by, self._answer_bytes = None, 0
        try:
            is_writing = not self._writer.flush(self._stream)
        except OSError:
            self._is_closing = True
            return
        if is_writing is not self._is_writing:
            self._is_writing = is_writing
            mask = select.EPOLLIN | (select.EPOLLOUT if is_writing else 0)
            self._epoll.modify(self._stream, mask)

    def _start_some(self) -> None:
        for _ in range(min(len(self._requests), len(self._free), _STARTS_PER_ROUND)):
            request = self._requests.popleft()[1]
            if request[0] == ASK:
                self._ask(request)
            else:
                self._start(request)

    def _start(self, request: tuple[Any, ...]) -> None:
        _, number, argv, env, stdin, cwd, *rest = request
        timeout, grace, max_out, max_err, stall, limits, bounds = rest
        child = Child(number, self.new_serial(), heapq.heappop(self._free))
        try:
            child.expect(stdin, max_out, max_err, grace, stall)
            in_cgroup = None if bounds is None else Bounds._make(bounds)
            self._launcher.launch(child, argv, env, cwd, limits, in_cgroup)
        except Exception as exc:  # noqa: BLE001 - one strange request must not end the others
            heapq.heappush(self._free, child.slot)
            code = exc.errno if isinstance(exc, OSError) else errno.EINVAL
            now = time.monotonic()
            self.send((NOT_STARTED, number, child.slot, child.taken_at, code, str(exc), now))
            return
        self._adopt(child, timeout)

    def _recall(self) -> None:
        while self._requests:
            self.send((GIVEN_BACK, self._requests.popleft()[1][1]))
        if self._persistent is not None:
            self._persistent.withdraw_all()
        for child in self._young:
            self._tell_start(child)
        for number in self._recalls:
            self.send((RECALLED, number))
        self._recalls.clear()

    def _tell_start(self, child: Child) -> None:
        if not child.is_told and child.serial in self._children:
            child.is_told = True
            self.send((STARTED, child.number, child.slot, child.taken_at, child.host_pid))

    def _adopt(self, child: Child, timeout_seconds: float) -> None:
        self._by_pid[child.pid] = child
        self._watch(child, child.pidfd, select.EPOLLIN, self._end)
        if child.input_fd is not None:
            self._write_stdin(child)
        if self._strays_at is None:
            self._strays_at = child.started_at + STRAY_SECONDS
        self._begin(child, timeout_seconds)

    def _begin(self, child: Child, timeout_seconds: float) -> None:
        self._children[child.serial] = child
        self._by_number[child.number] = child
        if not self._young:
            self._sweep_at = child.started_at + SWEEP_SECONDS
        self._young.append(child)
        self._deadline(child.started_at + timeout_seconds, child, is_last=False)

    def _watch(self, child: Child, descriptor: int, mask: int, handler: Handler) -> None:
        self._epoll.register(descriptor, mask)
        self._handlers[descriptor] = (handler, child)
        child.watched.add(descriptor)

    def _unwatch(self, child: Child, descriptor: int) -> None:
        # Before closing: a child being started may still hold it, and its number is used again.
        self._epoll.unregister(descriptor)
        del self._handlers[descriptor]
        child.watched.discard(descriptor)

    # -- pipes --

    def _write_stdin(self, child: Child) -> None:
        descriptor = child.input_fd
        assert descriptor is not None
        try:
            while child.stdin:
                child.stdin = child.stdin[os.write(descriptor, child.stdin[:READ_BYTES]) :]
        except BlockingIOError:
            if descriptor not in child.watched:
                self._watch(child, descriptor, select.EPOLLOUT, self._write_stdin)
            return
        except BrokenPipeError:  # The program does not want it.
            child.stdin = memoryview(b"")
        if descriptor in child.watched:
            self._unwatch(child, descriptor)
        os.close(descriptor)
        child.input_fd = None

    def _read_output(self, child: Child) -> None:
        self._read(child, child.output_fd, child.output)
        if child.output.is_over and child.reason == EXITED:
            self._kill(child, OVER_LIMIT)

    def _read_errors(self, child: Child) -> None:
        self._read(child, child.error_fd, child.errors)

    def _read(self, child: Child, descriptor: int, capture: HeadCapture | EndsCapture) -> None:
        try:
            data = os.read(descriptor, READ_BYTES)
        except BlockingIOError:
            return
        if data:
            capture.add(data)
            child.sign_at = time.monotonic()
        elif descriptor in child.watched:
            self._unwatch(child, descriptor)

    # -- ends --

    def _end(self, child: Child) -> None:
        for descriptor in tuple(child.watched):
            self._unwatch(child, descriptor)
        status, used = self._launcher.collect(child)
        used = self._launcher.leave_cgroup(child, used)
        del self._by_pid[child.pid]
        self._finish(child, child.reason, os.waitstatus_to_exitcode(status), used)

    def _finish(self, child: Child, reason: int, code: int, used: Used, detail: str = "") -> None:
        duration = time.monotonic() - child.started_at
        del self._children[child.serial], self._by_number[child.number]
        self._free_slot(child.slot)
        if reason == EXITED and child.output.is_over:
            reason = OVER_LIMIT
        if child.live is not None:
            self._tell_output(child, child.live, time.monotonic())
        said = child.progress
        self.send(
            (
                ENDED,
                child.number,
                child.slot,
                child.taken_at,
                reason,
                code,
                child.host_pid,
                child.output.kept(),
                child.errors.kept(),
                child.output.size,
                child.errors.size,
                child.errors.is_over,
                child.started_at,
                duration,
                None if said is None else (said.progress, said.note, said.invalid),
                *used,
                detail,
            )
        )

    def _free_slot(self, slot: int) -> None:
        free = slot if self._persistent is None else self._persistent.reuse(slot)
        heapq.heappush(self._free, free)

    def _cancel(self, number: int, now: float, *, is_at_once: bool) -> None:
        child = self._by_number.get(number)
        if child is not None:
            if self._persistent is not None and self._persistent.withdraw(child):
                return
            if is_at_once:
                self._kill(child, CANCELLED)
            else:
                self._ask_to_end(child, CANCELLED, now)
            return
        for entry in self._requests:
            if entry[1][1] == number:
                self._requests.remove(entry)
                self.send((GIVEN_BACK, number))
                return

    def _ask_to_end(self, child: Child, reason: int, now: float) -> None:
        """SIGTERM to its group, SIGKILL after its grace; nothing if it is being ended already."""
        if child.reason != EXITED:
            return
        if child.grace_seconds <= 0:
            self._kill(child, reason)
            return
        child.reason = reason
        signal_group(child.pid, signal.SIGTERM)
        self._deadline(now + child.grace_seconds, child, is_last=True)

    def _kill(self, child: Child, reason: int) -> None:
        if child.reason == EXITED:
            child.reason = reason
        kill_tree(child)

    def _kill_all(self) -> None:
        for child in self._by_pid.values():
            kill_tree(child)
        for _ in range(5):  # What was forking while we looked is found by the next look.
            if kill_marked(self._first_mark, nested=self._is_nested) == 0:
                return

    # -- clock --

    def _serve_clock(self, now: float) -> None:
        if self._young and now >= self._sweep_at:
            self._sweep(now)
        while self._requests and not self._free and self._requests[0][0] + HOLD_SECONDS <= now:
            self.send((GIVEN_BACK, self._requests.popleft()[1][1]))
        while self._deadlines and self._deadlines[0][0] <= now:
            _, serial, is_last = heapq.heappop(self._deadlines)
            child = self._children.get(serial)
            if child is not None:
                if is_last:
                    self._kill(child, TIMED_OUT)
                else:
                    self._ask_to_end(child, TIMED_OUT, now)
        if self._look_at is not None and now >= self._look_at:
            self._look(now)
        if self._strays_at is not None and now >= self._strays_at:
            self._hunt_strays(now)
        if self._persistent is not None:
            self._persistent.serve_clock(now)

    def _sweep(self, now: float) -> None:
        while self._young and self._young[0].started_at <= now - SWEEP_SECONDS:
            child = self._young.popleft()
            if child.serial in self._children:
                self._tell_start(child)
                self._read_from_now_on(child, now)
        self._sweep_at = now + SWEEP_SECONDS

    def _read_from_now_on(self, child: Child, now: float) -> None:
        if self._look_at is None:
            self._look_at = now + LOOK_SECONDS
        if child.is_read:  # Or a request that had a process before, and has another one now.
            return
        child.is_read = True
        if child.pidfd < 0:
            return  # A request: its process is read all the time.
        for descriptor in (child.output_fd, child.error_fd, child.progress_fd):
            os.set_blocking(descriptor, False)
        self._watch(child, child.output_fd, select.EPOLLIN, self._read_output)
        self._watch(child, child.error_fd, select.EPOLLIN, self._read_errors)

    # -- what is told while they run --

    def _look(self, now: float) -> None:
        looked_at = [child for child in self._children.values() if child.is_read]
        for child in looked_at:
            self._read_progress(child, now)
            if child.stall_seconds is not None and now - child.sign_at >= child.stall_seconds:
                self._ask_to_end(child, STALLED, now)
            # What the worker does not take is left out: the next piece says so by its offset.
            if child.live is not None and not self._is_writing:
                self._tell_output(child, child.live, now)
        if not self._is_writing:
            self._tell_signs(now)
        self._look_at = now + LOOK_SECONDS if looked_at else None

    def _read_progress(self, child: Child, now: float) -> None:
        if child.progress_fd < 0:  # A request that waits for its process.
            return
        # One reading a look: a program that writes more waits for its pipe, and for nobody else.
        try:
            data = os.read(child.progress_fd, READ_BYTES)
        except BlockingIOError:
            return
        if not data:  # It closed it.
            return
        is_told = child.take_progress(data)
        if is_told and child.progress is not None:
            child.sign_at = now
            self.send((PROGRESS, child.number, child.progress.progress, child.progress.note))

    def _follow(self, number: int, token: int, now: float) -> None:
        child = self._by_number.get(number)
        if child is None:  # Its end is on its way to the worker.
            return
        self._read_from_now_on(child, now)
        if child.pidfd >= 0:
            self._read_output(child)
            self._read_errors(child)
        if child.live is None:
            child.live = LiveOutput(child.output, child.errors, now)
        for stream, offset, data in child.live.snapshot():
            self.send((CHUNK, number, token, stream, offset, data))

    def _unfollow(self, number: int) -> None:
        child = self._by_number.get(number)
        if child is not None:
            child.live = None

    def _tell_output(self, child: Child, live: LiveOutput, now: float) -> None:
        for stream, offset, data in live.news(now):
            self.send((CHUNK, child.number, 0, stream, offset, data))

    def _tell_signs(self, now: float) -> None:
        due: dict[int, Child] = {}
        for child in self._children.values():
            if child.live is not None and child.live.signs_at <= now:
                child.live.signs_at = now + SIGNS_SECONDS
                due[(child.host_pid or 0) if self._is_nested else child.pid] = child
        if not due:
            return
        found = signs_of_groups(due, nested=self._is_nested)
        for group, child in due.items():
            signs = found.get(group, (None, None, None))
            self.send((SIGNS, child.number, now - child.started_at, *signs))

    def _deadline(self, moment: float, child: Child, *, is_last: bool) -> None:
        heapq.heappush(self._deadlines, (moment, child.serial, is_last))
        if len(self._deadlines) > 2 * len(self._children) + 64:
            self._deadlines = [entry for entry in self._deadlines if entry[1] in self._children]
            heapq.heapify(self._deadlines)

    def _hunt_strays(self, now: float) -> None:
        # Before reaping: a task that ends there was spared, and what it left is still to be found.
        is_open = len(self._by_pid) > len(self._processes)
        spared = self._children.keys() | self._processes.keys()
        is_open |= kill_marked(self._first_mark, spared=spared, nested=self._is_nested) > 0
        if not self._is_nested:
            is_open |= kill_adopted(leaders=self._by_pid, first_mark=self._first_mark) > 0
        while leaders := reap_orphans(self._by_pid):
            for pid in leaders:
                child = self._by_pid[pid]
                self._handlers[child.pidfd][0](child)
        is_open |= self._launcher.clear_away()
        self._strays_at = now + STRAY_SECONDS if is_open else None

    # -- persistent processes --

    def _persist(self, program: tuple[Any, ...]) -> None:
        # Only here: it takes longer to import than the rest of the spawner.
        from workers.executor.persistent_processes import PersistentProcesses
        from workers.executor.persistent_state import Program, Request

        self._new_request = Request
        self._persistent = PersistentProcesses(self, self._launcher, Program(*program), self._slots)

    def _ask(self, asked: tuple[Any, ...]) -> None:
        assert self._persistent is not None
        slot = self._persistent.choose(self._free)
        request = self._new_request(self.new_serial(), slot, asked)
        self._by_number[request.number] = request
        self._persistent.take(request)

    def new_serial(self) -> int:
        """A serial that nothing which runs has."""
        self._serial = self._serial % SERIAL_MASK + 1
        return self._serial

    def watch(self, child: Any, descriptor: int, mask: int, handler: Handler) -> None:
        """Have the handler called with the child when the descriptor is ready."""
        self._watch(child, descriptor, mask, handler)

    def unwatch(self, child: Any, descriptor: int) -> None:
        """Watch it no longer; before it is closed."""
        self._unwatch(child, descriptor)

    def keep(self, process: Process) -> None:
        """Reckon with a persistent process: no hunter of strays may take it."""
        self._processes[process.serial] = process
        self._by_pid[process.pid] = process
        process.proc_pid = process.host_pid if self._is_nested else process.pid

    def forget(self, process: Process) -> None:
        """It ended, and what it left behind is to be found."""
        del self._processes[process.serial], self._by_pid[process.pid]
        if self._strays_at is None:
            self._strays_at = time.monotonic() + STRAY_SECONDS

    def begin(self, request: Request, timeout_seconds: float) -> None:
        """A process has the request now: its deadline runs, and its start is to be told."""
        self._begin(request, timeout_seconds)

    def set_aside(self, request: Request) -> None:
        """Undo ``begin``: the request waits again."""
        del self._children[request.serial]
        request.serial = self.new_serial()

    def finish(self, request: Request, reason: int, code: int, used: Used) -> None:
        """Answer the request and free its slot."""
        self._finish(request, reason, code, used, request.detail)

    def drop(self, request: Request) -> None:
        """Free the slot of a request that no process had."""
        del self._by_number[request.number]
        self._free_slot(request.slot)

    def exchange(self, wanted: int, offered: int) -> bool:
        """Take that slot and free the other one; False when it is not free."""
        if wanted not in self._free:
            return False
        self._free.remove(wanted)
        self._free.append(offered)
        heapq.heapify(self._free)
        return True
