"""Numbers, texts and bytes that a handler or a topic may hold: taken, or refused by name."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from enum import IntEnum, StrEnum
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest
from confluent_kafka import Producer
from django.contrib.auth.models import User
from django.db import DataError
from django.test import Client
from prometheus_client import CollectorRegistry, Gauge, generate_latest

from domain.events import DeadLettered
from domain.letter import LetterContent
from domain.masking import mask_args
from drakkar_site.accounts.models import SCOPES
from drakkar_site.accounts.tokens import issue
from integration.services.kafka_mock import RunningMock
from recorder.config import RecorderConfig
from recorder.models import RunState
from recorder.rows import to_row
from sinks.letter_rows import store_letters
from sinks.models import DeadLetter
from tests.support.factories import Story, make_run
from tests.support.pipeline import (
    TOPIC,
    Request,
    ShellHandler,
    cluster_config,
    new_cluster,
    running,
)
from workers.broker import memory_cluster
from workers.broker.memory_cluster import Log
from workers.config import ClusterConfig
from workers.handler import (
    DeadLetter as BuryIt,
)
from workers.handler import (
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
from workers.runtime.listeners.user_metrics import UserMetrics
from workers.runtime.metric_snapshot import metric_snapshot
from workers.runtime.probe import probe

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
    "CPU time beyond the kernel's": ({"limits": Limits(cpu_seconds=2**62)}, "limits.cpu_seconds"),
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
    found = asyncio.run(one_message(Given(failing, BuryIt(reason=Word.HELLO))))
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


STAMPS = (1_700_000_000_000_000, 1_700_000_000_000_000_000, 2**63 - 1, 0)


@pytest.mark.django_db
@pytest.mark.parametrize("stamp", STAMPS)
def test_a_record_of_any_time_is_shown_among_the_last_messages(
    stamp: int, kafka_mock: RunningMock, settings: Any, admin_client: Client
) -> None:
    topic = f"times-{uuid4().hex[:8]}"
    kafka_mock.create_topic(topic, 1)
    producer = Producer({"bootstrap.servers": kafka_mock.brokers})
    producer.produce(topic, partition=0, value=b"the value", timestamp=stamp)
    assert producer.flush(20) == 0
    config = ClusterConfig.model_validate(
        {
            "handler": "tests.support.pipeline:ShellHandler",
            "kafka": {"brokers": kafka_mock.brokers, "topic": topic, "group": f"g-{topic}"},
            "sinks": {"store": {"kind": "memory"}},
        }
    )
    settings.DRAKKAR = SimpleNamespace(clusters={"main": config})
    page = admin_client.get("/topics", {"topic": topic})
    assert page.status_code == 200
    assert b"the value" in page.content


@pytest.mark.django_db
def test_the_first_assignment_of_a_group_is_shown_in_the_history(admin_client: Client) -> None:
    run = make_run()
    Story(run).tell(0, "assigned", -1, data={"epoch": 1, "committed": None})
    page = admin_client.get("/history", {"kind": "assigned"})
    assert page.status_code == 200
    assert b"assigned" in page.content
    found = asyncio.run(one_message(Given({})))
    assigned = next(event for event in found["events"] if event.kind == "assigned")
    assert assigned.offset is None


@pytest.mark.django_db
def test_a_wait_beyond_the_calendar_leaves_the_trace_whole(admin_client: Client) -> None:
    story = Story(make_run())
    story.consumed(0, 1)
    story.arranged(1, 1, ["3:1:0"], "m")
    story.ran(2, "3:1:0", 1.0, failure="exit")
    story.tell(4, "task_retried", 1, task_id="3:1:0", attempt=1, data={"delay_ms": 1e300})
    for where in ("/trace/requests/3:1", "/api/v1/trace/requests/3:1", "/task/main/3:1:0",
                  "/history/export?format=json", "/history/export?format=csv"):  # fmt: skip
        assert admin_client.get(where).status_code == 200


def letter_of(value: bytes) -> DeadLetter:
    """A stored letter with that value."""
    content = LetterContent(
        key=b"k\x1b[31m", value=value, headers=(), size_bytes=len(value), is_whole=True,
        fingerprint="f", origin="main/t/0/1/1",
    )  # fmt: skip
    event = DeadLettered(
        at=1.7e9, topic="t", partition=0, offset=1, task_id=None, sink=None, stage="task",
        failure="exit", reason="why\x07\u202e", attempts=1, letter_topic="dlq", letter_partition=0,
        letter_offset=1, timestamp=1, delivery_id="", content=content,
    )  # fmt: skip
    store_letters("main", "w", [to_row(event, 1, RecorderConfig())])
    return DeadLetter.objects.get()


@pytest.mark.django_db
@pytest.mark.parametrize(
    "value",
    ["[" + ("[" * 840 + "]" * 840 + ",") * 38 + "[]]", "[" * 32_768 + "]" * 32_768,
     "[0," * 800 + "1" + "]" * 800, "[" + "{}," * 21_000 + "{}]", '{"a":"' + "[" * 65_000 + '"}'],
    ids=["deep arrays", "deeper than Python", "a ladder", "a wide one", "brackets in a text"],
)  # fmt: skip
def test_the_page_of_a_letter_is_bounded_whatever_it_holds(
    value: str, admin_client: Client
) -> None:
    letter = letter_of(value.encode())
    page = admin_client.get(f"/dead-letters/{letter.pk}")
    assert page.status_code == 200
    assert len(page.content) < 2 * 1024 * 1024


@pytest.mark.django_db
def test_the_page_of_a_letter_changes_nothing_and_steers_nothing(admin_client: Client) -> None:
    letter = letter_of(b'{"n":1.00,"n":12345678901234567890123,"e":"\\u0007","big":1e400}')
    text = admin_client.get(f"/dead-letters/{letter.pk}").content.decode()
    assert "1.00" in text
    assert "12345678901234567890123" in text
    assert "1e400" in text
    assert "\\u0007" in text
    assert not [each for each in "\x1b\x07\u202e" if each in text]


@pytest.mark.parametrize("word", ["://", "://:", "://a:", "@://:", "token=' ", "-----BEGIN "])
def test_a_crafted_argument_is_masked_in_time(word: str) -> None:
    def cost_seconds(size: int) -> float:
        began = time.process_time()
        for tail in ("", "@", " @", "'"):
            mask_args([word * (size // len(word)) + tail] * 2)
        return time.process_time() - began

    # Eight times as much costs some 8 times as much; 64 times where each word is looked at anew.
    few, many = (min(cost_seconds(size) for _ in range(3)) for size in (16_000, 128_000))
    assert many < 24 * few


def post(client: Client, body: bytes) -> Any:
    """Ask for a job on letters with that body, as a program with a token does."""
    user = User.objects.create_superuser(uuid4().hex)
    headers = {"Authorization": f"Bearer {issue(user, SCOPES, None)[1]}"}
    where = "/api/v1/dead-letters/jobs"
    return client.post(where, body, content_type="application/json", headers=headers)


@pytest.mark.django_db
def test_an_escaped_backslash_is_no_nul(client: Client) -> None:
    body = rb'{"action": "resolve", "letter": [1], "reason": "the text \\u0000 is harmless"}'
    answer = post(client, body)
    assert answer.status_code == 422  # there is no such letter: the document was read
    assert b"letter" in answer.content


BODIES = {
    "NUL": (rb'{"action": "resolve", "reason": "\u0000"}', "NUL"),
    "NUL in a name": (rb'{"action": "resolve", "\u0000": 1}', "NUL"),
    "half a surrogate pair": (rb'{"reason": "\ud800"}', "surrogate"),
    "no UTF-8": (b'{"reason": "\xff"}', "UTF-8"),
    "NaN": (b'{"action": "source", "rate": NaN}', "NaN"),
    "Infinity": (b'{"action": "source", "rate": Infinity}', "Infinity"),
    "a number beyond floats": (b'{"action": "source", "rate": 1e999}', "finite"),
    "a number beyond Python": (b'{"letter": [' + b"9" * 5000 + b"]}", "digits"),
    "a name twice": (b'{"action": "source", "action": "resolve"}', "once"),
    "too deep": (b'{"letter": ' + b"[" * 900 + b"]" * 900 + b"}", "levels"),
    "deeper than Python": (b"[" * 100_000 + b"]" * 100_000, "levels"),
    "no JSON": (b"{", "JSON"),
}


@pytest.mark.django_db
@pytest.mark.parametrize(("body", "said"), BODIES.values(), ids=BODIES)
def test_a_document_that_is_not_taken_is_refused_in_words(
    body: bytes, said: str, client: Client
) -> None:
    answer = post(client, body)
    assert answer.status_code == 400
    assert said in answer.json()["detail"]


def test_a_probe_of_the_highest_partition_makes_one_partition(monkeypatch: Any) -> None:
    made: list[Log] = []

    def new_log() -> Log:
        made.append(Log())
        return made[-1]

    monkeypatch.setattr(memory_cluster, "Log", new_log)
    record: Message[None] = Message(
        topic=TOPIC, partition=60_000, offset=2**62, key=None, value=b'{"script": "true"}',
        headers=(), timestamp=2**63 - 1, payload=None,
    )  # fmt: skip
    report = asyncio.run(
        probe(
            cluster_config(), "main", ShellHandler({}), record,
            environ={"PATH": "/usr/bin:/bin"}, timeout_seconds=30,
        )
    )  # fmt: skip
    assert report.fate == "delivered"
    assert len(made) == 1


class Measured(ShellHandler):
    """Labels its own metric by what it gets."""

    SEEN = Gauge("seen", "What came.", ["what"], registry=None)


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["half \ud800", "nul \0", "x" * 1_000_000, "plain"])
def test_a_label_of_a_handlers_metric_breaks_neither_port_nor_heartbeat(text: str) -> None:
    Measured.SEEN.clear()
    Measured.SEEN.labels(what=text).set(float("nan"))
    registry = CollectorRegistry()
    registry.register(UserMetrics(Measured, {"cluster": "main", "worker": "w"}))
    try:
        shown = generate_latest(registry)
    except UnicodeEncodeError as exc:
        shown = repr(exc).encode()
    assert b"seen{" in shown
    assert len(shown) < 2000
    run = make_run()
    try:
        RunState.objects.filter(run=run).update(metrics=metric_snapshot(registry))
    except (DataError, UnicodeEncodeError) as exc:
        pytest.fail(f"the heartbeat cannot be written: {exc}")
    stored: Any = RunState.objects.get(run=run).metrics
    assert stored["families"][0]["name"] == "seen"


@pytest.mark.django_db
@pytest.mark.parametrize("text", ["half \ud800", "nul \0", "x" * 1_000_000])
def test_the_help_of_a_handlers_metric_breaks_neither_port_nor_heartbeat(text: str) -> None:
    class Helped(ShellHandler):
        SEEN = Gauge("seen", text, registry=None)

    registry = CollectorRegistry()
    registry.register(UserMetrics(Helped, {"cluster": "main", "worker": "w"}))
    shown = generate_latest(registry)
    assert b"# HELP seen " in shown
    assert len(shown) < 20_000
    run = make_run()
    RunState.objects.filter(run=run).update(metrics=metric_snapshot(registry))
    stored: Any = RunState.objects.get(run=run).metrics
    assert stored["families"][0]["name"] == "seen"
