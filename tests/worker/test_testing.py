"""``drakkar.testing``: a handler in the whole worker, in memory."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from drakkar import (
    DeadLetter,
    FailureKind,
    Fate,
    Handler,
    KafkaPayload,
    Message,
    Payload,
    Pending,
    Precomputed,
    Retry,
    Skip,
    Task,
    TaskDecision,
    TaskFailure,
    TaskResult,
)
from drakkar.testing import GivenMessage, NoFate, load, message, run

CONFIG: dict[str, Any] = {
    "executor": {"binary": "/bin/sh"},
    "sinks": {"out": {"kind": "kafka", "topic": "o"}},
}


class Script(BaseModel):
    script: str


class Scripts(Handler[Script]):
    """Runs each script; its output goes to the sink that the settings name."""

    async def arrange(
        self, messages: Sequence[Message[Script]], pending: Pending
    ) -> Sequence[Task]:
        return [
            Task(
                args=("-c", each.payload.script),
                source_offsets=(each.offset,),
                labels={"topic": each.topic},
            )
            for each in messages
            if each.payload.script
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        sink = self.settings.get("sink", "out")
        return [KafkaPayload(sink=sink, value=result.stdout_text, key=result.task.id)]


def scripts(*texts: str) -> list[GivenMessage]:
    return [message({"script": text}) for text in texts]


def test_each_message_has_its_fate_in_the_order_given() -> None:
    outcome = run(Scripts, scripts("echo hi", "", "exit 3"), config=CONFIG)
    assert outcome.fates == [Fate.DELIVERED, Fate.FILTERED, Fate.DEAD_LETTERED]
    (payload,) = outcome.payloads["out"]
    assert payload == KafkaPayload(sink="out", value="hi\n", key="0:0:0")
    (letter,) = outcome.letters
    assert (letter.offset, letter.stage, letter.kind) == (2, "task", FailureKind.EXIT)
    assert letter.attempts == 4
    assert outcome.committed == {0: 3}


def test_a_function_stands_in_for_the_program() -> None:
    seen = []

    def program(task: Task) -> Precomputed:
        seen.append(task)
        return Precomputed(stdout=b"made up", stderr=b"quietly")

    config = CONFIG | {"executor": {"binary": "/no/such", "env": {"A": "1"}}}
    outcome = run(Scripts, scripts("echo hi"), config=config, program=program)
    assert outcome.fates == ["delivered"]
    assert outcome.payloads["out"][0].value == "made up"  # type: ignore[attr-defined]
    (task,) = seen
    assert (task.binary, task.args, task.id) == ("/no/such", ["-c", "echo hi"], "0:0:0")
    assert task.env["A"] == "1"


@pytest.mark.parametrize(
    ("answer", "failure", "exit_code"),
    [
        ("text", None, 0),
        (b"bytes", None, 0),
        (0, None, 0),
        (7, FailureKind.EXIT, 7),
        (Precomputed(exit_code=2), FailureKind.EXIT, 2),
        (FailureKind.OOM, FailureKind.OOM, None),
    ],
)
def test_what_a_program_may_answer(
    answer: Any, failure: FailureKind | None, exit_code: int | None
) -> None:
    outcome = run(Scripts({}, max_retries=0), scripts("x"), config=CONFIG, program=lambda _: answer)
    (attempt,) = outcome.attempts
    assert (attempt.failure, attempt.exit_code) == (failure, exit_code)
    assert outcome.fates == ["delivered" if failure is None else "dead_lettered"]


def test_what_the_function_raises_is_raised() -> None:
    with pytest.raises(ZeroDivisionError):
        run(Scripts, scripts("x"), config=CONFIG, program=lambda _: 1 // 0)
    with pytest.raises(TypeError, match="program: expected text, bytes, an exit code"):
        run(Scripts, scripts("x"), config=CONFIG, program=lambda _: 1.5)  # type: ignore[arg-type,return-value]


class Patient(Scripts):
    """Wants an hour between attempts, then gives up in its own way."""

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        if failure.attempt == 1:
            return Retry(delay_seconds=3600)
        return Skip(reason="enough") if "skip" in failure.task.args[1] else DeadLetter(reason="no")


def test_no_retry_is_waited_for() -> None:
    handler = Patient({})
    config = CONFIG | {"retry": {"topic": "later"}}
    outcome = run(handler, scripts("exit 1 # skip", "exit 1"), config=config, timeout_seconds=20)
    assert outcome.fates == ["skipped", "dead_lettered"]
    assert sorted(attempt.number for attempt in outcome.attempts) == [1, 1, 2, 2]
    assert "on_error" not in vars(handler)


def test_the_sinks_of_the_cluster_are_in_force() -> None:
    config = CONFIG | {"app": {"sink": "nowhere"}}
    outcome = run(Scripts, scripts("echo hi"), config=config)
    assert outcome.fates == ["dead_lettered"]
    assert "sink: expected one of out, got 'nowhere'" in outcome.letters[0].reason
    assert outcome.payloads == {}


def test_a_message_is_a_dead_letter_where_it_cannot_be_parsed() -> None:
    given = [message(None), message(b"\xff"), message(Script(script="echo ok"))]
    outcome = run(Scripts, given, config=CONFIG)
    assert outcome.fates == ["dead_lettered", "dead_lettered", "delivered"]
    assert {letter.stage for letter in outcome.letters} == {"parse"}


def test_messages_have_their_places() -> None:
    given = [message({"script": ""}, partition=2, offset=40), message({"script": ""}, partition=2)]
    assert run(Scripts, given, config=CONFIG).committed == {2: 42}
    with pytest.raises(ValueError, match="expected one at 2:40, got two"):
        run(Scripts, [given[0], given[0]], config=CONFIG)
    with pytest.raises(ValueError, match="messages: expected one or more, got none"):
        run(Scripts, [], config=CONFIG)


def test_no_fate_says_why() -> None:
    with pytest.raises(NoFate, match=r"no fate within 0.2 s"):
        run(Scripts, scripts("sleep 60"), config=CONFIG, timeout_seconds=0.2)


LINE = {
    "topic": "files",
    "partition": 1,
    "offset": 7,
    "key_base64": "/w==",
    "value": '{"script": "echo recorded"}',
    "headers": [{"name": "a", "value": "b"}, {"name": "n", "value": None}],
    "timestamp_ms": 1_700_000_000_000,
}


def test_recorded_messages_are_run_as_they_were(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text(json.dumps(LINE) + "\n\n")
    (given,) = load(path)
    assert given == GivenMessage(
        value=b'{"script": "echo recorded"}',
        key=b"\xff",
        headers=[("a", b"b"), ("n", None)],
        topic="files",
        partition=1,
        offset=7,
        timestamp_ms=1_700_000_000_000,
    )
    outcome = run(Scripts, [given], config=CONFIG)
    assert (outcome.fates, outcome.committed) == (["delivered"], {1: 8})


def test_a_text_may_hold_what_separates_lines_elsewhere(tmp_path: Path) -> None:
    path = tmp_path / "recorded.jsonl"
    value = "one\u2028two\x85"
    path.write_text(json.dumps(LINE | {"value": value}, ensure_ascii=False) + "\n")
    (given,) = load(path)
    assert given.value == value.encode()


@pytest.mark.parametrize("line", ["{", "[]", '{"topic": "t"}', json.dumps(LINE | {"offset": "x"})])
def test_a_bad_line_of_a_file_is_named(tmp_path: Path, line: str) -> None:
    path = tmp_path / "recorded.jsonl"
    path.write_text(f"{json.dumps(LINE)}\n{line}\n")
    with pytest.raises(ValueError, match=r"recorded.jsonl, line 2: expected a message as"):
        load(path)


def test_a_cluster_is_chosen_by_its_handler_or_named() -> None:
    with pytest.raises(ValueError, match="expected one of main, fast, got none, and no handler"):
        run(Scripts, scripts("x"))
    with pytest.raises(ValueError, match="expected one of main, fast, got 'slow'"):
        run(Scripts, scripts("x"), cluster="slow")


def test_messages_of_two_topics_are_refused() -> None:
    given = [GivenMessage(value=b"{}", topic=topic) for topic in ("b", "a")]
    with pytest.raises(ValueError, match="expected those of one topic, got a, b"):
        run(Scripts, given, config=CONFIG)
