"""Which messages an ending epoch finishes (docs/decisions/0002), state by state."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import cast

import pytest

from domain.fate import Fate
from domain.message import Message
from domain.offsets import OffsetTracker
from domain.settled import fits, ranges_of
from domain.task import Task, TaskResult
from sinks.router import DeliveryCall
from workers.pipeline.draining import Choice, choose
from workers.pipeline.life_cycle import LiveMessage, LiveTask, MessageState, TaskState, share
from workers.pipeline.partition import PartitionWorker


class Call:
    """A delivery, as far as the choice looks at it."""

    def __init__(self, task_id: str | None, *, is_out: bool) -> None:
        self.task_id, self.is_out = task_id, is_out


class Epoch:
    """Messages 0 to ``count`` - 1, each with a task that waits for a slot."""

    def __init__(self, count: int) -> None:
        self.tracker = OffsetTracker()
        self.messages: dict[int, LiveMessage] = {}
        self.tasks: dict[int, LiveTask] = {}
        self.calls: dict[DeliveryCall, list[LiveMessage]] = {}
        self.held_up: list[DeliveryCall] = []
        for offset in range(count):
            self.tracker.add(offset)
            record: Message[None] = Message(
                topic="t",
                partition=0,
                offset=offset,
                key=None,
                value=b"",
                headers=(),
                timestamp=1,
                payload=None,
            )
            self.messages[offset] = LiveMessage(record=record, handed_at=0.0, size_bytes=0)
            self.task(offset)

    def task(self, *offsets: int) -> LiveTask:
        """Another task; of several messages, it takes the place of what they had."""
        live = LiveTask(
            partition=cast(PartitionWorker, None),
            task=Task(id=f"0:{offsets[0]}:{len(offsets)}", source_offsets=offsets),
            messages=[self.messages[offset] for offset in offsets],
            priority=0.0,
            queued_at=0.0,
        )
        if len(offsets) > 1:
            share([self.messages[offset] for offset in offsets], "cluster")
        for offset in offsets:
            self.messages[offset].tasks = {live.task.id}
            self.tasks[offset] = live
        return live

    def settle(self, offsets: Iterable[int]) -> None:
        for offset in offsets:
            self.tracker.settle(offset, Fate.FILTERED)
            del self.messages[offset], self.tasks[offset]

    def deliver(self, *offsets: int, is_out: bool, is_held_up: bool, is_hook: bool = False) -> None:
        task_id = None if is_hook else self.tasks[offsets[0]].task.id
        call = cast(DeliveryCall, Call(task_id, is_out=is_out))
        self.calls[call] = [self.messages[offset] for offset in offsets]
        if is_held_up:
            self.held_up.append(call)
        for offset in offsets:
            self.messages[offset].state = (
                MessageState.COMPLETING if is_hook else MessageState.RUNNING
            )
            if is_hook:
                del self.tasks[offset]
            else:
                self.tasks[offset].state = TaskState.DELIVERING

    def choice(self, slots: int = 2) -> Choice:
        tasks = list({id(live): live for live in self.tasks.values()}.values())
        return choose(
            self.tracker,
            self.messages,
            self.calls,
            tasks,
            held_up=self.held_up,
            inherited=(),
            slots=slots,
        )

    def tried(self, slots: int = 2) -> list[tuple[int, ...]]:
        return [tuple(live.task.source_offsets) for live in self.choice(slots).tried]


def test_a_fate_far_ahead_raises_nothing() -> None:
    epoch = Epoch(60)
    epoch.settle([59])
    epoch.tasks[7].state = TaskState.RUNNING
    assert epoch.choice().finished == {7}


def test_what_is_out_is_finished_whatever_lies_below() -> None:
    epoch = Epoch(10)
    epoch.messages[9].is_out = True
    assert epoch.choice().finished == {9}


def test_what_ended_in_a_batch_that_has_not_is_finished_unless_it_had_no_work() -> None:
    epoch = Epoch(6)
    epoch.messages[2].state = epoch.messages[4].state = MessageState.IN_BATCH
    epoch.messages[4].results.append(cast(TaskResult, object()))
    assert epoch.choice().finished == {4}


def test_messages_that_share_a_task_are_finished_together() -> None:
    epoch = Epoch(6)
    epoch.task(0, 3)
    epoch.task(3, 5)
    epoch.tasks[0].state = TaskState.RUNNING
    assert epoch.choice().finished == {0, 3, 5}


@pytest.mark.parametrize("state", [TaskState.RUNNING, TaskState.RETRYING])
@pytest.mark.parametrize("shape", ["one task", "a chain"])
def test_thousands_of_messages_that_share_tasks_do_not_hold_the_loop(
    shape: str, state: TaskState
) -> None:
    """A drain chooses on the loop thread, within the time that a revoke has (5 s)."""
    epoch, count = Epoch(6000), 5000
    if shape == "one task":
        epoch.task(*range(count))
    else:
        for offset in range(count - 1):
            epoch.task(offset, offset + 1)
    epoch.tasks[0].state = state
    epoch.settle([5999])
    began = time.process_time()
    choice = epoch.choice()
    assert time.process_time() - began < 0.5
    if state is TaskState.RUNNING:
        assert choice.finished == set(range(count))
    else:
        assert [*choice.tried] == ([epoch.tasks[0]] if shape == "one task" else [])


def test_messages_of_one_task_hold_their_partners_once() -> None:
    epoch = Epoch(5)
    epoch.task(0, 1, 2)
    assert epoch.messages[0].shared_with is epoch.messages[2].shared_with
    epoch.task(2, 3)
    assert set(epoch.messages[0].shared_with) == {0, 1, 2}
    assert set(epoch.messages[2].shared_with) == {0, 1, 2, 3}


def test_a_partner_that_has_its_fate_keeps_the_other() -> None:
    epoch = Epoch(4)
    epoch.task(1, 2)
    epoch.tasks[1] = epoch.tasks[2] = epoch.task(2)
    epoch.settle([1])
    assert epoch.choice().finished == {2}


def test_waits_for_a_retry_below_an_end_are_tried_as_slots_allow() -> None:
    epoch = Epoch(8)
    for offset in (0, 1, 2, 7):
        epoch.tasks[offset].state = TaskState.RETRYING
    assert epoch.tried() == []
    epoch.settle([5])
    assert (epoch.choice().finished, epoch.tried()) == (set(), [(0,), (1,)])
    assert epoch.tried(slots=9) == [(0,), (1,), (2,)]


def test_a_delivery_that_its_sink_does_not_take_is_left() -> None:
    epoch = Epoch(5)
    epoch.deliver(0, is_out=False, is_held_up=False)
    epoch.deliver(1, is_out=False, is_held_up=True)
    epoch.deliver(2, is_out=True, is_held_up=False)
    epoch.deliver(3, 4, is_out=False, is_held_up=True, is_hook=True)
    assert epoch.choice().finished == {0, 2}


def test_a_group_with_one_member_out_stays_together() -> None:
    epoch = Epoch(4)
    epoch.deliver(1, 2, is_out=False, is_held_up=True, is_hook=True)
    epoch.messages[2].is_out = True
    assert epoch.choice().finished == {1, 2}


def test_where_no_word_has_room_for_it_so_much_is_finished_from_the_lowest_on() -> None:
    epoch = Epoch(4000)
    epoch.settle(range(1, 3000, 2))
    finished = epoch.choice().finished
    assert finished == set(range(0, max(finished) + 2, 2))
    epoch.settle(finished)
    assert fits(ranges_of(epoch.tracker.gaps()))
    assert max(finished) < 2000
    assert epoch.choice().finished == set()


def test_no_room_is_no_matter_where_the_fates_stand_together() -> None:
    epoch = Epoch(4000)
    epoch.settle(range(1, 3000))
    assert epoch.choice().finished == set()
