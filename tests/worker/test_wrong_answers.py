"""Law 4 for answers: what a hook must not answer dead-letters its message, and nothing else."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import pytest

from domain.decision import check_decision
from domain.task import accepted
from domain.text_bounds import TextBounds
from drakkar import (
    DeadLetter,
    FailureKind,
    MemoryPayload,
    Message,
    MessageGroup,
    Payload,
    Pending,
    Precomputed,
    Replace,
    Retry,
    Skip,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)
from drakkar.testing import message, run
from tests.support.pipeline import Request, ShellHandler


class Unprintable:
    """A value that no estimate of its size survives."""

    def __repr__(self) -> str:
        raise KeyError("no words")


CONFIG = {"executor": {"binary": "/bin/sh"}, "sinks": {"store": {"kind": "memory"}}}


async def cancelled() -> Any:
    """As a hook that awaits something which somebody else cancelled."""
    other = asyncio.ensure_future(asyncio.Event().wait())
    other.cancel()
    await other


TASKS: dict[str, dict[str, Any]] = {
    "args are one text": {"args": "-c true"},
    "args are none": {"args": None},
    "an arg is a number": {"args": ("-c", 5)},
    "stdin is text": {"stdin": "text"},
    "env is none": {"env": None},
    "timeout is text": {"timeout_seconds": "5"},
    "timeout is nan": {"timeout_seconds": float("nan")},
    "limits are a dict": {"limits": {"cpu_seconds": 1}},
    "precomputed is text": {"precomputed": "done"},
    "precomputed stdout is text": {"precomputed": Precomputed(stdout="x")},  # type: ignore[arg-type]
}
PAYLOADS: dict[str, Any] = {
    "one payload instead of a list": MemoryPayload(sink="store", value=1),
    "a number": 5,
}
FINE = {
    "fine": MemoryPayload(sink="store", value="fine"),
    "a payload without words": MemoryPayload(sink="store", value=Unprintable()),
}
DECISIONS: dict[str, Any] = {
    "retry after text": Retry(delay_seconds="soon"),  # type: ignore[arg-type]
    "retry after nan": Retry(delay_seconds=float("nan")),
    "replace by nothing at all": Replace(tasks=None),  # type: ignore[arg-type]
    "replace by text": Replace(tasks=["ls"]),  # type: ignore[list-item]
    "replace by a bad task": Replace(tasks=[Task(args=None)]),  # type: ignore[arg-type]
    "a reason that is no text": DeadLetter(reason=ValueError("x")),  # type: ignore[arg-type]
    "no decision": None,
}
OTHERS = ("arrange yields and raises", "arrange awaits what was cancelled",
          "collect awaits what was cancelled", "completion awaits what was cancelled",
          "completion answers with one payload")  # fmt: skip


class Wrong(ShellHandler):
    """Answers each message as its script asks."""

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        scripts = [message.payload.script for message in messages]
        if "arrange awaits what was cancelled" in scripts:
            await cancelled()
        if "arrange yields and raises" in scripts:
            return (self._lazily(script) for script in scripts)  # type: ignore[return-value]
        return [
            Task(
                **{"args": ("-c", "false" if script in DECISIONS else "true"), "labels": {}}
                | TASKS.get(script, {}),
                source_offsets=(message.offset,),
                metadata=script,
            )
            for script, message in zip(scripts, messages, strict=True)
        ]

    def _lazily(self, script: str) -> Task:
        raise KeyError(script)

    def task_priority(self, task: Task) -> float | None:
        return "high" if task.metadata == "fine" else None  # type: ignore[return-value]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        return DECISIONS[failure.task.metadata]  # type: ignore[no-any-return]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        if result.task.metadata == "collect awaits what was cancelled":
            await cancelled()
        script = result.task.metadata
        return PAYLOADS[script] if script in PAYLOADS else [FINE[script]]

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        script = group.message.payload.script
        if script == "completion awaits what was cancelled":
            await cancelled()
        if script == "completion answers with one payload":
            return MemoryPayload(sink="store", value=2)  # type: ignore[return-value]
        return ()


def test_a_hooks_exception_or_wrong_answer_becomes_a_dead_letter_never_silence() -> None:
    """Law 4."""

    wrong = [*TASKS, *PAYLOADS, *DECISIONS, *OTHERS]
    given = [message({"script": script}) for script in (*wrong, *FINE)]
    outcome = run(Wrong, given, config=CONFIG)
    assert outcome.fates == ["dead_lettered"] * len(wrong) + ["delivered"] * len(FINE)
    assert {letter.offset for letter in outcome.letters} == {*range(len(wrong))}
    assert FailureKind.LOST not in {attempt.failure for attempt in outcome.attempts}
    assert outcome.committed == {0: len(given)}


@pytest.mark.parametrize("fields", TASKS.values(), ids=TASKS)
def test_a_task_no_executor_could_take_is_named_by_its_field(fields: dict[str, Any]) -> None:
    with pytest.raises((TypeError, ValueError), match=next(iter(fields))):
        accepted(Task(**fields), TextBounds())


def test_every_right_decision_passes() -> None:
    for decision in (Retry(), Retry(delay_seconds=0), Skip(reason="x"), DeadLetter(reason="x")):
        check_decision(decision)
        check_decision(decision, of_delivery=True)
    check_decision(Replace(tasks=[Task()]))
    with pytest.raises(TypeError, match="expected Retry, Skip or DeadLetter, got Replace"):
        check_decision(Replace(tasks=[]), of_delivery=True)
