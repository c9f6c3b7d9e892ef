"""Answers that misled: kind J of the issue about things not done."""

from __future__ import annotations

import asyncio
import html
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import call_command
from django.test import Client
from pydantic import BaseModel

from domain.events import Event
from domain.flood import MOST_IN_A_ROW
from domain.parking import ParkingCause
from recorder.config import RecorderConfig
from recorder.rows import to_row
from sinks.letter_rows import store_letters
from sinks.models import DeadLetter, LetterJob
from tests.contract.test_replay import Tape
from tests.support.logs import captured_logs
from tests.support.ordinary_user import CHECKOUT
from tests.support.pipeline import TOPIC, ShellHandler, cluster_config, new_cluster, running
from tests.web.conftest import operator, user
from tests.web.test_dead_letters import make
from tests.web.test_letter_actions import post, run
from workers.handler import (
    Handler,
    MemoryPayload,
    Message,
    Payload,
    Pending,
    Precomputed,
    Task,
    TaskResult,
)
from workers.management.commands.probe_message import MAX_VALUE_BYTES
from workers.runtime.listeners.log import LogListener
from workers.version import VERSION

__all__ = ["operator", "user"]

SECRET = "hunter2-of-the-database"
FOREIGN = "\x1b]0;owned\x07\x9b31m"
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class Anything(BaseModel):
    """A message of any JSON object."""


class RaisingHandler(ShellHandler):
    """Its collect hook raises what a driver may: an address with its password, and worse."""

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """Never answers."""
        raise ConnectionError(f"postgresql://u:{SECRET}@db/x {FOREIGN}" + "x" * 100_000)


class BareHandler(Handler[Anything]):
    """Its tasks name no program of their own."""

    async def arrange(
        self, messages: Sequence[Message[Anything]], pending: Pending
    ) -> Sequence[Task]:
        """One task a message."""
        return [Task(args=("x",), source_offsets=(one.offset,)) for one in messages]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """Nothing."""
        return []


def manage(folder: Path, *arguments: str, **sections: Any) -> subprocess.CompletedProcess[str]:
    """Run ``manage.py`` with one cluster ``main`` that connects to nothing."""
    main = {
        "handler": "tests.faults.test_misleading_answers:BareHandler",
        "kafka": {"brokers": "127.0.0.1:1", "topic": "t", "group": "g"},
        "sinks": {"store": {"kind": "memory"}},
        **sections,
    }
    site = {"database_url": "postgresql://u@127.0.0.1:1/d", "secret_key": "k" * 40}
    path = folder / "drakkar.yaml"
    path.write_text(yaml.safe_dump({"site": site, "clusters": {"main": main}}))
    kept = {name: value for name, value in os.environ.items() if "DRAKKAR_" not in name}
    return subprocess.run(
        [sys.executable, "manage.py", *arguments],
        cwd=CHECKOUT,
        env={**kept, "DRAKKAR_CONFIG": str(path), "PYTHONUTF8": "1"},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def told_of_one(script: str, handler: type[ShellHandler]) -> list[Event]:
    """Every event of one message that ends in a letter."""

    async def scenario() -> list[Event]:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, value=json.dumps({"script": script}).encode())
        async with running(cluster, handler=handler({}, max_retries=0)) as live:
            await live.fates(1)
            assert await live.stop() == 0
            return live.heard.events

    return asyncio.run(scenario())


# -- the traceback of a handler's error ------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_the_traceback_of_a_handler_stands_on_page_and_api(operator: Client) -> None:
    (event,) = [one for one in told_of_one("true", RaisingHandler) if one.kind == "dead_lettered"]
    store_letters("main", "w", [to_row(event, 1, RecorderConfig())])
    letter = DeadLetter.objects.get()
    page = operator.get(f"/dead-letters/{letter.pk}").content.decode()
    told = operator.get(f"/api/v1/dead-letters/{letter.pk}").json()
    for text in (page, told.get("traceback", "")):
        assert "Traceback (most recent call last)" in text
        assert "in collect" in text
        assert SECRET not in text
    assert len(told["traceback"]) < 10_000
    assert SECRET not in told["reason"]
    assert not CONTROL.search(page)


