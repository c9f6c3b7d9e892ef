"""What is no Exception leaves a hook as well, and costs its message only (law 4): a ``sys.exit`` of
argparse, a panic of a Rust library."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from drakkar import (
    MemoryPayload,
    Message,
    MessageGroup,
    Payload,
    Pending,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)
from drakkar.testing import message, run
from tests.support.pipeline import (
    Request,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.runtime.build import load_handler


class Panic(BaseException):
    """As pyo3's PanicException, which is no Exception either."""


def panic() -> None:
    raise Panic("index out of bounds")


ENDS: dict[str, Callable[[], None]] = {"exit": sys.exit, "panic": panic}
HOOKS = ("parse", "arrange", "on_error", "collect", "on_message_complete")


class ExitsWhenMade(ShellHandler):
    """As one that reads the command line of a program of its own."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        sys.exit(0)


def test_an_exit_while_the_handler_is_made_is_an_error() -> None:
    config = cluster_config().model_copy(update={"handler": f"{__name__}:ExitsWhenMade"})
    with pytest.raises(LookupError, match=r"ExitsWhenMade: its __init__ raised SystemExit: 0"):
        load_handler(config)


CONFIG = {"executor": {"binary": "/bin/sh"}, "sinks": {"store": {"kind": "memory"}}}
BAD = "echo bad; exit $FAILS"


class Ending(ShellHandler):
    """Ends at the step ``at`` of the message whose script is ``BAD``, as ``how`` says, and at each
    step that costs no message."""

    at, how = "", ""

    def _step(self, name: str, is_met: bool = True) -> None:
        if name == self.at and is_met:
            ENDS[self.how]()

    def parse(self, message: Message[None]) -> Request:
        self._step("parse", BAD.encode() in (message.value or b""))
        return super().parse(message)

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        self._step("arrange", any(one.payload.script == BAD for one in messages))
        fails = str(int(self.at == "on_error"))
        return [
            Task(
                args=("-c", one.payload.script),
                env={"FAILS": fails},
                source_offsets=(one.offset,),
            )
            for one in messages
        ]

    def message_label(self, message: Message[Request]) -> str:
        ENDS[self.how]()
        return ""

    def task_priority(self, task: Task) -> float | None:
        ENDS[self.how]()
        return None

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        self._step("on_error")
        return await super().on_error(failure)

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        self._step("collect", result.task.args[-1] == BAD)
        return await super().collect(result)

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        self._step("on_message_complete", group.message.payload.script == BAD)
        return []


@pytest.mark.parametrize("how", sorted(ENDS))
@pytest.mark.parametrize("at", HOOKS)
def test_it_costs_its_message_and_neither_worker_nor_others(at: str, how: str) -> None:
    handler = Ending({}, max_retries=0)
    handler.at, handler.how = at, how
    outcome = run(
        handler, [message({"script": BAD}), message({"script": "echo fine"})], config=CONFIG
    )
    assert [letter.offset for letter in outcome.letters] == [0]
    assert MemoryPayload(sink="store", value="fine\n") in outcome.payloads["store"]
    assert outcome.committed == {0: 2}


def test_a_worker_that_is_ended_from_outside_does_not_call_its_end_clean() -> None:

    async def scenario() -> None:
        async with running(new_cluster()) as live:
            await live.heard.until(lambda: bool(live.heard.of("worker_started")))
            live.done.cancel()
            await asyncio.wait([live.done], timeout=10)
            (stopped,) = live.heard.of("worker_stopped")
            assert not stopped.clean

    asyncio.run(scenario())
