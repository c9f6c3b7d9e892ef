"""One arrange call: parsing, bad answers, replays, the ids of tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest
from pydantic import BaseModel

from domain.events import ignore
from domain.failure import FailureKind, Stage
from domain.origin import (
    DEFERRED_TO_HEADER,
    ONLY_TASKS_HEADER,
    REPLAY_HEADER,
    MessageOrigin,
    Sources,
)
from domain.task import Task
from domain.text_bounds import TextBounds
from workers.clock import Clock
from workers.handler import Handler, Message, Pending
from workers.pipeline.arranging import Arrangement, Arranging, number_tasks
from workers.pipeline.hooks import Hooks


class Request(BaseModel):
    name: str


class Plain(Handler[Request]):
    """One task a message, of the name ``three`` as many; ``bad`` raises, ``alien`` names a foreign
    offset."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [
            self._task(message)
            for message in messages
            for _ in range(3 if message.payload.name == "three" else 1)
        ]

    def _task(self, message: Message[Request]) -> Task:
        name = message.payload.name
        if name == "bad":
            raise RuntimeError("no such search")
        return Task(source_offsets=(99 if name == "alien" else message.offset,))


def message(offset: int, name: str | None = "ok", headers: Any = ()) -> Message[None]:
    value = b"{" if name is None else f'{{"name": "{name}"}}'.encode()
    return Message(
        topic="t",
        partition=3,
        offset=offset,
        key=None,
        value=value,
        headers=headers,
        timestamp=0,
        payload=None,
    )


def arrange(records: Sequence[Message[None]], policy: str = "dead_letter") -> Arrangement:
    arranging = Arranging(
        handler=Plain({}),
        hooks=Hooks(clock=Clock(), tell=ignore, timeout_seconds=None),
        cluster="main",
        on_parse_error=policy,
    )
    return asyncio.run(arranging.arrange(records, Pending(tasks={})))


@pytest.mark.parametrize(
    ("policy", "place"), [("dead_letter", "dead"), ("skip", "skipped"), ("park", "unparsed")]
)
def test_a_parse_error_follows_the_policy(policy: str, place: str) -> None:
    arranged = arrange([message(1, None), message(2)], policy)
    assert list(getattr(arranged, place)) == [1]
    assert list(arranged.parsed) == [2]
    assert [task.id for task in arranged.tasks] == ["3:2:0"]


def test_a_parse_letter_says_its_stage() -> None:
    cause = arrange([message(1, None)]).dead[1]
    assert (cause.stage, cause.kind) == (Stage.PARSE, FailureKind.PARSE)


@pytest.mark.parametrize("name", ["bad", "alien"])
def test_one_bad_message_takes_no_other_along(name: str) -> None:
    arranged = arrange([message(1), message(2, name), message(3)])
    assert list(arranged.dead) == [2]
    assert arranged.dead[2].stage is Stage.ARRANGE
    assert [task.id for task in arranged.tasks] == ["3:1:0", "3:3:0"]


@pytest.mark.parametrize(("cluster", "is_skipped"), [("fast", True), ("main", False)])
def test_only_replays_of_other_clusters_are_skipped(cluster: str, is_skipped: bool) -> None:
    replay = message(1, headers=((REPLAY_HEADER, f"{cluster}/t/3/0/0".encode()),))
    arranged = arrange([replay])
    assert (1 in arranged.skipped) is is_skipped
    assert (1 in arranged.parsed) is not is_skipped


def only(numbers: str, topic: str = "t") -> list[tuple[str, bytes]]:
    return [(REPLAY_HEADER, f"main/{topic}/3/0/0".encode()), (ONLY_TASKS_HEADER, numbers.encode())]


@pytest.mark.parametrize(("numbers", "kept"), [("1", [1]), ("0,2", [0, 2]), ("2,2,0", [0, 2])])
def test_of_a_replay_only_the_named_tasks_run(numbers: str, kept: list[int]) -> None:
    arranged = arrange([message(7), message(8, "three", only(numbers))])
    assert [task.id for task in arranged.tasks] == ["3:7:0", *(f"3:8:{n}" for n in kept)]


@pytest.mark.parametrize("headers", [only("1", "other"), only("1")[1:]])
def test_on_what_is_no_replay_task_numbers_say_nothing(headers: Any) -> None:
    assert len(arrange([message(8, "three", headers)]).tasks) == 3


@pytest.mark.parametrize(
    ("numbers", "told"),
    [
        ("3", "expected numbers of the 3 tasks that arrange gave, got [3]"),
        ("0,4,9", "got [4, 9]"),
        ("", "expected at most 1,000 task numbers such as 0,3, got ''"),
        ("0,-1", "got '0,-1'"),
        ("0.r1", "got '0.r1'"),
        (",".join(["0"] * 1001), "expected at most 1,000 task numbers"),
    ],
)
def test_numbers_of_no_task_are_told_and_nothing_runs(numbers: str, told: str) -> None:
    arranged = arrange([message(7), message(8, "three", only(numbers))])
    assert [task.id for task in arranged.tasks] == ["3:7:0"]
    assert told in arranged.dead[8].reason


def test_tasks_of_a_deferred_message_are_named_after_its_first_life() -> None:
    waits_here = [(DEFERRED_TO_HEADER, b"t"), *only("1", "source")]
    arranged = arrange([message(8, "three", waits_here), message(9)])
    assert [task.id for task in arranged.tasks] == ["3:9:0", "3:0:1"]
    assert arranged.tasks[1].source_offsets == (8,)


def test_ids_count_the_tasks_of_just_these_messages() -> None:
    offsets = [(2, 1), (1,), (2,), (1,), (1, 2)]
    tasks = [Task(source_offsets=each) for each in offsets]
    numbered = number_tasks(tasks, [message(1), message(2)], TextBounds(), "main")
    both = Sources.of(MessageOrigin.of(message(o), "main") for o in (1, 2)).suffix
    assert [task.id for task in numbered] == [
        f"3:1:0{both}", "3:1:0", "3:2:0", "3:1:1", f"3:1:1{both}",
    ]  # fmt: skip
    assert numbered[0].source_offsets == (1, 2)


def test_one_message_needs_no_source_offsets() -> None:
    assert number_tasks([Task()], [message(5)], TextBounds(), "main")[0].source_offsets == (5,)


def test_several_messages_need_source_offsets() -> None:
    with pytest.raises(ValueError, match="source_offsets"):
        number_tasks([Task()], [message(1), message(2)], TextBounds(), "main")


def test_what_is_not_a_task_is_refused() -> None:
    with pytest.raises(TypeError, match="expected tasks, got str"):
        number_tasks(["ls"], [message(1)], TextBounds(), "main")  # type: ignore[list-item]
