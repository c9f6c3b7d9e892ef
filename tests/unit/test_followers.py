"""What followers of one launch are told, whenever each came."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from workers.executor.base import Chunk, Signs
from workers.executor.capture import EndsCapture, HeadCapture
from workers.executor.following import Followers
from workers.executor.live_output import BYTES_A_SECOND, STDERR, STDOUT, LiveOutput

Told = list[Chunk | Signs | None]
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.integers(0, 1), st.integers(1, 90_000)),
        st.tuples(st.just("tell"), st.just(0), st.integers(0, 20)),
        st.tuples(st.just("join"), st.just(0), st.just(0)),
        st.tuples(st.just("leave"), st.integers(0, 3), st.just(0)),
    ),
    max_size=25,
)


def numbered(start: int, size: int) -> bytes:
    """Bytes that tell where in the stream they are."""
    return bytes((start + place) % 251 for place in range(size))


@settings(deadline=None)
@given(STEPS, st.sampled_from([10, 1000, 1 << 20]))
def test_each_is_told_the_stream_in_order_and_what_is_left_out(
    steps: list[tuple[str, int, int]], cap: int
) -> None:
    captures: tuple[HeadCapture, EndsCapture] = HeadCapture(1 << 22), EndsCapture(cap)
    live = LiveOutput(*captures, now=0.0)
    followers, heard = Followers(), list[Told]()
    now = 0.0
    for what, number, amount in [*steps, ("tell", 0, 20)]:
        if what == "write":
            captures[number].add(numbered(captures[number].size, amount))
        elif what == "tell":
            now += amount / 10
            for stream, offset, data in live.news(now):
                followers.take(0, stream, offset, data)
        elif what == "join":
            told: Told = []
            heard.append(told)
            assert followers.add(told.append, len(heard))
            for stream, offset, data in live.snapshot():
                followers.take(len(heard), stream, offset, data)
        elif number < len(heard):
            followers.remove(heard[number].append)
    followers.tell(None)
    for told in heard:
        for name in ("stdout", "stderr"):
            end = 0
            pieces = [each for each in told if isinstance(each, Chunk) and each.stream == name]
            assert pieces, "the first says how much was written, even if nothing was"
            for piece in pieces:
                assert piece.offset == end + piece.skipped
                assert piece.data == numbered(piece.offset, len(piece.data))
                end = piece.offset + len(piece.data)
        assert told.count(None) <= 1


def test_a_flood_is_told_at_the_rate_and_the_newest_of_it() -> None:
    errors = EndsCapture(1 << 20)
    live = LiveOutput(HeadCapture(1), errors, now=0.0)
    told = 0
    for tick in range(1, 41):  # Ten seconds.
        errors.add(numbered(errors.size, 100_000))
        for stream, offset, data in live.news(tick / 4):
            assert (stream, offset + len(data)) == (STDERR, errors.size)
            told += len(data)
    assert 9 * BYTES_A_SECOND < told <= 11 * BYTES_A_SECOND


def test_a_flood_of_one_stream_leaves_half_of_the_rate_to_the_other() -> None:
    output, errors = HeadCapture(1 << 24), EndsCapture(1 << 20)
    live = LiveOutput(output, errors, now=0.0)
    told = {STDOUT: 0, STDERR: 0}
    for tick in range(1, 41):  # Ten seconds.
        output.add(numbered(output.size, 100_000))
        errors.add(numbered(errors.size, 1_000))
        for stream, _, data in live.news(tick / 4):
            told[stream] += len(data)
    assert told[STDERR] == 40_000
    assert told[STDOUT] > 8 * BYTES_A_SECOND
