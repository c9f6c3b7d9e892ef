"""Text of a live tail: what came is shown once and in order, what is missing is counted."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from domain.live_tail import Piece, TailText

TEXTS = st.text(max_size=60)
CUTS = st.lists(st.integers(0, 240), max_size=12)


def pieces_of(data: bytes, cuts: list[int]) -> list[Piece]:
    """The data cut at these places."""
    ends = sorted({min(cut, len(data)) for cut in cuts} | {len(data)})
    starts = [0, *ends[:-1]]
    return [
        Piece(attempt=1, stream="stdout", offset=start, data=data[start:end])
        for start, end in zip(starts, ends, strict=True)
    ]


@given(text=TEXTS, cuts=CUTS)
def test_cut_anywhere_it_is_the_same_text(text: str, cuts: list[int]) -> None:
    shown = TailText()
    written = [found for each in pieces_of(text.encode(), cuts) if (found := shown.add(each))]
    assert "".join(found.text for found in written) == text
    assert not any(found.left_out for found in written)


@given(text=TEXTS, cuts=CUTS, data=st.data())
def test_twice_or_never_nothing_is_shown_twice_and_what_is_missing_is_counted(
    text: str, cuts: list[int], data: st.DataObject
) -> None:
    content = text.encode("utf-16-le")
    whole = pieces_of(content, cuts)
    kept = [each for each in whole if data.draw(st.booleans())]
    again = data.draw(st.lists(st.sampled_from(kept), max_size=5)) if kept else []
    shown = TailText()
    place = 0
    for each in kept + again:
        written = shown.add(each)
        if written is None:
            assert each.end <= place
            continue
        assert written.offset == place + written.left_out == max(place, each.offset)
        place = each.end
    assert place == max((each.end for each in kept), default=0)


@given(first=TEXTS, second=TEXTS)
def test_another_attempt_begins_anew_and_a_late_piece_of_the_old_one_is_dropped(
    first: str, second: str
) -> None:
    shown = TailText()
    old = Piece(attempt=1, stream="stdout", offset=0, data=b"x" + first.encode())
    new = Piece(attempt=2, stream="stdout", offset=0, data=b"y" + second.encode())
    shown.add(old)
    begun = shown.add(new)
    assert begun is not None
    assert (begun.is_anew, begun.left_out, begun.text) == (True, 0, "y" + second)
    late = Piece(attempt=1, stream="stdout", offset=old.end, data=b"late")
    assert shown.add(late) is None
