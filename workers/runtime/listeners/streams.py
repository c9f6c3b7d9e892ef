"""Standard streams that cannot hurt the worker: a bounded queue, and a thread that writes.

A full disk, a closed pipe or a reader that stands still costs lines of the log, which are counted
and said, and never a message, a partition or the worker.
"""

from __future__ import annotations

import atexit
import io
import logging
import os
import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Any, NoReturn, TextIO, cast

MAX_WAITING_CHARACTERS = 8 * 1024 * 1024
WRITE_CHARACTERS = 64 * 1024
EXIT_SECONDS = 1.0
"""Seconds that the end of the process waits for the streams to be written out."""

_STREAMS: list[QueuedStream] = []


def _say_lost(lines: int) -> str:
    return f"log: {lines} lines could not be written and are lost\n"


class QueuedStream(io.TextIOBase):
    """Text stream whose ``write`` neither waits nor raises; its own thread passes on to
    ``target``, in order.

    At most ``max_characters`` wait. What comes beyond that, and what the target refuses, is lost:
    counted in ``lost_lines``, and said with ``say_lost`` as soon as the target takes text again.
    """

    def __init__(
        self,
        target: TextIO,
        *,
        max_characters: int = MAX_WAITING_CHARACTERS,
        say_lost: Callable[[int], str] = _say_lost,
    ) -> None:
        self._target = target
        self._max_characters = max_characters
        self.say_lost = say_lost
        self.lost_lines = 0
        self._unsaid_lines = 0
        self._is_torn = False
        self._queue: deque[str] = deque()
        self._characters = 0
        # Reentrant: a finalizer may log in the midst of a write of the same thread.
        self._changed = threading.Condition(threading.RLock())
        self._thread: threading.Thread | None = None
        self._is_forked = False
        if not _STREAMS:
            atexit.register(drain, EXIT_SECONDS)
            os.register_at_fork(after_in_child=_be_forked)
        _STREAMS.append(self)

    @property
    def target(self) -> TextIO:
        """Stream behind this one."""
        return self._target

    @property
    def encoding(self) -> str:  # type: ignore[override]
        """Always UTF-8; what that cannot say is escaped."""
        return "utf-8"

    @property
    def buffer(self) -> _Bytes:
        """Side that takes bytes."""
        return _Bytes(self)

    def writable(self) -> bool:
        """Always."""
        return True

    def isatty(self) -> bool:
        """Return what the target says."""
        with suppress(Exception):
            return self._target.isatty()
        return False

    def fileno(self) -> int:
        """Return the target's. Raises OSError when it has none."""
        return self._target.fileno()

    def write(self, text: str) -> int:
        """Queue the text, or count it as lost; returns its length."""
        if self._is_forked:
            self._put(text)
            return len(text)
        with self._changed:
            if self._characters + len(text) > self._max_characters:
                self._lose(text)
            else:
                self._queue.append(text)
                self._characters += len(text)
                self._changed.notify_all()
            if self._thread is None:
                self._thread = threading.Thread(target=self._main, name="log", daemon=True)
                self._thread.start()
        return len(text)

    def flush(self) -> None:
        """Do nothing: the thread writes at once, and ``drain`` waits for it."""

    def drain(self, timeout_seconds: float) -> bool:
        """Wait until all is written or lost; False when that took too long."""
        with self._changed:
            return self._changed.wait_for(lambda: not self._characters, timeout_seconds)

    def be_forked(self) -> None:
        """Write at once from now on: this is a child of a fork, which has no thread that would.

        The lock may have been held by a thread of the parent, whose text the queue holds.
        """
        self._changed = threading.Condition(threading.RLock())
        self._queue.clear()
        self._characters = 0
        self._is_forked = True

    def _main(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._queue)
                texts = self._next()
            self._write_out(texts)
            with self._changed:
                self._characters -= sum(map(len, texts))
                self._changed.notify_all()

    def _next(self) -> list[str]:
        """Take the oldest texts, about as many as one write takes."""
        texts = [self._queue.popleft()]
        size = len(texts[0])
        while self._queue and size < WRITE_CHARACTERS:
            texts.append(self._queue.popleft())
            size += len(texts[-1])
        return texts

    def _write_out(self, texts: list[str]) -> None:
        """Write them, after what was lost before them was said."""
        text = "".join(texts)
        if self._unsaid_lines:
            lines = self._unsaid_lines
            if self._put("\n" * self._is_torn + self.say_lost(lines)):
                with self._changed:
                    self._lose(text)
                return
            with self._changed:
                self._unsaid_lines -= lines
        if left := self._put(text):
            self._is_torn = len(left) < len(text)
            with self._changed:
                self._lose(left)
        else:
            self._is_torn = False

    def _lose(self, text: str) -> None:
        lines = max(1, text.count("\n"))
        self.lost_lines += lines
        self._unsaid_lines += lines

    def _put(self, text: str) -> str:
        """Write it, however long the target makes us wait; returns what it did not take."""
        try:
            descriptor = self._target.fileno()
        except Exception:  # noqa: BLE001 - a stream of any kind: it has no file
            return self._put_whole(text)
        left = memoryview(text.encode("utf-8", "backslashreplace"))
        while left:
            try:
                left = left[os.write(descriptor, left) :]
            except BlockingIOError:
                room = select.poll()
                room.register(descriptor, select.POLLOUT)
                room.poll()
            except OSError:
                return bytes(left).decode("utf-8", "replace")
        return ""

    def _put_whole(self, text: str) -> str:
        try:
            self._target.write(text)
            self._target.flush()
        except Exception:  # noqa: BLE001 - a stream may raise anything, and there is no other log
            return text
        return ""


