"""Deferred messages are held until they are due, in that order, and one life at a time."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from domain.holding import MOST_HELD, HeldBytes, Holding
from domain.origin import MessageOrigin

SIZE = 10

moves = st.one_of(
    st.tuples(st.just("add"), st.integers(0, 3), st.integers(0, 20)),
    st.tuples(st.just("take"), st.integers(0, 20), st.just(0)),
    st.tuples(st.just("settle"), st.integers(0, 3), st.just(0)),
)


def origin(offset: int) -> MessageOrigin:
    return MessageOrigin(cluster="main", topic="t", partition=0, offset=offset, timestamp=0)


@given(st.lists(moves, max_size=60))
def test_each_message_comes_out_once_when_due_and_no_two_lives_of_one_at_once(
    history: list[tuple[str, int, int]],
) -> None:
    account = HeldBytes(most_bytes=10**6)
    holding: Holding[tuple[int, int, int]] = Holding(account)
    held: list[tuple[int, int, int]] = []
    out: dict[int, tuple[int, int, int]] = {}
    now = 0
    for number, (move, first, second) in enumerate(history):
        if move == "add":
            item = (first, second, number)
            holding.add(item, origin(first), second, SIZE)
            held.append(item)
        elif move == "settle":
            out.pop(first, None)
            holding.settled(origin(first))
        else:
            now = max(now, first)
            taken = holding.take(now)
            free = [one for one in held if one[1] <= now and one[0] not in out]
            assert (taken is None) is (not free)
            if taken is not None:
                assert taken in free
                held.remove(taken)
                out[taken[0]] = taken
        assert holding.count == len(held)
        assert account.bytes == SIZE * len(held)
    while held:
        for offset in list(out):
            out.pop(offset)
            holding.settled(origin(offset))
        item_or_none = holding.take(10**9)
        assert item_or_none is not None
        held.remove(item_or_none)
        out[item_or_none[0]] = item_or_none
    assert holding.take(10**9) is None


@given(st.lists(st.integers(0, 100), min_size=1, max_size=30))
def test_what_was_due_first_comes_out_first(due: list[int]) -> None:
    holding: Holding[int] = Holding(HeldBytes(most_bytes=10**6))
    for offset, moment in enumerate(due):
        holding.add(moment, origin(offset), moment, SIZE)
    assert holding.next_due_at == min(due)
    assert [holding.take(100) for _ in due] == sorted(due)


def test_it_is_full_by_messages_or_by_the_bytes_of_the_worker() -> None:
    account = HeldBytes(most_bytes=MOST_HELD * SIZE)
    full, other = Holding[int](account), Holding[int](account)
    for offset in range(MOST_HELD - 1):
        full.add(offset, origin(offset), 5, SIZE)
    before = full.is_full
    full.add(0, origin(MOST_HELD), 5, SIZE)
    assert (before, full.is_full) == (False, True)
    empty = other.is_full
    other.add(0, origin(0), 5, SIZE)
    assert (empty, other.is_full) == (False, True), "what holds nothing may always hold something"
    full.close()
    assert (other.is_full, account.bytes) == (False, SIZE)
