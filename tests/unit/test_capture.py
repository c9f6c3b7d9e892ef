"""What is kept of a process's output, however it is cut into pieces."""

from __future__ import annotations

import sys

from hypothesis import given
from hypothesis import strategies as st

from workers.executor.capture import HeadCapture


@given(st.lists(st.binary(min_size=1, max_size=8)), st.integers(0, 60))
def test_the_first_bytes_are_kept_and_all_are_counted(pieces: list[bytes], cap: int) -> None:
    capture, whole = HeadCapture(cap), b"".join(pieces)
    for piece in pieces:
        capture.add(piece)
    assert capture.kept() == whole[:cap]
    assert capture.size == len(whole)
    assert capture.is_over is (len(whole) > cap)


def test_output_in_small_pieces_takes_no_more_room_than_in_one() -> None:
    capture = HeadCapture(1 << 20)
    for number in range(100_000):
        capture.add(b"%05d" % (number % 100_000))
    held = sum(sys.getsizeof(getattr(capture, name)) for name in HeadCapture.__slots__)
    assert held < 2 * capture.size