def test_the_traceback_of_a_handler_stands_in_the_log() -> None:
    events = told_of_one("true", RaisingHandler)
    tell = LogListener(0.0)
    with captured_logs() as lines:
        for event in events:
            tell(event)
    (line,) = [line for line in lines if line["event"] == "dead_lettered"]
    assert "in collect" in line.get("traceback", "")
    assert SECRET not in str(line)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_probe_shows_the_traceback_and_no_control_character(
    tmp_path: Path, as_json: bool
) -> None:
    sections = {
        "handler": "tests.faults.test_misleading_answers:RaisingHandler",
        "executor": {"binary": "/bin/sh", "max_retries": 0},
    }
    value = json.dumps({"script": f"echo '{FOREIGN}'"})
    arguments = ["probe_message", "--cluster", "main", "--value", value]
    done = manage(tmp_path, *arguments, *(["--json"] if as_json else []), **sections)
    assert done.returncode == 1, done.stderr
    assert "in collect" in done.stdout
    assert SECRET not in done.stdout
    assert not CONTROL.search(done.stdout), ascii(CONTROL.findall(done.stdout))


def test_a_hook_whose_error_costs_no_message_is_logged_with_its_traceback() -> None:
    class Odd(ShellHandler):
        def task_priority(self, task: Task) -> float | None:
            raise LookupError(f"postgresql://u:{SECRET}@db/x")

    with captured_logs() as lines:
        told_of_one("true", Odd)
    (line,) = [line for line in lines if line["event"] == "hook_failed"]
    assert "in task_priority" in line["traceback"]
    assert SECRET not in str(line)


# -- a cluster without any program -----------------------------------------------------------------


def test_check_refuses_a_cluster_without_any_program(tmp_path: Path) -> None:
    done = manage(tmp_path, "check")
    assert done.returncode == 1
    assert "clusters.main.executor.binary: expected a program" in done.stderr
    assert manage(tmp_path, "check", executor={"binary": "/bin/sh"}).returncode == 0


MAKERS = """
import workers.handler as drakkar
Parent = drakkar.Handler
{lines}
class Loop(Parent):
    async def arrange(self, messages, pending):
        return [{call}]
"""
BRINGING = {
    "under another name": ("from workers.handler import Task as T", "T(**messages[0].payload)"),
    "of the module": ("", "drakkar.Task(**messages[0].payload)"),
    "from a table": ("def one(): return drakkar.Task(binary='x')\nALL = {1: one}", "ALL[1]()"),
    "from another package": ("from other_makers import make", "make(messages)"),
    "of a base elsewhere": ("from other_makers import Base as Parent", "1"),
}


@pytest.mark.parametrize(("lines", "call"), BRINGING.values(), ids=BRINGING)
def test_check_lets_a_cluster_pass_whose_tasks_may_bring_their_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lines: str, call: str
) -> None:
    (tmp_path / "other_makers.py").write_text(
        "from workers.handler import Handler, Task\n"
        "def make(messages): return Task(binary='x')\n"
        "class Base(Handler):\n    def one(self): return Task(precomputed=None)\n"
    )
    (tmp_path / "bringing.py").write_text(MAKERS.format(lines=lines, call=call))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = manage(tmp_path, "check", handler="bringing:Loop")
    assert done.returncode == 0, done.stderr


# -- a handler that ends the command ---------------------------------------------------------------

ENDING = {
    "at import": ("raise SystemExit(0)", "", "drakkar.E020", "SystemExit: 0"),
    "without words": (
        "class Mute(Exception):\n    def __str__(self): raise KeyError\nraise Mute",
        "",
        "drakkar.E020",
        "its text cannot be had",
    ),
    "in a validator": (
        "from pydantic import BaseModel, field_validator\n"
        "class Model(BaseModel):\n"
        "    x: int = 1\n"
        "    @field_validator('x')\n"
        "    def check(cls, x): raise TypeError('bug')",
        "settings_model = Model",
        "drakkar.E022",
        "TypeError: bug",
    ),
}