class _Bytes(io.RawIOBase):
    """Bytes side of a ``QueuedStream``."""

    def __init__(self, stream: QueuedStream) -> None:
        self._stream = stream

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, content: Any) -> int:
        """Queue it as text."""
        given = bytes(content)
        self._stream.write(given.decode("utf-8", "backslashreplace"))
        return len(given)


def queued(stream: TextIO, say_lost: Callable[[int], str] | None = None) -> TextIO:
    """Return the stream with a queue before it; one that has its queue already, as it is."""
    found: Any = stream
    if not isinstance(found, QueuedStream):
        found = QueuedStream(stream)
    if say_lost is not None:
        found.say_lost = say_lost
    return cast("TextIO", found)


def queue_standard_streams() -> None:
    """Put queues before ``sys.stdout`` and ``sys.stderr``, also for the loggers that hold them."""
    new = {id(old): queued(old) for old in (sys.stdout, sys.stderr)}
    known = [logging.root, *logging.root.manager.loggerDict.values()]
    for logger in known:
        for handler in getattr(logger, "handlers", ()):
            if isinstance(handler, logging.StreamHandler) and id(handler.stream) in new:
                handler.setStream(new[id(handler.stream)])
    sys.stdout, sys.stderr = new[id(sys.stdout)], new[id(sys.stderr)]


def lost_lines() -> int:
    """Lines that the streams of this process could not write."""
    return sum(stream.lost_lines for stream in _STREAMS)


def _be_forked() -> None:
    for stream in _STREAMS:
        stream.be_forked()


def drain(seconds: float) -> None:
    """Wait until all streams are written out, for so long at the most."""
    until = time.monotonic() + seconds
    for stream in _STREAMS:
        stream.drain(max(0.0, until - time.monotonic()))


def end_process(exit_code: int, last_words: str = "", seconds: float = EXIT_SECONDS) -> NoReturn:
    """End the process at once; what the log holds is written out, for so long at the most."""
    try:
        if last_words:
            sys.stderr.write(last_words)
        drain(seconds)
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
    finally:
        os._exit(exit_code)


def end_process_at(seconds: float, exit_code: int = 1) -> None:
    """End the process after so long, whatever its threads and the loop do (docs/decisions/0019)."""

    def end() -> None:
        end_process(exit_code, f"not stopped within {seconds:.0f} s: ending the process\n")

    timer = threading.Timer(seconds, end)
    timer.daemon = True
    timer.start()
