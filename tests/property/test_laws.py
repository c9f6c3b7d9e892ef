"""Laws 1 to 4 of the design, as property tests of their names."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from domain.backpressure import Budget, BudgetLimits
from domain.fanout import FanOut
from domain.fate import Fate, worst
from domain.offsets import OffsetTracker

fates = st.sampled_from(list(Fate))


class OffsetsPassOnlyInOrder(RuleBasedStateMachine):
    """Law 1: the watermark never falls and never exceeds the lowest offset without a fate."""

    def __init__(self) -> None:
        super().__init__()
        self.tracker = OffsetTracker()
        self.open: list[int] = []
        self.start, self.last = 0, -1
        self.previous: int | None = None

    @initialize(start=st.integers(0, 2**40))
    def begin(self, start: int) -> None:
        self.start, self.last = start, start - 1

    @rule(gap=st.integers(1, 5))
    def hand_over(self, gap: int) -> None:
        self.last += gap
        self.tracker.add(self.last)
        self.open.append(self.last)

    @precondition(lambda self: self.open)
    @rule(fate=fates, data=st.data())
    def settle(self, fate: Fate, data: st.DataObject) -> None:
        offset = data.draw(st.sampled_from(self.open))
        self.open.remove(offset)
        self.tracker.settle(offset, fate)

    @precondition(lambda self: self.last >= 0)
    @rule(fate=fates, data=st.data())
    def a_second_fate_is_refused(self, fate: Fate, data: st.DataObject) -> None:
        offset = data.draw(st.integers(0, self.last))
        if offset in self.open:
            return
        try:
            self.tracker.settle(offset, fate)
        except ValueError:
            return
        raise AssertionError(f"offset {offset} got a fate it must not get")

    @invariant()
    def watermark_holds(self) -> None:
        watermark = self.tracker.watermark
        if self.previous is not None:
            assert watermark is not None
            assert watermark >= self.previous
        if watermark is not None and self.open:
            assert watermark <= min(self.open)
        self.previous = watermark
        assert self.tracker.open_count == len(self.open)
        assert self.tracker.blocker == (min(self.open) if self.open else None)
        waiting = [offset for offset, has_fate in self.tracker.gaps() if not has_fate]
        assert waiting == sorted(self.open)

    @invariant()
    def everything_settled_passes(self) -> None:
        if not self.open and self.last >= self.start:
            assert self.tracker.watermark == self.last + 1


TestOffsetsPassOnlyInOrder = OffsetsPassOnlyInOrder.TestCase


@given(st.lists(st.one_of(fates, st.integers(0, 3)), max_size=40), st.integers(1, 5))
def test_every_part_ends_exactly_once(steps: list[Fate | int], parts: int) -> None:
    """Law 2: a fan-out completes exactly when its last part ends, replacements included."""
    fan_out, open_parts, ended = FanOut(parts), parts, []
    for step in steps:
        if open_parts == 0:
            break
        if isinstance(step, Fate):
            open_parts -= 1
            ended.append(step)
            assert fan_out.end(step) == (open_parts == 0)
        else:
            fan_out.replace(step)
            open_parts += step - 1
        assert fan_out.fate == worst(ended)


@given(st.lists(fates))
def test_the_fate_of_a_message_follows_from_its_parts(parts: list[Fate]) -> None:
    """Deferred if any, else dead-lettered if any, else delivered if any, else skipped if any, else
    filtered."""
    order = (Fate.DEFERRED, Fate.DEAD_LETTERED, Fate.DELIVERED, Fate.SKIPPED)
    expected = next(
        (fate for fate in order if fate in parts),
        Fate.FILTERED,
    )
    assert worst(parts) is expected


class BytesStayWithinTheBudget(RuleBasedStateMachine):
    """Law 3: bytes exceed the mark by at most one hand-over when room is asked before each."""

    limits = BudgetLimits(high_messages=20, high_bytes=1000)

    def __init__(self) -> None:
        super().__init__()
        self.budget: Budget[str] = Budget(self.limits)
        self.held: list[tuple[str, int]] = []
        self.largest_hand_over = 0

    @rule(
        owner=st.sampled_from("abc"), sizes=st.lists(st.integers(0, 300), min_size=1, max_size=30)
    )
    def hand_over(self, owner: str, sizes: list[int]) -> None:
        taken = sizes[: self.budget.room_messages]
        if not taken:
            return
        self.largest_hand_over = max(self.largest_hand_over, sum(taken))
        self.budget.charge(owner, len(taken), sum(taken))
        self.held.extend((owner, size) for size in taken)

    @precondition(lambda self: self.held)
    @rule(data=st.data())
    def settle(self, data: st.DataObject) -> None:
        owner, size = data.draw(st.sampled_from(self.held))
        self.held.remove((owner, size))
        self.budget.refund(owner, 1, size)

    @rule(owner=st.sampled_from("abc"))
    def epoch_ends(self, owner: str) -> None:
        self.budget.close(owner)
        self.held = [entry for entry in self.held if entry[0] != owner]

    @invariant()
    def bounded(self) -> None:
        assert self.budget.messages == len(self.held) <= self.limits.high_messages
        assert self.budget.bytes == sum(size for _, size in self.held)
        assert self.budget.bytes < self.limits.high_bytes + self.largest_hand_over + 1


TestBytesStayWithinTheBudget = BytesStayWithinTheBudget.TestCase


@given(st.lists(st.booleans(), min_size=1, max_size=200))
def test_a_share_has_hysteresis(charges: list[bool]) -> None:
    """A partition over its share rests until it fell under half of it."""
    limits = BudgetLimits(high_messages=40, high_bytes=10**9)
    budget: Budget[str] = Budget(limits)
    over = False
    for is_charge in charges:
        held = budget.held("p")[0]
        if is_charge:
            budget.charge("p", 1, 1)
        elif held:
            budget.refund("p", 1, 1)
        held = budget.held("p")[0]
        over = held >= 10 if not over else held >= 5
        assert budget.is_over_share("p") is over