@pytest.mark.parametrize("command", [["check"], ["runworker", "--cluster", "main"]], ids=str)
@pytest.mark.parametrize(("lines", "body", "number", "words"), ENDING.values(), ids=ENDING)
def test_a_handler_that_ends_or_fails_while_it_is_looked_at_is_named(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: list[str],
    lines: str,
    body: str,
    number: str,
    words: str,
) -> None:
    """A ``sys.exit(0)`` in its module was a green check, and a worker that ended well."""
    (tmp_path / "ending.py").write_text(
        f"from workers.handler import Handler\n{lines}\n"
        f"class Loop(Handler):\n    {body or 'x = 1'}\n"
        "    async def arrange(self, messages, pending): return []\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    done = manage(
        tmp_path, *command, handler="ending:Loop", executor={"binary": "sh"}, app={"x": 3}
    )
    assert done.returncode != 0
    assert words in done.stderr
    assert number in done.stderr or command != ["check"]
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_check_looks_for_the_program_where_the_tasks_will(tmp_path: Path) -> None:
    program = tmp_path / "only-for-tasks"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    executor = {"binary": "only-for-tasks", "env": {"PATH": str(tmp_path)}}
    done = manage(tmp_path, "check", executor=executor)
    assert done.returncode == 0, done.stderr
    executor["env"] = {"PATH": "/nowhere"}
    assert "drakkar.E030" in manage(tmp_path, "check", executor=executor).stderr
    done = manage(tmp_path, "check", executor={"binary": "sh", "cwd": str(tmp_path / "none")})
    assert "drakkar.E033" in done.stderr
    assert "clusters.main.executor.cwd: expected a directory" in done.stderr


def test_a_probe_of_a_cluster_without_any_program_says_so_at_once(tmp_path: Path) -> None:
    began = time.monotonic()
    arguments = ["probe_message", "--cluster", "main", "--value", "{}", "--timeout", "40"]
    done = manage(tmp_path, *arguments)
    assert done.returncode == 1
    assert "executor.binary: expected a program, got none" in done.stderr
    assert time.monotonic() - began < 30


def test_a_probe_that_can_have_no_fate_says_why_at_once(tmp_path: Path) -> None:
    """What parks a partition in earnest waits for an operator; nobody comes to a probe."""
    kafka = {"brokers": "127.0.0.1:1", "topic": "t", "group": "g", "on_parse_error": "park"}
    arguments = ["probe_message", "--cluster", "main", "--value", "no json", "--timeout", "40"]
    began = time.monotonic()
    done = manage(tmp_path, *arguments, kafka=kafka, executor={"binary": "/bin/sh"})
    assert done.returncode == 1
    assert "parse_error" in done.stderr
    assert time.monotonic() - began < 30


ODD_MESSAGES = {
    "bytes": (["--key", "\udcff", "--header", "a=\udcff", "--offset", "3000000000"], 0, "t:"),
    "name": (["--header", "\udcff=a"], 2, "--header: expected NAME=VALUE with a printable name"),
    "offset": (["--offset", str(2**63)], 2, f"--offset: expected 0 to {2**63 - 1}"),
    "time": (["--timeout", "nan"], 2, "--timeout: expected seconds above 0, got nan"),
}


@pytest.mark.parametrize(("more", "code", "said"), ODD_MESSAGES.values(), ids=ODD_MESSAGES)
def test_a_probe_takes_the_bytes_as_typed_and_names_what_it_does_not_take(
    tmp_path: Path, more: list[str], code: int, said: str
) -> None:
    handler = "tests.support.pipeline:ShellHandler"
    arguments = ["probe_message", "--cluster", "main", "--value", '{"script": "echo t:"}', *more]
    done = manage(tmp_path, *arguments, executor={"binary": "/bin/sh"}, handler=handler)
    assert done.returncode == code, done.stderr
    assert said in done.stdout + done.stderr


def test_a_probe_of_a_value_that_is_no_text_gets_it_whole(tmp_path: Path) -> None:
    given = ["probe_message", "--cluster", "main", "--value", "\udcff"]
    done = manage(tmp_path, *given, executor={"binary": "/bin/sh"})
    assert done.returncode == 1
    assert "dead letter: parse" in done.stdout


