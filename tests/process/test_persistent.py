"""Persistent processes: real ones, on both tiers of isolation, with both launchers."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from domain.failure import FailureKind
from domain.process_end import ProcessEnd
from domain.task import Limits
from integration.corpus import ROOT, SEARCHES, match_count, ripgrep
from tests.process.test_executor import Tier, gone, launch, on_each_tier, seen
from tests.process.test_watching import Heard
from tests.support import persistent_program
from tests.support.executors import UNWATCHED, RoomyExecutor
from tests.support.worker_process import until
from workers.executor.base import Exit, Launch
from workers.executor.persistent import EndedProcess, Persistent
from workers.executor.spawn import ignore_end

PROGRAM = (sys.executable, "-IS", persistent_program.__file__)


def request(*args: str, **changes: Any) -> Launch:
    """A request with small bounds."""
    return launch(*args, **({"env": {"A": "1"}, "is_request": True} | changes))


def with_processes(
    body: Callable[[RoomyExecutor], Awaitable[None]],
    *words: str,
    tier: Tier = "pid_namespace",
    slots: int = 1,
    on_process_end: Callable[[EndedProcess], None] = ignore_end,
    on_spawner_lost: Callable[[int, int, str], None] = lambda *_: None,
    **changes: Any,
) -> None:
    """Run ``body`` on an executor with as many persistent processes as slots."""
    values: dict[str, Any] = {
        "argv": (*PROGRAM, *words),
        "env": {"PATH": os.environ["PATH"], "BASE": "1"},
        "cwd": None,
        "limits": None,
        "kill_grace_seconds": 0.2,
        "max_requests": None,
        "ready_timeout_seconds": 10.0 if "ready" in words else None,
    }

    async def scenario() -> None:
        persistent = Persistent(**(values | changes))
        executor = RoomyExecutor(
            prefer=tier,
            slots=slots,
            persistent=persistent,
            on_process_end=on_process_end,
            on_spawner_lost=on_spawner_lost,
        )
        await executor.start()
        try:
            async with asyncio.timeout(30):
                await body(executor)
        finally:
            await executor.close()

    asyncio.run(scenario())


async def pid_of(executor: RoomyExecutor) -> int:
    """The number of the process that answers next, as it is known on the host."""
    ended = await executor.run(request("echo"))
    assert ended.failure is None
    assert ended.pid is not None
    return ended.pid


@on_each_tier
def test_one_process_answers_many_requests(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = [await executor.run(request("echo", "ü", str(n))) for n in range(20)]
        assert [each.stdout.decode() for each in ended] == [f"ü {n}" for n in range(20)]
        assert len({each.pid for each in ended}) == 1
        assert psutil.Process(ended[0].pid).is_running()
        assert {each.failure for each in ended} == {None}
        failed = await executor.run(request("code", "7"))
        assert (failed.failure, failed.exit_code) == (FailureKind.EXIT, 7)
        assert await pid_of(executor) == ended[0].pid

    with_processes(body, tier=tier)


@on_each_tier
def test_a_request_carries_its_input_and_what_is_added_to_the_environment(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        added, own = json.loads((await executor.run(request("env"))).stdout)
        assert added == {"A": "1"}
        assert {"BASE", "PATH"} <= set(own)
        assert "A" not in own
        for given, expected in (
            (b"", {"stdin": ""}),
            ("a\n\0ü".encode(), {"stdin": "a\n\0ü"}),
            (b"\xff\0", {"stdin_base64": "/wA="}),
        ):
            ended = await executor.run(request("stdin", stdin=given))
            assert json.loads(ended.stdout) == expected
        blob = os.urandom(3_000_000)
        ended = await executor.run(request("stdin", stdin=blob, max_stdout_bytes=1 << 23))
        assert len(json.loads(ended.stdout)["stdin_base64"]) == 4_000_000

    with_processes(body, tier=tier)


def test_output_is_bytes_again() -> None:
    async def body(executor: RoomyExecutor) -> None:
        for told, stdout in (
            ({"stdout": "ü\0\n"}, "ü\0\n".encode()),
            ({"stdout": "\udcff"}, b"\xff"),
            ({"stdout_base64": "/wA="}, b"\xff\0"),
            ({}, b""),
        ):
            ended = await executor.run(request("raw", json.dumps(told)))
            assert (ended.failure, ended.stdout) == (None, stdout)
        ended = await executor.run(request("raw", '{"stderr_base64": "/wA="}'))
        assert ended.stderr == b"\xff\0"
        ended = await executor.run(request("stderr", "of the process"))
        assert ended.stderr == b"of the process"

    with_processes(body)


BROKEN = {
    "another id": ('{"id": "x", "exit_code": 0}', 'id "x", expected "1"'),
    "a number as id": ('{"id": 1, "exit_code": 0}', 'id 1, expected "1"'),
    "no id": ('{"exit_code": 0}', "id null"),
    "a huge id": ('{"exit_code": 0, "id": "' + "x" * 100_000 + '"}', "xxx..."),
    "no exit code": ('{"id": "ID"}', "exit_code: expected a whole number from 0 to 255, got null"),
    "true as code": ('{"id": "ID", "exit_code": true}', "got true"),
    "code 256": ('{"id": "ID", "exit_code": 256}', "got 256"),
    "stdout a list": ('{"id": "ID", "exit_code": 0, "stdout": []}', "stdout: expected text"),
    "no base64": ('{"id": "ID", "exit_code": 0, "stdout_base64": "?"}', "expected base64"),
    "both": ('{"id": "ID", "exit_code": 0, "stdout": "", "stdout_base64": ""}', "got both"),
    "surrogates": ('{"id": "ID", "exit_code": 0, "stdout": "\\ud800"}', "lone surrogates"),
    "too deep": ('{"exit_code": ' + "[" * 200_000, "cannot be read"),
    "no end": ('{"id": "ID", "exit_code": 0', "cannot be read"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_wrong_answer_fails_its_request_and_ends_the_process(case: str) -> None:
    line, detail = BROKEN[case]

    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("line", line, max_stdout_bytes=1 << 20))
        assert ended.failure is FailureKind.PROTOCOL
        assert detail in ended.detail
        assert len(ended.detail) < 300
        assert ended.pid is not None
        assert await pid_of(executor) != ended.pid

    with_processes(body)


def test_bytes_that_are_no_text_fail_an_answer() -> None:
    async def body(executor: RoomyExecutor) -> None:
        bad = b'{"id": "1", "exit_code": 0, "stdout": "\xff"}\n'
        ended = await executor.run(request("bytes", bad.hex()))
        assert ended.failure is FailureKind.PROTOCOL
        assert "cannot be read" in ended.detail

    with_processes(body)


def test_what_is_no_answer_goes_to_stderr() -> None:
    async def body(executor: RoomyExecutor) -> None:
        said = b'loading\n\xff\n{"level": "info"}\n[1]\n{broken\n{"ready": true}\n'
        whole = said + b'{"id": "1", "exit_code": 0, "stdout": "x"}\n'
        ended = await executor.run(request("bytes", whole.hex()))
        assert (ended.failure, ended.stdout) == (None, b"x")
        assert ended.stderr == said.replace(b'{"ready": true}\n', b"")

    with_processes(body)


def test_an_answer_too_many_fails_nobody_and_ends_the_process() -> None:
    async def body(executor: RoomyExecutor) -> None:
        first = await executor.run(request("twice"))
        assert first.failure is None
        assert await pid_of(executor) != first.pid

    with_processes(body)


@on_each_tier
def test_a_process_that_ends_fails_its_request_by_its_end(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        for args, kind, code in (
            (("exit", "3"), FailureKind.EXIT, 3),
            (("exit", "0"), FailureKind.EXIT, 0),
            (("kill",), FailureKind.SIGNAL, -9),
        ):
            ended = await executor.run(request(*args))
            assert (ended.failure, ended.exit_code) == (kind, code)
            assert "before it answered" in ended.detail
            assert await pid_of(executor) != ended.pid
        ended = await executor.run(request("exit", "3"))
        assert ended.stderr == b"last words\n"
        ended = await executor.run(request("answer_and_exit"))
        assert (ended.failure, ended.stdout) == (None, b"done")
        assert (await executor.run(request("echo", "on"))).stdout == b"on"

    with_processes(body, tier=tier)


@pytest.mark.parametrize("stream", ["0", "1"])
def test_a_process_that_closes_a_stream_breaks_the_protocol(stream: str) -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("close", stream, timeout_seconds=5.0))
        if stream == "1":
            assert ended.failure is FailureKind.PROTOCOL
            assert ended.detail == "it closed its stdout"
        else:  # It reads no more; that is seen by the next request only.
            assert ended.failure is FailureKind.TIMEOUT
        assert (await executor.run(request("echo", "on"))).stdout == b"on"

    with_processes(body)


@on_each_tier
def test_the_deadline_ends_the_process_and_its_group(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        short = {"timeout_seconds": 0.3}
        await executor.run(request("child", "671.1"))
        await seen("671.1")
        ended = await executor.run(request("sleep", "60", **short))
        assert (ended.failure, ended.stderr) == (FailureKind.TIMEOUT, b"sleeping\n")
        await gone("671.1", 0.5)
        ended = await executor.run(request("stubborn", **short))
        assert (ended.failure, ended.exit_code) == (FailureKind.TIMEOUT, -9)
        assert 0.4 < ended.duration_seconds < 2
        assert (await executor.run(request("echo", "on"))).stdout == b"on"

    with_processes(body, tier=tier)


def test_an_answer_within_the_grace_comes_too_late() -> None:
    async def body(executor: RoomyExecutor) -> None:
        late = {"timeout_seconds": 0.2, "kill_grace_seconds": 5.0}
        ended = await executor.run(request("ignore_and_answer", "0.5", **late))
        assert (ended.failure, ended.stdout) == (FailureKind.TIMEOUT, b"late")
        assert await pid_of(executor) != ended.pid

    with_processes(body)


@on_each_tier
def test_cancel_ends_the_process(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        pid = await pid_of(executor)
        running = asyncio.create_task(executor.run(request("sleep", "60")))
        waiting = asyncio.create_task(executor.run(request("sleep", "60")))
        await asyncio.sleep(0.1)
        running.cancel()
        waiting.cancel()
        await asyncio.wait((running, waiting))
        assert not psutil.pid_exists(pid)
        assert await pid_of(executor) != pid

    with_processes(body, tier=tier)


FLOODS = {
    "without a newline": "x",
    "an object without an end": '{"',
    "lines": "x\n",
    "objects": "{}\n",
}


@pytest.mark.parametrize("case", FLOODS)
def test_a_flood_is_bounded_in_memory_and_time(case: str) -> None:
    async def body(executor: RoomyExecutor) -> None:
        spawner = psutil.Process(executor.spawner_pids[0]).children()[0]
        await pid_of(executor)
        before = spawner.memory_info().rss
        ended = await executor.run(request("flood", FLOODS[case], max_stdout_bytes=1 << 20))
        assert ended.failure in (FailureKind.OUTPUT_LIMIT, FailureKind.PROTOCOL)
        assert len(ended.detail) < 200
        assert ended.duration_seconds < 10
        assert spawner.memory_info().rss - before < 32 * 2**20
        assert (await executor.run(request("echo", "on"))).stdout == b"on"

    with_processes(body)


def test_more_stdout_than_allowed_fails_the_request_and_keeps_the_process() -> None:
    async def body(executor: RoomyExecutor) -> None:
        pid = await pid_of(executor)
        ended = await executor.run(request("echo", "x" * 1001, max_stdout_bytes=1000))
        assert ended.failure is FailureKind.OUTPUT_LIMIT
        assert (len(ended.stdout), ended.stdout_size) == (1000, 1001)
        assert await pid_of(executor) == pid

    with_processes(body)


@on_each_tier
def test_an_idle_process_that_dies_is_replaced_without_a_failure(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        for _ in range(10):
            pid = await pid_of(executor)
            process = psutil.Process(pid)
            process.kill()
            await asyncio.to_thread(process.wait, 5)
            assert await pid_of(executor) != pid
        ended = await executor.run(request("later"))
        assert ended.failure is None
        assert (await executor.run(request("echo", "on"))).stdout == b"on"

    with_processes(body, tier=tier)


def test_requests_wait_until_a_process_is_ready_and_their_deadline_with_them() -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("echo", "x", timeout_seconds=0.1))
        assert (ended.failure, ended.stdout) == (None, b"x")
        assert ended.duration_seconds < 0.1

    with_processes(body, "ready")


def test_a_request_that_waits_is_cancelled_and_recalled() -> None:
    async def body(executor: RoomyExecutor) -> None:
        running = asyncio.create_task(executor.run(request("echo")))
        await asyncio.sleep(0.05)
        running.cancel()
        await asyncio.wait((running,))
        assert running.cancelled()
        again = asyncio.create_task(super(RoomyExecutor, executor).run(request("echo"), UNWATCHED))
        await asyncio.sleep(0.05)
        await executor.recall()
        assert await again is None

    with_processes(body, "mute", ready_timeout_seconds=30.0)


@pytest.mark.parametrize("awaits_ready", [False, True])
def test_a_program_that_ends_before_it_is_ready_is_no_requests_fault(awaits_ready: bool) -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("echo"))
        assert ended.failure is FailureKind.SPAWN
        assert ended.spawn_errno == errno.ECHILD
        assert "before it was ready" in ended.detail
        assert "no model here" in ended.detail

    with_processes(body, "die", ready_timeout_seconds=5.0 if awaits_ready else None)


def test_a_program_that_is_not_ready_in_time_is_ended() -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("echo"))
        assert ended.spawn_errno == errno.ECHILD
        assert "not ready within 0.1 s" in ended.detail

    with_processes(body, "mute", ready_timeout_seconds=0.1)


def test_an_answer_before_the_first_request_is_no_requests_fault() -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("echo"))
        assert ended.spawn_errno == errno.ECHILD
        assert "an answer before it got a request" in ended.detail

    with_processes(body, "early", ready_timeout_seconds=5.0)


def test_a_missing_program_is_told_with_its_error() -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("echo"))
        assert (ended.failure, ended.spawn_errno) == (FailureKind.SPAWN, errno.ENOENT)

    with_processes(body, argv=("/no/such/program",))


def test_processes_are_replaced_after_their_share_one_after_another() -> None:
    async def body(executor: RoomyExecutor) -> None:
        pids = [await pid_of(executor) for _ in range(40)]
        assert len(set(pids)) > 5
        longest = max(sum(1 for pid in pids if pid == each) for each in set(pids))
        assert longest <= 6
        for pid in set(pids[:-12]):
            assert not psutil.pid_exists(pid) or psutil.Process(pid).status() == "zombie"

    with_processes(body, "ready", slots=2, max_requests=6)


def test_a_task_with_its_own_program_is_spawned_in_the_slot() -> None:
    async def body(executor: RoomyExecutor) -> None:
        pid = await pid_of(executor)
        ended = await executor.run(launch("echo", "spawned"))
        assert (ended.failure, ended.stdout) == (None, b"spawned\n")
        assert await pid_of(executor) == pid

    with_processes(body)


def test_what_cannot_be_a_request_is_named() -> None:
    async def body(executor: RoomyExecutor) -> None:
        for wrong, word in (
            (request("echo", "\udcff"), "UTF-8"),
            (request("echo", limits=Limits(processes=3)), "limits: expected none"),
        ):
            ended = await executor.run(wrong)
            assert (ended.failure, ended.spawn_errno) == (FailureKind.SPAWN, errno.EINVAL)
            assert word in ended.detail

    with_processes(body)


@on_each_tier
def test_limits_and_directory_are_those_of_the_process(tier: Tier, tmp_path: Path) -> None:
    program = 'read -r line; printf \'{"id": "1", "exit_code": 0, "stdout": "%s %s"}\\n\''
    script = f'{program} "$(ulimit -n)" "$(pwd -P)"'

    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request())
        assert ended.stdout.decode() == f"77 {tmp_path}"

    with_processes(
        body, argv=("sh", "-c", script), tier=tier, limits=Limits(open_files=77), cwd=str(tmp_path)
    )


def test_what_a_request_used_is_told() -> None:
    async def body(executor: RoomyExecutor) -> None:
        await executor.run(request("burn", "0.5"))
        idle, busy = [await executor.run(request(*args)) for args in (("echo",), ("burn", "0.2"))]

        def cpu(ended: Exit) -> float:
            assert ended.usage is not None
            return ended.usage.user_cpu_seconds + ended.usage.system_cpu_seconds

        assert cpu(idle) < 0.1 < cpu(busy) < 0.4
        assert busy.usage is not None
        assert busy.usage.max_rss_bytes > 2**20

    with_processes(body)


@on_each_tier
def test_processes_die_with_their_spawner(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        await executor.run(request("child", "671.2"))
        await seen("671.2")
        process = psutil.Process(await pid_of(executor))
        running = asyncio.create_task(executor.run(request("sleep", "60")))
        await seen("671.2")
        os.kill(executor.spawner_pids[0], 9)
        assert (await running).failure is FailureKind.LOST
        await gone("671.2", 2)
        await asyncio.to_thread(process.wait, 2)
        assert (await executor.run(request("echo", "on"))).stdout == b"on"

    with_processes(body, tier=tier)


def test_progress_is_that_of_the_request_which_runs() -> None:
    told = {"env": {"DRAKKAR_PROGRESS_FD": "3"}}

    async def body(executor: RoomyExecutor) -> None:
        line = json.dumps({"progress": 0.5, "note": "half"}) + "\n"
        ended = await executor.run(request("progress", line, **told))
        assert (ended.progress, ended.note) == (0.5, "half")
        ended = await executor.run(request("echo"))
        assert (ended.progress, ended.note, ended.progress_invalid) == (None, "", 0)
        ended = await executor.run(request("progress", "x\n" * 50, **told))
        assert (ended.progress, ended.progress_invalid) == (None, 50)

    with_processes(body)


def test_a_request_is_watched_while_it_runs_and_asked_to_end() -> None:
    async def body(executor: RoomyExecutor) -> None:
        heard = Heard()
        running = asyncio.create_task(executor.run(request("tick", task_id="0:1:0"), heard))
        await heard.until(lambda: heard.progress)
        assert executor.follow("0:1:0", heard.on_chunk)
        await heard.until(lambda: b"tick 15" in heard.text("stderr") and heard.signs)
        assert [start[0] for start in heard.starts] == [0]
        assert heard.signs[0].processes == 1
        assert executor.cancel("0:1:0")
        ended = await running
        assert ended.failure is FailureKind.CANCELLED
        assert ended.stderr.startswith(b"tick 0\ntick 1\n")
        assert ended.progress is not None
        assert ended.progress > 0
        assert await pid_of(executor) != ended.pid

    with_processes(body)


def test_a_silent_request_is_ended_as_stalled_and_one_that_shows_life_is_not() -> None:
    async def body(executor: RoomyExecutor) -> None:
        bound = {"stall_timeout_seconds": 0.6}
        ended = await executor.run(request("stubborn", **bound))
        assert (ended.failure, ended.stderr) == (FailureKind.STALLED, b"stubborn\n")
        assert (await executor.run(request("tick", **bound))).failure is None

    with_processes(body)


def test_each_process_that_must_be_replaced_is_told_with_its_cause() -> None:
    told: list[EndedProcess] = []

    async def body(executor: RoomyExecutor) -> None:
        for args in (("exit", "3"), ("line", '{"id": "x"}'), ("flood", "x")):
            await executor.run(request(*args, max_stdout_bytes=1 << 20))
        await executor.run(request("sleep", "60", timeout_seconds=0.1))
        pid = await pid_of(executor)
        ended = [(each.cause, each.requests) for each in told]
        assert ended == [
            (ProcessEnd.ENDED, 0),
            (ProcessEnd.PROTOCOL, 0),
            (ProcessEnd.OUTPUT_LIMIT, 0),
            (ProcessEnd.KILLED, 0),
        ]
        assert all(each.pid not in (None, pid) and each.slot == 0 for each in told)

    with_processes(body, on_process_end=told.append)


@on_each_tier
def test_among_processes_that_die_each_request_ends_by_its_own_fate(tier: Tier) -> None:
    fates: dict[tuple[str, ...], FailureKind | None] = {
        ("echo", "x"): None,
        ("kill",): FailureKind.SIGNAL,
        ("exit", "3"): FailureKind.EXIT,
        ("sleep", "60"): FailureKind.TIMEOUT,
        ("line", '{"id": 0}'): FailureKind.PROTOCOL,
        ("answer_and_exit",): None,
        ("stubborn",): FailureKind.CANCELLED,
    }

    async def body(executor: RoomyExecutor) -> None:
        places = asyncio.Semaphore(3)

        async def one(number: int) -> None:
            args = list(fates)[number * 5 % len(fates)]
            async with places:
                asked = request(*args, task_id=f"0:{number}:0", timeout_seconds=1.0)
                if args == ("stubborn",):
                    watcher = Heard()
                    running = asyncio.create_task(executor.run(asked, watcher))
                    await watcher.until(lambda: watcher.starts)
                    executor.cancel(asked.task_id)
                    ended = await running
                else:
                    ended = await executor.run(asked)
            assert (args, ended.failure) == (args, fates[args])

        await asyncio.gather(*(one(number) for number in range(70)))

    def lost(pid: int, tasks: int, detail: str) -> None:
        raise AssertionError(f"a spawner died: {detail}")

    with_processes(body, tier=tier, slots=3, on_spawner_lost=lost)


EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"


def test_the_examples_of_the_guide_answer() -> None:
    async def python(executor: RoomyExecutor) -> None:
        ended = await executor.run(request(stdin=b"one two \xff"))
        assert (ended.failure, ended.stdout) == (None, b"3 words\n")

    async def shell(executor: RoomyExecutor) -> None:
        ended = await executor.run(request())
        assert ended.stdout == b"47 bytes"
        assert ended.stderr == b"answering 1\n"

    argv = (sys.executable, str(EXAMPLES / "persistent.py"))
    with_processes(python, argv=argv, ready_timeout_seconds=10.0)
    with_processes(shell, argv=(str(EXAMPLES / "persistent.sh"),), ready_timeout_seconds=10.0)


def test_the_chaos_tests_program_answers_as_the_one_it_runs() -> None:
    search = next(search for search in SEARCHES if match_count(search) > 0)

    async def body(executor: RoomyExecutor) -> None:
        args = ("2", search.pattern, search.file_path, "--fail=0")
        ended = await executor.run(request(*args))
        assert (ended.failure, ended.stdout.count(b"\n")) == (None, match_count(search))
        ended = await executor.run(request("0"))
        assert (ended.failure, ended.exit_code) == (FailureKind.EXIT, 2)
        assert ended.stderr.startswith(b"usage: run-rg")

    with_processes(
        body,
        argv=(str(ROOT / "integration" / "bin" / "serve-rg"),),
        cwd=str(ROOT),
        ready_timeout_seconds=10.0,
        env={
            "PATH": f"{Path(ripgrep()).parent}:{os.environ['PATH']}",
            "RUN_RG_PAUSE_SECONDS": "0",
        },
    )


@on_each_tier
def test_progress_told_before_the_first_request_is_dropped(tier: Tier) -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("echo", "ready"))
        assert (ended.failure, ended.stdout, ended.progress) == (None, b"ready", None)

    with_processes(body, "chatty", "ready", tier=tier)


def test_a_request_that_one_process_left_unread_is_watched_at_the_next(tmp_path: Path) -> None:
    async def body(executor: RoomyExecutor) -> None:
        ended = await executor.run(request("sleep", "60", stall_timeout_seconds=0.5))
        assert ended.failure is FailureKind.STALLED
        assert ended.stderr == b"sleeping\n"

    with_processes(body, f"unread={tmp_path / 'read'}")


def test_a_request_left_unread_goes_to_a_process_that_has_nothing_to_do() -> None:
    async def body(executor: RoomyExecutor) -> None:
        both = [request("sleep", "0.3", task_id=f"0:0:{n}") for n in range(2)]
        ended = await asyncio.gather(*map(executor.run, both))
        pids = {end.pid for end in ended}
        first, heard = psutil.Process(await pid_of(executor)), Heard()
        first.suspend()
        # Till then it may still read a request.
        until(lambda: first.status() == psutil.STATUS_STOPPED, "stopped")
        run = asyncio.create_task(executor.run(request("echo", "x"), heard))
        await heard.until(lambda: heard.starts)
        first.kill()
        end = await run
        assert end.failure is None
        assert end.pid in pids - {first.pid}

    with_processes(body, slots=2)
