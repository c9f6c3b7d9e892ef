"""Whatever a handler answers and a record holds: each message gets one fate, the worker goes on."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from pathlib import PurePosixPath
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from domain.message import Header, Message, Record
from domain.origin import REPLAY_HEADER
from tests.support.pipeline import (
    TOPIC,
    Request,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.handler import (
    DeadLetter,
    DeliveryDecision,
    DeliveryError,
    Limits,
    MemoryPayload,
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

A_WORKER = settings(
    derandomize=True,
    database=None,
    deadline=None,
    max_examples=25,
    suppress_health_check=list(HealthCheck),
)
"""Each example is a whole worker with several messages."""


class Word(StrEnum):
    """Text of a kind of its own."""

    A = "a"


class Number(IntEnum):
    """A number of a kind of its own."""

    ONE = 1


class Mute(Exception):
    """An error that has no words."""

    def __str__(self) -> str:
        raise KeyError

    __repr__ = __str__


class Endless:
    """A value without words, that cannot be copied or counted either."""

    def __repr__(self) -> str:
        raise Mute

    __str__ = __len__ = __iter__ = __hash__ = __repr__  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        raise Mute


ODD: dict[str, Any] = {
    "nothing": None, "true": True, "zero": 0, "minus one": -1, "a half": 0.5, "empty": "",
    "beyond floats": 10**400, "beyond words": -(10**5000), "65 bits": 2**64, "40 bits": 2**40,
    "nul": "\0", "half a pair": "\ud800", "long": "x" * 100_000, "bytes": b"x", "word": Word.A,
    "number": Number.ONE, "path": PurePosixPath("/x"), "bytearray": bytearray(b"x"),
    "view": memoryview(b"x"), "deep": [[["x"]]], "mapping": {"a": {}}, "numbers": {1: 2},
    "none of a": {"a": None}, "object": object(), "endless": Endless(), "range": range(3),
    "pair": ("a", "b"), "set": {"x"}, "class": Task, "error": ValueError("x"),
    "nan": float("nan"), "infinity": float("inf"), "huge": 1e300, "list of numbers": [0.0, "0"],
}  # fmt: skip
"""Values by names: hypothesis writes down what it draws, and some of these cannot be written."""
ERRORS: dict[str, BaseException] = {
    "wordy": ValueError("x" * 100_000), "mute": Mute(), "deep": RecursionError(),
    "stop": StopIteration(), "surrogate": KeyError("\ud800"), "late": TimeoutError(),
    "large": OverflowError(), "full": MemoryError(),
    "bytes": UnicodeDecodeError("x", b"", 0, 1, "y"),
}  # fmt: skip
FIELDS = ("args", "stdin", "env", "labels", "metadata", "binary", "timeout_seconds", "limits",
          "priority", "source_offsets", "precomputed", "key", "group")  # fmt: skip
Spec = Any
"""What ``made`` makes a value of: the name of an odd one, or a kind and what it is made of."""
odd = st.sampled_from(tuple(ODD))
tasks = st.one_of(
    st.tuples(st.just("task"), st.dictionaries(st.sampled_from(FIELDS), odd, max_size=2)),
    st.tuples(st.just("precomputed"), odd, odd),
    st.tuples(st.just("limited"), odd),
)
payloads = st.tuples(st.just("payload"), odd)
some_payloads = payloads | st.tuples(st.just("list"), st.lists(payloads | odd, max_size=2)) | odd
decisions = st.one_of(
    st.tuples(st.just("retry"), odd),
    st.tuples(st.just("skip"), odd),
    st.tuples(st.just("bury"), odd),
    st.tuples(st.just("replace"), odd | st.tuples(st.just("list"), st.lists(tasks, max_size=2))),
    odd,
)
answers = st.fixed_dictionaries(
    {
        "arrange": tasks | st.tuples(st.just("list"), st.lists(tasks | odd, max_size=2)) | odd,
        "on_error": decisions,
        "collect": some_payloads,
        "on_message_complete": some_payloads,
        "message_label": odd,
        "task_priority": odd,
        "parse": st.just("nothing"),
    }
)
HOOKS = ("arrange", "on_error", "collect", "on_message_complete", "message_label", "task_priority",
         "parse")  # fmt: skip
raised = st.dictionaries(st.sampled_from(HOOKS), st.sampled_from(tuple(ERRORS)), max_size=1)


def made(spec: Spec) -> Any:
    """The value that a spec stands for."""
    match spec:
        case str():
            return ODD[spec]
        case ("task", given_fields):
            fine = {"precomputed": Precomputed(stdout=b"fine")}
            return Task(**fine | {name: ODD[value] for name, value in given_fields.items()})
        case ("precomputed", code, out):
            return Task(precomputed=Precomputed(stdout=ODD[out], exit_code=ODD[code]))
        case ("limited", limit):
            return Task(args=["-c", "true"], limits=Limits(open_files=ODD[limit]))
        case ("payload", value):
            return MemoryPayload(sink="store", value=ODD[value])
        case ("retry", seconds):
            return Retry(delay_seconds=ODD[seconds])
        case ("skip", reason):
            return Skip(reason=ODD[reason])
        case ("bury", reason):
            return DeadLetter(reason=ODD[reason])
        case ("replace", inner):
            return Replace(tasks=made(inner))
        case ("list", inner):
            return [made(each) for each in inner]
    raise AssertionError(spec)


class Odd(ShellHandler):
    """Answers each message as its place in the script says."""

    def __init__(self, script: Sequence[tuple[dict[str, Spec], dict[str, str]]]) -> None:
        super().__init__({}, max_retries=0)
        self._script = script

    def _answer(self, hook: str, offset: int) -> Any:
        given, errors = self._script[offset]
        if hook in errors:
            raise ERRORS[errors[hook]]
        return made(given[hook])

    def parse(self, message: Record) -> Request:
        self._answer("parse", message.offset)
        return Request(script="true")

    async def arrange(
        self, messages: Sequence[Message[Request]], pending: Pending
    ) -> Sequence[Task]:
        answer = self._answer("arrange", messages[0].offset)
        return [answer] if isinstance(answer, Task) else answer

    def message_label(self, message: Message[Request]) -> str:
        return self._answer("message_label", message.offset)  # type: ignore[no-any-return]

    def task_priority(self, task: Task) -> float | None:
        return self._answer("task_priority", task.source_offsets[0])  # type: ignore[no-any-return]

    async def on_error(self, failure: TaskFailure) -> TaskDecision:
        if failure.attempt > 1 or failure.task.parent_id:
            return DeadLetter(reason="again")
        answer = self._answer("on_error", failure.task.source_offsets[0])
        is_wait = isinstance(answer, Retry) and answer.delay_seconds in (1e300, 2**40, 2**64)
        return Skip(reason="it would wait longer than the test") if is_wait else answer

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        return self._answer("collect", result.task.source_offsets[0])  # type: ignore[no-any-return]

    async def on_message_complete(self, group: MessageGroup[Request]) -> Sequence[Payload]:
        return self._answer("on_message_complete", group.message.offset)  # type: ignore[no-any-return]

    async def on_delivery_error(self, error: DeliveryError) -> DeliveryDecision:
        return DeadLetter(reason="refused")


async def every_message_has_one_fate(handler: ShellHandler, records: Sequence[Record]) -> None:
    """Run them all; the worker has to end well, and to have committed all."""
    cluster = new_cluster()
    for record in records:
        cluster.put(record)
    config = cluster_config(max_retries=0).model_copy(
        update={"batch": cluster_config().batch.model_copy(update={"max_messages": 1})}
    )
    async with running(cluster, config, handler) as live:
        await live.heard.until(
            lambda: live.done.done() or len(live.heard.of("message_completed")) >= len(records)
        )
        assert await live.stop() == 0
        fates = [event.offset for event in live.heard.of("message_completed")]
        assert sorted(fates) == [record.offset for record in records]
        assert live.committed() == len(records)


def record_of(offset: int, **values: Any) -> Record:
    """A record of the source topic."""
    plain: dict[str, Any] = {"key": None, "value": b"{}", "headers": (), "timestamp": offset}
    return Message(
        topic=TOPIC, partition=0, offset=offset, payload=None, **plain | values
    )  # fmt: skip


@A_WORKER
@given(script=st.lists(st.tuples(answers, raised), min_size=6, max_size=6))
def test_no_answer_of_a_handler_costs_a_message_or_the_worker(
    script: list[tuple[dict[str, Spec], dict[str, str]]],
) -> None:
    records = [record_of(offset) for offset in range(len(script))]
    asyncio.run(every_message_has_one_fate(Odd(script), records))


def names() -> st.SearchStrategy[str]:
    """Names of headers, those that mean something among them."""
    known = (REPLAY_HEADER, "traceparent", "drakkar-edited-by", "drakkar-delivery-id",
             "drakkar-payload", "drakkar-cluster", "drakkar-traceback", "", "\0")  # fmt: skip
    return st.sampled_from(known) | st.text(max_size=8)


CLAIMS = (b"", b"\xff", b"main/requests/0/0/0", b"main/requests/0/0/-1", b"other/requests/0/0/0",
          b"main/requests/9999999999999999/0/0", b"main/t/0/0/" + b"9" * 5000, b"/" * 5000,
          "main/requests/\u0660/0/0".encode(), b"main/requests/0/1_0/0", b"x" * 100_000,
          b"00-" + b"a" * 32 + b"-" + b"b" * 16 + b"-01", b"00-zz")  # fmt: skip
contents = st.none() | st.sampled_from(CLAIMS) | st.binary(max_size=20)
headers = st.lists(st.tuples(names(), contents), max_size=5)
VALUES = (None, b"", b"{}", b"null", b"\xff\xfe", b'{"script": "true"}', b'{"script": "\\ud800"}',
          b'{"script": "\\u0000"}', b"[" * 100_000, b'{"script": ' + b"9" * 5000 + b"}", b"NaN",
          b'{"script": "true", "script": 5}', "\ufeff{}".encode())  # fmt: skip
STAMPS = (-1, 0, 1, 1_700_000_000_000_000, 1_700_000_000_000_000_000, 2**63 - 1)
records = st.fixed_dictionaries(
    {
        "key": st.none() | st.binary(max_size=10),
        "value": st.sampled_from(VALUES) | st.binary(max_size=20),
        "headers": headers,
        "timestamp": st.sampled_from(STAMPS),
    }
)


@A_WORKER
@given(given_records=st.lists(records, min_size=8, max_size=8))
def test_no_record_costs_a_message_or_the_worker(given_records: list[dict[str, Any]]) -> None:
    made = [record_of(offset, **values) for offset, values in enumerate(given_records)]
    asyncio.run(every_message_has_one_fate(ShellHandler({}, max_retries=0), made))


def test_the_headers_of_a_message_are_read_whatever_they_are() -> None:
    found: list[Header] = [("a", None), ("a", b"\xff"), ("a", None)]
    assert record_of(0, headers=found).header("a") == "\N{REPLACEMENT CHARACTER}"
    assert record_of(0, headers=found).header("b") is None