def test_a_probe_says_of_a_value_too_large_that_it_is(tmp_path: Path) -> None:
    """It was cut off, and the rest was probed in its place."""
    large = tmp_path / "large"
    with large.open("wb") as file:
        file.truncate(MAX_VALUE_BYTES + 1)
    given = ["probe_message", "--cluster", "main", "--file", str(large)]
    done = manage(tmp_path, *given, executor={"binary": "/bin/sh"})
    assert (done.returncode, done.stdout) == (2, "")
    assert f"--file: expected at most {MAX_VALUE_BYTES} bytes" in done.stderr


@pytest.mark.parametrize("command", ["runworker", "probe_message"])
def test_a_handler_that_cannot_be_made_is_named_without_a_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    (tmp_path / "unmade.py").write_text(
        "from workers.handler import Handler\n"
        "class Loop(Handler):\n"
        "    def __init__(self, *given, **more): raise OSError('no model')\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    given = [command, "--cluster", "main", *(["--value", "x"] if command[0] == "p" else [])]
    done = manage(tmp_path, *given, handler="unmade:Loop", executor={"binary": "sh"})
    assert done.returncode == 2
    assert "unmade:Loop: its __init__ raised OSError: no model" in done.stderr
    assert "Traceback" not in done.stderr


# -- the version -----------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["--version"], ["version"], ["runworker", "--version"]])
def test_the_version_is_that_of_drakkar(tmp_path: Path, arguments: list[str]) -> None:
    done = manage(tmp_path, *arguments)
    assert done.returncode == 0
    assert VERSION in done.stdout
    assert "rakkar" in done.stdout


# -- the flood guard -------------------------------------------------------------------------------


class RefusingHandler(ShellHandler):
    """All messages of a batch end in letters, each for the reason that its value asks for."""

    async def arrange(self, messages: Sequence[Any], pending: Pending) -> Sequence[Task]:
        """Raises, or makes a task that fails by itself, in its collect hook, or at its sink."""
        if messages[0].payload.script == "arrange":
            raise ValueError("no")
        return [
            Task(
                args=("-c", "exit 3"),
                source_offsets=(one.offset,),
                precomputed=None if one.payload.script == "program" else Precomputed(stdout=b"x"),
                labels={"why": one.payload.script},
            )
            for one in messages
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """Raises, or gives what no sink takes."""
        if result.task.labels["why"] == "collect":
            raise ValueError("no")
        return [MemoryPayload(sink="nowhere", value="x")]


@pytest.mark.parametrize("why", ["parse", "arrange", "program", "collect", "sink"])
def test_a_flood_stops_at_its_fifty(why: str) -> None:
    async def scenario() -> None:
        cluster = new_cluster()
        value = b"not json" if why == "parse" else json.dumps({"script": why}).encode()
        for _ in range(150):
            cluster.produce(TOPIC, 0, value=value)
        config = cluster_config(max_executors=8, max_retries=0)
        handler = RefusingHandler({}, max_retries=0)
        async with running(cluster, config, handler=handler) as live:
            await live.heard.until(lambda: bool(live.heard.of("parked")))
            await asyncio.sleep(0.5)  # what would be written beyond it is on its way already
            assert len(live.letters.stored) == MOST_IN_A_ROW
            (parked,) = live.heard.of("parked")
            assert parked.cause == "dead_letter_flood"
            (partition,) = live.worker.partitions.values()
            partition.unpark(ParkingCause.DEAD_LETTER_FLOOD, "by an operator")
            await live.heard.until(lambda: len(live.heard.of("parked")) == 2)
            await asyncio.sleep(0.5)
            assert len(live.letters.stored) == 2 * MOST_IN_A_ROW
            if why == "program":
                await live.heard.until(lambda: len(live.heard.of("task_failed")) == 150)
            assert await live.stop() == 0
            assert len(live.letters.stored) == 2 * MOST_IN_A_ROW, "the rest is the heir's"

    asyncio.run(scenario())


# -- jobs on letters -------------------------------------------------------------------------------


def ask_edit(operator: Client, letter: DeadLetter) -> LetterJob:
    """Ask for an edited replay as the page does."""
    form = {"step": "send", "key_of_form": "e" * 32, "encoding": "text", "headers": "h=<b>"}
    answer = operator.post(f"/dead-letters/{letter.pk}/edit", form | {"value": '{"a":2}'})
    assert answer.status_code == 302, answer.content.decode()
    return LetterJob.objects.get(action="edit")


@pytest.mark.django_db(transaction=True)
def test_an_edit_whose_letter_a_bulk_replay_had_says_who(operator: Client) -> None:
    letter = make(1)
    post(operator, letter=letter.pk)
    bulk = LetterJob.objects.get()
    edit = ask_edit(operator, letter)
    tape = Tape()
    run(tape)
    edit.refresh_from_db()
    assert [record.value for record, _ in tape.sent] == [b'{"a":1}']
    assert edit.state == "failed"
    assert f"replayed by mara in job {bulk.pk}" in edit.error
    page = operator.get(f"/dead-letters/jobs/{edit.pk}").content.decode()
    assert "the edited message was not sent" in page
    bulk.refresh_from_db()
    assert bulk.state == "done"


@pytest.mark.django_db(transaction=True)
def test_letters_that_others_had_are_counted_as_left_out(operator: Client) -> None:
    first, second = make(1), make(2)
    post(operator, letter=[first.pk, second.pk])
    DeadLetter.objects.filter(pk=second.pk).update(
        state="resolved", resolved_by="ben", resolution="known"
    )
    run(Tape())
    job = LetterJob.objects.get()
    assert (job.state, job.result["letters"], job.result["taken"]) == ("done", 1, 1)


@pytest.mark.django_db(transaction=True)
def test_a_resolution_that_found_nothing_open_says_who_was_faster(operator: Client) -> None:
    letter = make(1)
    post(operator, "resolve", letter=letter.pk, reason="late")
    DeadLetter.objects.update(state="resolved", resolved_by="ben", resolution="known")
    run(Tape())
    job = LetterJob.objects.get()
    assert job.state == "failed"
    assert "resolved by ben: known" in job.error


@pytest.mark.django_db(transaction=True)
def test_a_job_taken_over_from_a_dead_runner_is_done(operator: Client) -> None:
    """What its first runner did is the job's own."""
    post(operator, letter=make(1).pk)
    run(Tape())
    LetterJob.objects.update(state="queued", claim=None, result={})
    run(Tape())
    job = LetterJob.objects.get()
    assert (job.state, job.result["letters"], job.result["taken"]) == ("done", 1, 0)


@pytest.mark.django_db(transaction=True)
def test_a_cluster_that_the_site_does_not_know_is_said_at_once(operator: Client) -> None:
    letter = make(1, cluster="gone")
    said = "configuration knows (main, fast)"
    pages = [
        operator.get(f"/dead-letters/jobs/new?action=source&of=chosen&letter={letter.pk}"),
        post(operator, letter=letter.pk),
        operator.post(
            "/api/v1/dead-letters/jobs",
            {"action": "source", "letter": [letter.pk]},
            content_type="application/json",
        ),
        operator.post(f"/dead-letters/{letter.pk}/edit", {"step": "send", "key_of_form": "e" * 32}),
        operator.post("/probe?cluster=gone", {"value": "{}", "key_of_form": "e" * 32}),
    ]
    for page in pages:
        assert 400 <= page.status_code < 500
        text = html.unescape(page.content.decode())
        assert said in text, text
    assert not LetterJob.objects.exists()


@pytest.mark.django_db(transaction=True)
def test_the_command_says_of_each_letter_that_it_left_out_why() -> None:
    letter = make(1, state="resolved", resolved_by="ben", resolution="known")
    told = io.StringIO()
    ids = ["--id", str(letter.pk), "99999"]
    command = ["replay_dead_letters", "--cluster", "main", "--dry-run", *ids]
    with pytest.raises(SystemExit) as ended:
        call_command(*command, stdout=io.StringIO(), stderr=told)
    assert ended.value.code == 1
    assert f"{letter.pk}  left out: resolved by ben: known" in told.getvalue()
    assert "99999  left out: no such letter" in told.getvalue()
