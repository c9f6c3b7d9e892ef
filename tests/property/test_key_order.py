"""Tasks of one key run in the order of their messages, whatever happens to them."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.decision import DeadLetter, Skip
from domain.events import MessageCompleted
from domain.task import Task
from tests.property.test_life_cycles import Action, actions, ends, play
from tests.support.one_partition import HANDLERS, Scene, Script, ScriptedHandler
from workers.pipeline import key_order
from workers.pipeline.key_order import KeyOrder
from workers.pipeline.life_cycle import LiveTask, TaskState

FINAL = {TaskState.ENDED, TaskState.LEFT}
keyed = st.builds(
    Script,
    keys=st.lists(st.sampled_from([None, "a", "a", "b"]), min_size=1, max_size=3).map(tuple),
    precomputed=st.sampled_from([None, None, None, 0]),
    decision=st.sampled_from(["retry", "wait", "skip", "dead", "replace", "raise", "hang"]),
    collect=st.sampled_from(["none", "some", "raise", "hang"]),
    complete=st.sampled_from(["none", "some"]),
)
handed: st.SearchStrategy[Action] = st.lists(keyed, min_size=1, max_size=4).map(
    lambda chosen: lambda scene: scene.hand_over(*chosen)
)
held: st.SearchStrategy[Action] = st.tuples(st.sampled_from("ab"), st.booleans()).map(
    lambda hold: lambda scene: scene.partition.keys.hold_key(*hold)
)


def place(live: LiveTask) -> tuple[int, ...]:
    """Its place in the order of its key, by its id: offset, number, and those of replacements."""
    _, offset, rest = live.task.id.split(":")
    number, *replaced = rest.split(".r")
    return (int(offset), int(number), *map(int, replaced))


class Watched:
    """Every task with a key, and what the law forbids when one begins."""

    def __init__(self, most: int) -> None:
        self.joined: list[LiveTask] = []
        self.begun: set[LiveTask] = set()
        self.most = most

    def begins(self, live: LiveTask) -> None:
        others = [one for one in self.joined if one.task.key == live.task.key and one is not live]
        earlier = [one for one in others if place(one) < place(live)]
        if self.most == 1:
            assert [one for one in earlier if one.state is TaskState.LEFT] == []
        open_ = [one for one in earlier if one not in self.begun and one.state not in FINAL]
        assert len(open_) < self.most, f"{live.task.id} begins before {open_}"
        working = [one for one in others if one in self.begun and one.state not in FINAL]
        assert len(working) < self.most, f"{live.task.id} beside {working}"


@contextmanager
def watched(most: int = 1) -> Iterator[Watched]:
    seen = Watched(most)
    own_join, own_enter = KeyOrder.join, LiveTask.enter

    def join(self: KeyOrder, live: LiveTask, **at: Any) -> None:
        seen.joined.append(live)
        own_join(self, live, **at)

    def enter(self: LiveTask, state: TaskState) -> None:
        if state is TaskState.RUNNING and self.task.key is not None and self not in seen.begun:
            seen.begins(self)
            seen.begun.add(self)
        own_enter(self, state)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(KeyOrder, "join", join)
        patch.setattr(LiveTask, "enter", enter)
        yield seen


@settings(deadline=None)
@given(
    st.sampled_from(HANDLERS),
    st.integers(1, 3),
    st.sampled_from([0, 2]),
    st.lists(handed | handed | actions | held, min_size=1, max_size=14),
    ends,
    st.lists(actions, max_size=4),
)
def test_a_task_begins_when_those_before_it_of_its_key_have_ended(
    handler: type[ScriptedHandler],
    slots: int,
    ahead: int,
    before: list[Action],
    end: Action,
    after: list[Action],
) -> None:
    """Retries, replacements, operators, drains and lost epochs included: none begins while one
    before it is unfinished, nor after one before it was left to the heir."""

    async def history() -> None:
        await play(Scene(handler(), slots=slots, ahead=ahead), *before, end, *after)

    with watched():
        asyncio.run(history())


@settings(deadline=None)
@given(st.integers(2, 3), st.lists(handed | actions, min_size=1, max_size=12), ends)
def test_at_most_so_many_of_a_key_run_and_they_begin_in_order(
    most: int, before: list[Action], end: Action
) -> None:
    async def history() -> None:
        await play(Scene(ScriptedHandler(), slots=4, per_key=most), *before, end)

    with watched(most):
        asyncio.run(history())


ended = st.builds(
    Script,
    keys=st.lists(st.sampled_from([None, "a", "b"]), min_size=1, max_size=3).map(tuple),
    precomputed=st.sampled_from([None, None, 0]),
    decision=st.sampled_from(["retry", "skip", "dead", "replace"]),
    collect=st.sampled_from(["none", "some"]),
)


@settings(deadline=None)
@given(
    st.sampled_from(HANDLERS),
    st.lists(ended, min_size=1, max_size=6),
    st.lists(st.sampled_from(["ok", "fail", "lost", "given_back", "hold", "cancel"]), max_size=20),
)
def test_every_task_of_a_key_ends(
    handler: type[ScriptedHandler], scripts: list[Script], acts: list[str]
) -> None:
    """Nobody waits for ever: once programs end well and nothing is held, each message has its
    fate and nothing is remembered of its keys."""

    async def history() -> None:
        scene = Scene(handler(), slots=2)
        scene.hand_over(*scripts)
        for act in acts:
            await scene.turn()
            if act == "hold":
                scene.partition.keys.hold_key("a", True)
            elif act == "cancel":
                scene.cancel(Skip(reason="by the test"))
            else:
                scene.exit("ok" if act == "given_back" else act)
            scene.deliver()
        scene.partition.keys.hold_key("a", False)
        for _ in range(300):
            await scene.turn()
            scene.exit("ok")
            scene.deliver()
            if scene.partition.figures().pending == 0:
                break
        fates = [event for event in scene.told if isinstance(event, MessageCompleted)]
        assert len(fates) == len(scripts)
        await scene.turn()
        assert scene.partition.keys.waiting_count == 0
        assert list(scene.partition.keys.chains()) == []
        assert scene.partition.keys.count("a") == scene.partition.keys.count("b") == 0
        await scene.close()

    asyncio.run(history())


def test_a_flood_of_letters_holds_up_no_task_that_they_wait_for() -> None:
    """Fifty messages with a letter on its way wait for a task of their key, whose letter would be
    the next one: it goes before there is room."""

    async def history() -> None:
        scene = Scene(ScriptedHandler(), slots=100)
        dead = Script(keys=(None, "k"), decision="dead")
        scene.hand_over(Script(keys=("k",), decision="dead"), *[dead] * 50)
        await scene.turn()
        first, *others = list(scene.programs.running)
        scene.programs.running.clear()
        scene.programs.running.extend([*others, first])
        scene.sinks.may_write.clear()
        for _ in range(51):
            scene.exit("fail")
        await scene.turn()
        states = {one.task.id: one.state for one in scene.partition.tasks.all}
        assert states["0:0:0"] is TaskState.DEAD_LETTERING
        await scene.close()

    asyncio.run(history())


def test_a_held_key_waits_and_goes_on_in_order() -> None:
    async def history() -> None:
        scene = Scene(ScriptedHandler(), slots=4)
        scene.hand_over(*[Script(keys=("k",))] * 3)
        await scene.turn()
        scene.partition.keys.hold_key("k", True)
        assert scene.partition.keys.waiting_count == 2
        scene.exit("ok")
        await scene.turn()
        assert not scene.programs.running
        blocker = scene.partition.figures().blocker
        assert blocker is not None
        assert (blocker.offset, blocker.waits_for) == (1, "key k, paused")
        scene.partition.keys.hold_key("k", False)
        await scene.turn()
        (live,) = [one for one in scene.partition.tasks.all if one.state is TaskState.RUNNING]
        assert live.task.id == "0:1:0"
        await scene.close()

    with watched():
        asyncio.run(history())


def test_a_drain_finishes_what_stands_before_a_task_that_it_finishes() -> None:
    """Message 1 is worked on, and its other task waits for the task of message 0: were that left
    to the heir, it would run after those of message 1."""

    async def history() -> list[str]:
        scene = Scene(ScriptedHandler(), slots=1)
        scene.hand_over(Script(keys=("k",)), Script(keys=(None, "k")))
        await scene.turn()
        scene.exit("lost")
        await scene.turn()
        states = {one.task.id: one.state for one in scene.partition.tasks.all}
        assert (states["0:0:0"], states["0:1:0"]) == (TaskState.QUEUED, TaskState.RUNNING)
        scene.end(5.0)
        for _ in range(100):
            await asyncio.sleep(0.02)
            scene.exit("ok")
            if scene.ends[0].done():
                break
        await scene.close()
        return [one.task.id for one in seen.joined if one.state is TaskState.ENDED]

    with watched() as seen:
        assert asyncio.run(history()) == ["0:0:0", "0:1:1"]


def test_a_replacement_has_the_place_the_key_and_the_group_of_what_it_replaces() -> None:
    async def history() -> None:
        scene = Scene(ScriptedHandler(), slots=2)
        scene.hand_over(Script(keys=("k", "k"), group="t", decision="replace"))
        await scene.turn()
        scene.exit("fail")
        await scene.turn()
        second, replacement = scene.partition.tasks.all
        assert (second.task.id, second.state) == ("0:0:1", TaskState.QUEUED)
        assert (replacement.task.id, replacement.state) == ("0:0:0.r1", TaskState.RUNNING)
        assert (replacement.task.key, replacement.task.group) == ("k", "t")
        await scene.close()

    with watched():
        asyncio.run(history())


def test_an_operator_who_gives_up_the_first_lets_the_second_go() -> None:
    async def history() -> None:
        scene = Scene(ScriptedHandler(), slots=2)
        scene.hand_over(*[Script(keys=("k",))] * 2)
        await scene.turn()
        assert scene.partition.cancel_task("0:0:0", DeadLetter(reason="by the test"))
        await scene.turn()
        (live,) = scene.partition.tasks.all
        assert (live.task.id, live.state) == ("0:1:0", TaskState.RUNNING)
        await scene.close()

    with watched():
        asyncio.run(history())


def test_a_payload_that_becomes_a_letter_is_let_through_for_those_behind_it() -> None:
    """The task delivers when its payload is refused for good, and its letter would be the
    fifty-first."""

    async def history() -> None:
        scene = Scene(ScriptedHandler(), slots=100)
        dead = Script(keys=(None, "k"), decision="dead")
        scene.hand_over(Script(keys=("k",), collect="some"), *[dead] * 50)
        await scene.turn()
        first, *others = list(scene.programs.running)
        scene.programs.running.clear()
        scene.programs.running.extend([*others, first])
        scene.sinks.may_write.clear()
        for _ in range(50):
            scene.exit("fail")
        scene.exit("ok")
        await scene.turn()
        (live,) = [one for one in scene.partition.tasks.all if one.task.id == "0:0:0"]
        assert live.state is TaskState.DELIVERING
        other = asyncio.create_task(scene.partition.deliveries.admit(live.messages))
        await scene.turn()
        assert not other.done(), "there is no room for what nobody waits for"
        letter = asyncio.create_task(scene.partition.deliveries.admit(live.messages, live))
        await scene.turn()
        assert letter.done()
        assert other.done(), "its message is in: all letters of it pass"
        await scene.close()

    asyncio.run(history())


def test_thousands_that_wait_for_one_key_are_left_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A drain has them all cancelled in one turn: the order is not made anew for each."""
    comparisons = 0
    is_before = key_order._Waiting.__lt__

    def counted(one: key_order._Waiting, other: key_order._Waiting) -> bool:
        nonlocal comparisons
        comparisons += 1
        return is_before(one, other)

    async def history() -> None:
        scene = Scene(ScriptedHandler(), slots=4)
        scene.hand_over(*[Script(keys=("k",) * 200)] * 50)
        await scene.turn()
        assert scene.partition.keys.waiting_count == 9_999
        monkeypatch.setattr(key_order._Waiting, "__lt__", counted)
        await scene.partition.lose()
        for _ in range(3):
            await asyncio.sleep(0)
        assert scene.partition.keys.count("k") == 0
        scene.ends.append(asyncio.create_task(asyncio.sleep(0)))
        await scene.close()

    asyncio.run(history())
    assert 0 < comparisons < 40 * 9_999


class FanInHandler(ScriptedHandler):
    """One task for the first and the last message of a call, given first; then one for each."""

    async def arrange(self, messages: Any, pending: Any) -> list[Task]:
        first, *_, last = messages
        fan_in = (last.offset, first.offset)
        return [
            *[Task(key="k", metadata=Script(), source_offsets=(m.offset,)) for m in messages[1:]],
            Task(key="k", metadata=Script(), source_offsets=fan_in),
        ]


def test_a_task_of_several_messages_has_the_place_of_the_lowest() -> None:
    async def history() -> list[str]:
        scene = Scene(FanInHandler(), slots=4)
        scene.hand_over(*[Script()] * 3)
        seen = []
        for _ in range(3):
            await scene.turn()
            (live,) = [one for one in scene.partition.tasks.all if one.state is TaskState.RUNNING]
            seen.append(live.task.id.partition("~")[0])
            scene.exit("ok")
        await scene.close()
        return seen

    assert asyncio.run(history()) == ["0:0:0", "0:1:0", "0:2:0"]
