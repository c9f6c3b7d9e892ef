"""What was cut short keeps what it had: a real worker's events, rows, and the page of the task."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client

from domain.decision import DeadLetter, Skip
from domain.events import Event
from recorder.config import RecorderConfig
from recorder.rows import to_row
from recorder.task_detail import Execution, task_detail
from recorder.writer import ensure_run, flush
from tests.contract.test_recorder_postgres import description
from tests.support.pipeline import TOPIC, Running, cluster_config, new_cluster, running
from workers.pipeline.life_cycle import LiveTask

pytestmark = pytest.mark.django_db
TASK = "0:0:0"
WORKS = """
trap 'echo saved; exit 0' TERM
echo begun; echo why >&2
echo '{"progress": 0.4, "note": "second pass"}' >&3
while :; do sleep 0.05; done
"""


async def until(is_so: Callable[[], bool]) -> None:
    """Wait until something is so of which nobody tells."""
    deadline = time.monotonic() + 20
    while not is_so():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.02)


def told(
    script: str, act: Callable[[Running, LiveTask], Awaitable[Any]], **executor: Any
) -> list[Event]:
    """All that a worker tells of one message, whose program works until ``act`` is done."""

    async def main() -> list[Event]:
        cluster = new_cluster()
        cluster.produce(TOPIC, 0, json.dumps({"script": script}).encode())
        async with running(cluster, cluster_config(max_retries=0, **executor)) as live:
            await live.heard.until(lambda: bool(live.heard.of("task_started")))
            (partition,) = live.worker.partitions.values()
            task = partition.task(TASK)
            assert task is not None
            await until(lambda: task.note != "")
            await act(live, task)
            return live.heard.events

    return asyncio.run(main())


def recorded(events: list[Event]) -> Execution:
    run = description(events[0].at)
    ensure_run(run)
    config = RecorderConfig(output_min_duration_ms=0)
    flush(run, [to_row(event, seq, config) for seq, event in enumerate(events, 1)], 0)
    task = task_detail("main", TASK)
    assert task is not None
    return task.executions[0]


def page(client: Client) -> str:
    client.force_login(User.objects.create_superuser("root"))
    return client.get(f"/task/main/{TASK}").content.decode()


@pytest.mark.parametrize("verdict", [Skip(reason="enough"), DeadLetter(reason="enough")], ids=repr)
def test_an_operator_cancels_by_sigterm_and_all_is_kept(verdict: Any, client: Client) -> None:
    async def cancel(live: Running, task: LiveTask) -> None:
        (partition,) = live.worker.partitions.values()
        beat = live.worker.figures
        await until(lambda: any(each.progress for each in beat().beat.pool.running or ()))
        (beaten,) = beat().beat.pool.running or ()
        assert (beaten.pid, beaten.progress, beaten.note) == (task.pid, 0.4, "second pass")
        assert partition.cancel_task(TASK, verdict)
        await live.fates(1)

    events = told(WORKS, cancel, kill_grace_seconds=20)
    (cancelled,) = [event for event in events if event.kind == "task_cancelled"]
    found = recorded(events)
    assert (found.state, found.exit_code, found.kill_reason) == ("paused", 0, "enough")
    assert found.stdout == b"begun\nsaved\n"
    assert found.stderr is not None
    assert found.stderr.startswith(b"why\n")
    assert (found.pid, found.progress, found.note) == (cancelled.pid, 0.4, "second pass")  # type: ignore[attr-defined]
    assert found.pid is not None
    assert found.duration_ms is not None
    assert 20 < found.duration_ms < 15_000
    assert found.usage["max_rss_bytes"] > 0
    shown = page(client)
    for words in ("begun\nsaved\n", "why\n", f"{found.pid}, 0", "40 %, second pass", "12 bytes"):
        assert words in shown


def test_an_operator_who_asks_twice_does_not_wait_for_the_grace() -> None:
    deaf = WORKS.replace("exit 0", "")

    async def cancel(live: Running, _: LiveTask) -> None:
        (partition,) = live.worker.partitions.values()
        assert partition.cancel_task(TASK, Skip(reason="once"))
        began = time.monotonic()
        assert partition.cancel_task(TASK, Skip(reason="twice"))
        await live.fates(1)
        assert time.monotonic() - began < 20

    found = recorded(told(deaf, cancel, kill_grace_seconds=60))
    assert (found.exit_code, found.kill_reason) == (-signal.SIGKILL, "twice")
    assert found.stdout is not None
    assert found.stdout.startswith(b"begun\n")


def test_the_end_of_an_epoch_kills_at_once_and_keeps_what_there_was() -> None:
    async def lose(live: Running, _: LiveTask) -> None:
        (partition,) = live.worker.partitions.values()
        partition.cancel_task(TASK, Skip(reason="an operator was faster"))
        began = time.monotonic()
        await partition.lose()
        assert time.monotonic() - began < 20
        await live.heard.until(lambda: bool(live.heard.of("task_cancelled")))
        assert live.heard.of("message_completed") == []

    found = recorded(told(WORKS.replace("exit 0", ""), lose, kill_grace_seconds=60))
    assert (found.state, found.exit_code) == ("paused", -signal.SIGKILL)
    assert found.stdout is not None
    assert found.stdout.startswith(b"begun\n")
    assert found.stderr is not None
    assert found.stderr.startswith(b"why\n"), "a shell may add that its sleep was terminated"
    assert found.progress == 0.4
    assert found.usage["max_rss_bytes"] > 0


def test_a_timeout_keeps_the_last_words() -> None:
    async def wait(live: Running, _: LiveTask) -> None:
        await live.fates(1)

    found = recorded(told(WORKS, wait, kill_grace_seconds=20, task_timeout_seconds=1))
    assert (found.failure, found.exit_code, found.stdout) == ("timeout", 0, b"begun\nsaved\n")
    assert (found.progress, found.note) == (0.4, "second pass")


def test_a_lost_attempt_says_what_is_known_and_that_the_rest_is_not(client: Client) -> None:
    async def shoot(live: Running, task: LiveTask) -> None:
        pid = task.pid
        assert pid is not None
        os.kill(live.worker.executor.spawner_pids[0], signal.SIGKILL)  # type: ignore[attr-defined]
        await live.heard.until(lambda: bool(live.heard.of("task_failed")))
        (failed,) = live.heard.of("task_failed")
        assert failed.pid == pid

    found = recorded(told(WORKS, shoot))
    assert (found.failure, found.progress, found.note) == ("lost", 0.4, "second pass")
    assert found.duration_ms is not None
    assert found.duration_ms > 20
    assert (found.exit_code, found.stdout, found.stderr, found.usage) == (None, None, None, {})
    shown = page(client)
    assert "none was recorded" in shown
    assert "unknown user, unknown system" in shown
