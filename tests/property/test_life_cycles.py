"""Messages and tasks go the ways of their tables, whatever happens, and every way is gone."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.commit import NO_METADATA, CommitMetadata
from domain.decision import DeadLetter, Skip
from domain.deferral import Deferral
from domain.events import MessageCompleted
from domain.fate import Fate
from domain.message import Record
from domain.task import Task
from tests.support.one_partition import (
    CLAIM,
    EXITS,
    HANDLERS,
    RETRY_CLAIM,
    RETRY_TOPIC,
    BatchHandler,
    BothHandler,
    MessageHandler,
    Retries,
    Scene,
    Script,
    ScriptedHandler,
    Transitions,
    record,
)
from workers.consumer.ownership import Claim
from workers.pipeline.life_cycle import (
    MESSAGE_TRANSITIONS,
    TASK_TRANSITIONS,
    LiveMessage,
    LiveTask,
    MessageState,
    NoSuchTransition,
    TaskState,
)
from workers.pipeline.partition import PartitionWorker

SKIP, LETTER = Skip(reason="by the test"), DeadLetter(reason="by the test")

scripts = st.builds(
    Script,
    tasks=st.integers(0, 2),
    parse=st.sampled_from(["ok", "ok", "ok", "raise"]),
    arrange=st.sampled_from(["ok", "ok", "ok", "raise", "hang", "stubborn"]),
    precomputed=st.sampled_from([None, None, 0, 1]),
    decision=st.sampled_from(
        ["retry", "wait", "skip", "dead", "replace", "raise", "hang", "stubborn"]
    ),
    collect=st.sampled_from(["none", "some", "wrong", "raise", "hang", "stubborn"]),
    complete=st.sampled_from(["none", "some", "wrong", "raise", "hang", "stubborn"]),
)
Action = Callable[[Scene], Any]
actions: st.SearchStrategy[Action] = st.one_of(
    st.lists(scripts, min_size=1, max_size=4).map(
        lambda chosen: lambda scene: scene.hand_over(*chosen)
    ),
    st.sampled_from(sorted(EXITS)).map(lambda kind: lambda scene: scene.exit(kind)),
    st.just(Scene.deliver),
    st.sampled_from([SKIP, LETTER]).map(lambda verdict: lambda scene: scene.cancel(verdict)),
    st.just(lambda scene: scene.handler.release()),
    st.just(lambda scene: scene.sinks.may_write.clear()),
    st.just(lambda scene: scene.sinks.may_write.set()),
    st.just(lambda scene: scene.resolve_parse_errors()),
    st.sampled_from([True, False]).map(lambda is_on: lambda scene: scene.take_deferrals(is_on)),
    st.sampled_from([True, False]).map(lambda is_on: lambda scene: scene.refuse_deferrals(is_on)),
    st.tuples(st.lists(scripts, min_size=1, max_size=3), st.sampled_from([-1.0, 0.0, 1000.0])).map(
        lambda drawn: lambda scene: scene.hand_over_deferred(*drawn[0], due_in=drawn[1])
    ),
)
ends: st.SearchStrategy[Action] = st.sampled_from(
    [lambda scene: scene.end(0.02), Scene.lose, lambda scene: scene.partition.kill()]
)


async def play(scene: Scene, *actions: Action) -> None:
    for action in actions:
        action(scene)
        await scene.turn()
    await scene.close()


@given(
    st.sampled_from(HANDLERS),
    st.sampled_from(["dead_letter", "skip", "park"]),
    st.sampled_from([NO_METADATA, CommitMetadata(run="x", settled=((1, 2),))]),
    st.sampled_from([0, 2]),
    st.sampled_from([None, CLAIM, RETRY_CLAIM]),
    st.lists(actions, max_size=12),
    ends,
    st.lists(actions, max_size=4),
)
def test_whatever_happens_only_ways_of_the_tables_are_gone(
    handler: type[ScriptedHandler],
    on_parse_error: str,
    metadata: CommitMetadata,
    ahead: int,
    deferring: Claim | None,
    before: list[Action],
    end: Action,
    after: list[Action],
) -> None:
    async def history() -> Scene:
        scene = Scene(
            handler(),
            on_parse_error=on_parse_error,
            metadata=metadata,
            ahead=ahead,
            retries=None if deferring is None else Retries(),
            claim=deferring or CLAIM,
        )
        await play(scene, *before, end, *after)
        return scene

    with Transitions() as gone:
        scene = asyncio.run(history())
    ends = {MessageState.SETTLED, MessageState.LEFT, TaskState.ENDED, TaskState.LEFT}
    assert {one.state for one in gone.seen.values()} <= ends
    completed = [event for event in scene.told if isinstance(event, MessageCompleted)]
    settled = [one for one in gone.seen.values() if one.state is MessageState.SETTLED]
    assert len(completed) == len(settled)
    deferred = [event.offset for event in completed if event.fate == Fate.DEFERRED]
    written = [] if scene.retries is None else scene.retries.written
    assert Counter(deferred) <= Counter(one.offset for one, _ in written)
    for _, deferral in written:
        assert Deferral.of(at_rest(deferral)) == deferral


def at_rest(deferral: Deferral) -> Record:
    """The message of a deferral as it stands in the retry topic."""
    return replace(record(0), topic=RETRY_TOPIC, headers=deferral.headers(record(0), RETRY_TOPIC))


@pytest.mark.parametrize("table", [MESSAGE_TRANSITIONS, TASK_TRANSITIONS])
def test_a_way_that_is_not_in_the_table_is_refused(table: Any) -> None:
    for state, following in table.items():
        for other in set(table) - following:
            message = LiveMessage(record=record(0), handed_at=0.0, size_bytes=0)
            one: Any = message
            if table is TASK_TRANSITIONS:
                one = LiveTask(
                    partition=cast(PartitionWorker, None),
                    task=Task(),
                    messages=[message],
                    priority=0.0,
                    queued_at=0.0,
                )
            one.state = state
            with pytest.raises(NoSuchTransition, match=f"{state} to {other}"):
                one.enter(other)


def hand(*chosen: Script) -> Action:
    return lambda scene: scene.hand_over(*chosen)


def exits(kind: str) -> Action:
    return lambda scene: scene.exit(kind)


def cancel(verdict: Skip | DeadLetter) -> Action:
    return lambda scene: scene.cancel(verdict)


def end(scene: Scene) -> None:
    scene.end(0.02)


def hold_letters(scene: Scene) -> None:
    scene.sinks.may_write.clear()


def deferring(
    handler: type[ScriptedHandler] = ScriptedHandler, claim: Claim = CLAIM, ahead: int = 0
) -> Scene:
    """A partition of a cluster that has a retry topic."""
    return Scene(handler(), retries=Retries(), claim=claim, ahead=ahead)


def hand_deferred(due_in: float) -> Action:
    return lambda scene: scene.hand_over_deferred(Script(), Script(tasks=2), due_in=due_in)


def hold_deferrals(scene: Scene) -> None:
    scene.take_deferrals(False)


def too_small(scene: Scene) -> None:
    scene.refuse_deferrals(True)


def release(scene: Scene) -> None:
    scene.handler.release()


FLOOD = hand(*[Script(parse="raise")] * 50)
POISON = CommitMetadata(run="x", deaths=3, suspect=0, strikes=3)
SETTLED = CommitMetadata(run="x", settled=((0, 0),))


async def every_way() -> None:
    """Histories that together go every way of both tables."""
    lose = Scene.lose
    script = Script()

    for kind in ("ok", "fail", "missing", "lost"):
        await play(Scene(ScriptedHandler()), hand(script), exits(kind), end)
    for decision in ("retry", "wait", "skip", "dead", "replace", "raise", "hang"):
        fails = Script(decision=decision)
        await play(Scene(ScriptedHandler()), hand(fails), exits("fail"), lose)
        for verdict in (SKIP, LETTER):
            await play(Scene(ScriptedHandler()), hand(fails), exits("fail"), cancel(verdict))
    for collect in ("some", "wrong", "raise", "hang", "stubborn"):
        told = hand(Script(collect=collect, precomputed=0))
        await play(Scene(ScriptedHandler()), told, Scene.deliver)
        await play(Scene(ScriptedHandler()), told, lose)
    for verdict in (SKIP, LETTER):
        flooded = hand(Script(decision="dead")), FLOOD, exits("fail"), cancel(verdict)
        await play(Scene(ScriptedHandler()), *flooded)
        await play(Scene(ScriptedHandler()), hand(script), cancel(verdict))
        await play(Scene(ScriptedHandler()), hand(Script(tasks=2)), cancel(verdict))
        await play(Scene(ScriptedHandler()), hold_letters, hand(script), cancel(verdict), lose)
    await play(Scene(ScriptedHandler()), hand(Script(decision="dead")), FLOOD, exits("fail"), lose)
    await play(Scene(ScriptedHandler()), hand(Script(tasks=2)), lose)
    for policy in ("dead_letter", "skip", "park"):
        scene = Scene(ScriptedHandler(), on_parse_error=policy)
        await play(scene, hand(Script(parse="raise")), Scene.resolve_parse_errors, end)
    for metadata in (POISON, SETTLED):
        await play(Scene(ScriptedHandler(), metadata=metadata), hand(script), end)
    await play(Scene(ScriptedHandler()), hand(Script(arrange="hang")), hand(script), lose)
    refused = hand(Script(arrange="raise"))
    await play(Scene(ScriptedHandler()), hold_letters, refused, lose)
    later = hand(Script(decision="wait"))
    for handler in (ScriptedHandler, BothHandler):
        await play(deferring(handler), later, exits("fail"), end)
        for refuse, last in ((hold_deferrals, lose), (too_small, end)):
            await play(deferring(handler), refuse, later, exits("fail"), last)
    for due_in, last in ((-1.0, end), (1000.0, end), (1000.0, lose)):
        await play(deferring(claim=RETRY_CLAIM), hand_deferred(due_in), exits("ok"), last)
    for handler in (MessageHandler, BatchHandler, BothHandler):
        for complete in ("none", "hang"):
            done = Script(complete=complete, precomputed=0)
            await play(Scene(handler()), hand(done), release, release, end)
            await play(Scene(handler()), hand(done), lose)
            await play(Scene(handler()), hand(done, script), lose)


def test_what_waits_ahead_of_a_slot_ends_with_a_lost_epoch() -> None:
    """An executor that tells then only that it began must not be hurt: it serves others too."""

    async def history() -> None:
        scene = Scene(ScriptedHandler(), ahead=2)
        await play(scene, hand(*[Script()] * 4), exits("ok"), Scene.lose)

    with Transitions() as gone:
        asyncio.run(history())
    tasks = [one.state for one in gone.seen.values() if isinstance(one, LiveTask)]
    assert tasks == [TaskState.ENDED, *[TaskState.LEFT] * 3]


def test_an_operators_decision_stands_though_the_hook_swallows_its_cancellation() -> None:
    async def history() -> Scene:
        scene = Scene(ScriptedHandler())
        stubborn = hand(Script(decision="stubborn"))
        await play(scene, stubborn, exits("fail"), cancel(LETTER), end)
        return scene

    scene = asyncio.run(history())
    (fate,) = [event.fate for event in scene.told if isinstance(event, MessageCompleted)]
    assert fate == Fate.DEAD_LETTERED


class Defiant(MessageHandler):
    """Raises an error of its own where it is cancelled."""

    async def on_message_complete(self, group: Any) -> Any:
        try:
            return await super().on_message_complete(group)
        except asyncio.CancelledError as cancelled:
            raise ValueError("defiant") from cancelled


def test_no_letter_of_a_lost_epoch_waits_for_a_flood_to_end() -> None:
    """Its partition would never be done, and the worker not stop."""

    async def history() -> None:
        hanging = hand(Script(complete="hang", precomputed=0))
        await play(Scene(Defiant()), hanging, FLOOD, Scene.lose)

    asyncio.run(history())


def test_no_message_is_arranged_after_a_hook_that_swallows_its_cancellation() -> None:
    """A batch that fails is asked for message by message: none is cancelled again."""

    async def history() -> None:
        scripts = [Script(arrange=act) for act in ("raise", *["stubborn"] * 3)]
        await play(Scene(ScriptedHandler()), hand(*scripts), Scene.lose)

    asyncio.run(history())


def test_every_way_of_the_tables_is_gone() -> None:
    with Transitions() as gone:
        asyncio.run(every_way())
    for table in (MESSAGE_TRANSITIONS, TASK_TRANSITIONS):
        ways = {(state, after) for state, following in table.items() for after in following}
        assert ways - gone.edges == set()
