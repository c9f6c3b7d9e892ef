"""The queue before stdout and stderr: it neither waits nor raises, and tells what was lost."""

from __future__ import annotations

import errno
import io
import logging
import os
import sys
import threading
from collections.abc import Iterator
from typing import TextIO, cast

import pytest

from workers.runtime.listeners.streams import QueuedStream, queue_standard_streams

WAIT_SECONDS = 10.0


class Target(io.StringIO):
    """A stream that refuses, or keeps its writer waiting, as told."""

    def __init__(self) -> None:
        super().__init__()
        self.is_full = False
        self.may_write = threading.Event()
        self.may_write.set()
        self.is_asked = threading.Event()

    def write(self, text: str) -> int:
        """Keep it, sooner or later, or refuse."""
        self.is_asked.set()
        assert self.may_write.wait(WAIT_SECONDS)
        if self.is_full:
            raise OSError(errno.ENOSPC, "No space left on device")
        return super().write(text)


def made(target: io.StringIO, max_characters: int = 1 << 20) -> QueuedStream:
    return QueuedStream(cast("TextIO", target), max_characters=max_characters)


def test_what_is_written_comes_out_in_order() -> None:
    target = Target()
    stream = made(target)
    for number in range(1000):
        stream.write(f"{number}\n")
    assert stream.drain(WAIT_SECONDS)
    assert target.getvalue() == "".join(f"{number}\n" for number in range(1000))
    assert stream.lost_lines == 0


def test_a_writer_is_not_held_and_what_does_not_fit_is_counted_and_told() -> None:
    target = Target()
    target.may_write.clear()
    stream = made(target, max_characters=100)
    stream.write("first\n")
    assert target.is_asked.wait(WAIT_SECONDS)
    for _ in range(100):
        stream.write("next one\n")
    assert not stream.drain(0.05)
    assert stream.lost_lines == 90
    target.may_write.set()
    assert stream.drain(WAIT_SECONDS)
    stream.write("last\n")
    assert stream.drain(WAIT_SECONDS)
    text = target.getvalue()
    assert text.count("next one") == 10
    assert "90 lines could not be written and are lost" in text
    assert text.endswith("last\n")


def test_a_disk_that_was_full_has_the_number_of_lost_lines_told_once() -> None:
    target = Target()
    target.is_full = True
    stream = made(target)
    for number in range(5):
        stream.write(f"{number}\n")
        assert stream.drain(WAIT_SECONDS)
    assert stream.lost_lines == 5
    target.is_full = False
    for number in range(5, 7):
        stream.write(f"{number}\n")
        assert stream.drain(WAIT_SECONDS)
    assert target.getvalue() == "log: 5 lines could not be written and are lost\n5\n6\n"
    assert stream.lost_lines == 5


def test_a_target_that_is_closed_costs_its_lines_only() -> None:
    target = Target()
    target.close()
    stream = made(target)
    stream.write("gone\n")
    assert stream.drain(WAIT_SECONDS)
    assert stream.lost_lines == 1


def test_what_utf8_cannot_say_is_escaped() -> None:
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "w") as target, os.fdopen(read_end, "rb") as reader:
        stream = QueuedStream(target)
        stream.write("a\udcffb\n")
        stream.buffer.write(b"\xff\n")
        assert stream.drain(WAIT_SECONDS)
        assert reader.readline() == b"a\\udcffb\n"
        assert reader.readline() == b"\\xff\n"


@pytest.fixture
def restored() -> Iterator[None]:
    streams = sys.stdout, sys.stderr
    yield
    sys.stdout, sys.stderr = streams


def test_loggers_that_hold_stderr_get_the_queue_too(restored: None) -> None:
    target = Target()
    sys.stderr = target
    logger = logging.getLogger("tests.streams")
    handler = logging.StreamHandler()
    logger.addHandler(handler)
    try:
        queue_standard_streams()
        queue = cast("QueuedStream", sys.stderr)
        assert handler.stream is sys.stderr
        target.is_full = True
        logger.error("into the void")
        assert queue.drain(WAIT_SECONDS)
        assert queue.lost_lines == 1
    finally:
        logger.removeHandler(handler)
