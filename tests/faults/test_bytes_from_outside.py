"""Numbers, texts and bytes that a handler or a topic may hold: taken, or refused by name."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from pathlib import Path
from typing import Any

import pytest

from tests.support.pipeline import TOPIC, Request, ShellHandler, new_cluster, running
from workers.handler import (
    DeadLetter,
    Limits,
    MemoryPayload,
    Message,
    Payload,
    Pending,
    Precomputed,
    Retry,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)

SCRIPT = 'printf "%s|%s|%s|" "$1" "$GREETING" "$DRAKKAR_ATTEMPT"; cat'


class Word(StrEnum):
    """Text that is no exact ``str``."""

    HELLO = "hello"


class Number(IntEnum):
    """A number that is no exact ``int``."""

    ONE = 1


class Loud(str):
    """Text that is written otherwise than it reads."""

    __slots__ = ()

    def __str__(self) -> str:
        return "LOUD"


class Odd(bytes):
    """Bytes that are no exact ``bytes``."""


TAKEN: dict[str, tuple[dict[str, Any], str]] = {
    "a StrEnum": ({"args": ["-c", SCRIPT, "sh", Word.HELLO]}, "hello||1|"),
    "a Path": ({"args": ["-c", SCRIPT, "sh", Path("/tmp/x")]}, "/tmp/x||1|"),
    "a subclass of str": ({"args": ["-c", SCRIPT, "sh", Loud("quiet")]}, "quiet||1|"),
    "env of a StrEnum": ({"env": {Loud("GREETING"): Word.HELLO}}, "|hello|1|"),
    "env of a Path": ({"env": {"GREETING": Path("/x")}}, "|/x|1|"),
    "a bytearray": ({"stdin": bytearray(b"given")}, "||1|given"),
    "a memoryview": ({"stdin": memoryview(b"given")}, "||1|given"),
    "a subclass of bytes": ({"stdin": Odd(b"given")}, "||1|given"),
    "a Path as the program": ({"binary": Path("/bin/sh")}, "||1|"),
    "a StrEnum as a label": ({"labels": {Word.HELLO: Word.HELLO, "n": Number.ONE}}, "||1|"),
    "an IntEnum as a time": ({"timeout_seconds": Number.ONE + 30}, "||1|"),
    "an IntEnum as a limit": ({"limits": Limits(open_files=256)}, "||1|"),
}
REFUSED: dict[str, tuple[dict[str, Any], str]] = {
    "an IntEnum": ({"args": ["-c", SCRIPT, Number.ONE]}, "args[2]"),
    "bytes as an argument": ({"args": ["-c", b"true"]}, "args[1]"),
    "bytes as arguments": ({"args": b"true"}, "args"),
    "NUL in an argument": ({"args": ["-c", "a\0b"]}, "args[1]"),
    "half a surrogate": ({"args": ["-c", "\ud800"]}, "args[1]"),
    "an argument that Linux refuses": ({"args": ["-c", "x" * 200_000]}, "args[1]"),
    "an int in env": ({"env": {"GREETING": 5}}, "env["),
    "None in env": ({"env": {"GREETING": None}}, "env["),
    "a name with =": ({"env": {"A=B": "x"}}, "env"),
    "an int as a name": ({"env": {5: "x"}}, "env"),
    "text as input": ({"stdin": "text"}, "stdin"),
    "a list in labels": ({"labels": {"a": ["b"]}}, "labels"),
    "a program of bytes": ({"binary": b"/bin/sh"}, "binary"),
    "a time beyond floats": ({"timeout_seconds": 10**400}, "timeout_seconds"),
    "a time beyond clocks": ({"timeout_seconds": 1e300}, "timeout_seconds"),
    "a priority of text": ({"priority": "high"}, "priority"),
    "no number as priority": ({"priority": float("nan")}, "priority"),
    "a limit of text": ({"limits": Limits(cpu_seconds="5")}, "limits.cpu_seconds"),  # type: ignore[arg-type]
    "a limit below zero": ({"limits": Limits(open_files=-1)}, "limits.open_files"),
    "a float as an offset": ({"source_offsets": (0.0,)}, "source_offsets"),
    "an exit code beyond 32 bits": (
        {"precomputed": Precomputed(exit_code=2**40)},
        "precomputed.exit_code",
    ),
}  # fmt: skip


class Given(ShellHandler):
    """Answers with one task of these fields; tells its output, and what failed."""

    def __init__(self, fields: dict[str, Any], decision: Any = None) -> None:
        super().__init__({}, max_retries=3)
        self.fields = fields
        self.decision = decision

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        return [Task(**{"args": ["-c", SCRIPT, "sh"]} | self.fields) for _ in messages]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return [MemoryPayload(sink="store", value=result.stdout_text)]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        if self.decision is not None:
            return self.decision  # type: ignore[no-any-return]
        return await super().on_error(failure)


async def one_message(handler: ShellHandler) -> dict[str, Any]:
    """What came of one message: what was stored, its letter, and every event."""
    cluster = new_cluster()
    cluster.produce(TOPIC, 0, value=json.dumps({"script": "true"}).encode())
    async with running(cluster, handler=handler) as live:
        await live.fates(1)
        letter = live.letters.stored[0][2] if live.letters.stored else {}
        return {
            "stored": [each.payload.value for each in live.stored],
            "letter": letter,
            "events": live.heard.events,
        }


def told(found: dict[str, Any], name: str) -> str:
    """A header of the letter."""
    return (found["letter"].get(f"drakkar-{name}") or b"").decode()


@pytest.mark.parametrize(("fields", "output"), TAKEN.values(), ids=TAKEN)
def test_what_a_handler_may_sensibly_hand_over_runs(fields: dict[str, Any], output: str) -> None:
    found = asyncio.run(one_message(Given(fields)))
    assert (found["stored"], told(found, "reason")) == ([output], "")
    started = next(event for event in found["events"] if event.kind == "task_started")
    for text in (*started.args, *started.labels, *started.labels.values()):
        assert type(text) is str


@pytest.mark.parametrize(("fields", "named"), REFUSED.values(), ids=REFUSED)
def test_what_no_program_can_be_given_is_refused_at_once_by_name(
    fields: dict[str, Any], named: str
) -> None:
    found = asyncio.run(one_message(Given(fields)))
    assert told(found, "stage") == "arrange"
    assert named in told(found, "reason")
    assert not [event for event in found["events"] if event.kind.startswith("task_")]


def test_an_answer_of_numbers_beyond_floats_is_a_letter() -> None:
    failing = {"args": ["-c", "false"]}
    found = asyncio.run(one_message(Given(failing, Retry(delay_seconds=10**400))))
    assert "delay_seconds" in told(found, "reason")
    found = asyncio.run(one_message(Given(failing, DeadLetter(reason=Word.HELLO))))
    assert told(found, "reason") == "hello"


class Unspeakable(Exception):
    """An error whose text cannot be had."""

    def __str__(self) -> str:
        raise KeyError("no words")


class Verbose(Given):
    """Labels, reasons and errors as long as anybody might make them."""

    def message_label(self, message: Message[Any]) -> str:
        return "m" * 100_000

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        raise ValueError("r" * 1_000_000)


def test_labels_and_reasons_are_bounded_wherever_they_are_told() -> None:
    labels = {f"{n:03}" + "n" * 1000: "v" * 100_000 for n in range(100)}
    found = asyncio.run(one_message(Verbose({"labels": labels})))
    for event in found["events"]:
        given = getattr(event, "labels", {})
        assert len(given) <= 32
        assert all(len(name) <= 64 and len(value) <= 256 for name, value in given.items())
        assert len(getattr(event, "reason", "")) < 10_000
    assert len(told(found, "reason")) < 10_000


def test_an_error_without_words_is_a_letter_too() -> None:
    class Silent(Given):
        async def collect(self, result: TaskResult) -> Sequence[Payload]:
            raise Unspeakable

    found = asyncio.run(one_message(Silent({})))
    assert "Unspeakable" in told(found, "reason")
