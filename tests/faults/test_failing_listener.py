"""A log that cannot be written, and an error nobody caught: no partition stands because of it.

Either the work goes on and the listener's loss is counted, or the worker ends and another takes
over; never does it look well and do nothing.
"""

from __future__ import annotations

import asyncio
import errno
import io
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import orjson
import pytest

from domain.events import Tell
from sinks.backends.memory import MemorySink
from sinks.base import Delivery, PermanentError
from tests.support.pipeline import TOPIC, Running, new_cluster, running
from workers.log import log, to_stderr
from workers.pipeline.epochs import Epochs
from workers.runtime.listeners.log import configure

CHECKOUT = Path(__file__).resolve().parents[2]
PATIENCE_SECONDS = 8.0


class FullDisk(io.StringIO):
    """Refuses every write, as a full disk does, or what is written to a closed pipe."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number
        self.refused = threading.Event()

    def write(self, text: str) -> int:
        """Refuse."""
        self.refused.set()
        raise OSError(self.number, os.strerror(self.number))


@pytest.fixture(params=[errno.ENOSPC, errno.EPIPE])
def full(request: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[FullDisk]:
    """The process's log cannot be written."""
    disk = FullDisk(request.param)
    monkeypatch.setattr(sys, "stderr", disk)
    configure("INFO", "json", cluster="main", worker="w")
    yield disk
    log.configure(to_stderr, "DEBUG")


async def fates(live: Running, count: int) -> list[str]:
    async with asyncio.timeout(PATIENCE_SECONDS):
        await live.fates(count)
    return [event.fate for event in live.heard.of("message_completed")]


async def committed(live: Running, partition: int, offset: int) -> None:
    async with asyncio.timeout(PATIENCE_SECONDS):
        while live.committed(partition) != offset:  # noqa: ASYNC110 - the broker tells nobody
            await asyncio.sleep(0.02)


@pytest.mark.anyio
async def test_a_partition_assigned_while_the_log_is_full_is_worked_on(full: FullDisk) -> None:
    cluster = new_cluster(2)
    for partition in range(2):
        cluster.produce(TOPIC, partition, b'{"script": "echo done"}')
    async with running(cluster) as live:
        assert await fates(live, 2) == ["delivered", "delivered"]
        for partition in range(2):
            await committed(live, partition, 1)
        assert await live.stop() == 0
    assert full.refused.is_set()


@pytest.mark.anyio
async def test_a_payload_refused_while_the_log_is_full_gets_its_outcome(
    full: FullDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: MemorySink, batch: Sequence[Delivery]) -> None:
        raise PermanentError("refused on purpose")

    step = "send" if hasattr(MemorySink, "send") else "deliver"
    monkeypatch.setattr(MemorySink, step, refuse)
    cluster = new_cluster()
    cluster.produce(TOPIC, 0, b'{"script": "echo done"}')
    async with running(cluster) as live:
        assert await fates(live, 1) == ["dead_lettered"]
        assert len(live.letters.stored) == 1
        await committed(live, 0, 1)
    assert full.refused.is_set()


@pytest.mark.parametrize("kind", ["assigned", "consumed", "task_started", "delivered", "committed"])
@pytest.mark.anyio
async def test_a_listener_that_fails_costs_nobody_else(
    kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the listener, and wherever the event is told from."""
    from workers.runtime.listeners.counters import Counters

    sound = Counters.listener_of

    def of(self: Counters, heard: str) -> Tell | None:
        return raising if heard == kind else sound(self, heard)

    monkeypatch.setattr(Counters, "listener_of", of)
    cluster = new_cluster()
    for number in range(3):
        cluster.produce(TOPIC, 0, b'{"script": "echo %d"}' % number)
    async with running(cluster) as live:
        assert await fates(live, 3) == ["delivered"] * 3
        await committed(live, 0, 3)
        assert live.heard.of(kind), "the other listeners heard it"
        assert live.worker.counters.listener_errors["figures"] >= 1
        assert await live.stop() == 0


def raising(*args: Any, **kwargs: Any) -> None:
    """Stands for a fault in a step."""
    raise RuntimeError("broken on purpose")


async def exit_code_with(change: Callable[[], None]) -> int:
    """How a worker with one message ends, when nobody tells it to."""
    cluster = new_cluster()
    cluster.produce(TOPIC, 0, b'{"script": "echo done"}')
    async with running(cluster) as live:
        change()
        async with asyncio.timeout(PATIENCE_SECONDS):
            return await live.done


@pytest.mark.parametrize("step", ["assigned", "handed_over", "committed"])
@pytest.mark.anyio
async def test_a_step_told_by_the_consumer_thread_that_fails_ends_the_worker(
    step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert await exit_code_with(lambda: monkeypatch.setattr(Epochs, step, raising)) == 1


@pytest.mark.anyio
async def test_a_lane_whose_report_cannot_be_taken_in_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sinks.lane import _Figures

    assert await exit_code_with(lambda: monkeypatch.setattr(_Figures, "_count", raising)) == 1


@pytest.mark.anyio
async def test_an_answer_of_a_spawner_that_cannot_be_taken_in_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from workers.executor import spawn

    assert await exit_code_with(lambda: monkeypatch.setattr(spawn, "exit_of_ended", raising)) == 1


@pytest.mark.anyio
async def test_a_dead_letter_thread_that_dies_ends_the_worker(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from sinks.record_writer import RecordWriter

    monkeypatch.setattr(RecordWriter, "_take_in", raising)
    assert await exit_code_with(lambda: None) == 1


@pytest.mark.anyio
async def test_what_a_handlers_own_forgotten_task_raises_is_counted_and_ends_nothing() -> None:
    cluster = new_cluster()
    async with running(cluster) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        loop = asyncio.get_running_loop()
        loop.call_exception_handler({"message": "Task exception was never retrieved"})
        cluster.produce(TOPIC, 0, b'{"script": "echo done"}')
        assert await fates(live, 1) == ["delivered"]
        assert live.worker.counters.uncaught["task"] == 1
        assert await live.stop() == 0


@pytest.mark.anyio
async def test_a_callback_of_a_library_that_fails_is_counted_and_ends_nothing() -> None:
    """As asyncio's and clients' own do now and then when a connection ends."""
    cluster = new_cluster()
    async with running(cluster) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        loop = asyncio.get_running_loop()
        settled = loop.create_future()
        settled.set_result(None)
        loop.call_soon(settled.set_result, None)
        loop.call_soon_threadsafe(orjson.loads, b"{")
        cluster.produce(TOPIC, 0, b'{"script": "echo done"}')
        assert await fates(live, 1) == ["delivered"]
        assert live.worker.counters.uncaught["callback"] == 2
        assert await live.stop() == 0


@pytest.mark.anyio
@pytest.mark.parametrize("how", ["a function", "a mock"])
async def test_a_callback_of_anybody_else_that_fails_ends_the_worker(how: str) -> None:
    call = raising if how == "a function" else mock.Mock(side_effect=RuntimeError("on purpose"))

    async with running(new_cluster()) as live:
        await live.heard.until(lambda: bool(live.heard.of("assigned")))
        asyncio.get_running_loop().call_soon_threadsafe(call)
        async with asyncio.timeout(PATIENCE_SECONDS):
            assert await live.done == 1


def run_program(text: str, **streams: Any) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(text)], cwd=CHECKOUT, timeout=60, check=False,
        **streams,
    )  # fmt: skip


def test_the_last_resort_ends_the_process_though_stderr_is_full() -> None:
    """Its last words must not keep it from ending."""
    with Path("/dev/full").open("wb") as nowhere:
        done = run_program(
            """
            import time
            from workers.runtime.listeners.streams import end_process_at
            end_process_at(0.2, exit_code=7)
            time.sleep(5)
            """,
            stderr=nowhere,
        )
    assert done.returncode == 7


def test_a_reader_that_stands_still_does_not_hold_what_logs() -> None:
    """A pipe that nobody reads is full after 64 KiB."""
    read_end, write_end = os.pipe()
    try:
        done = run_program(
            """
            import sys, time
            from workers.runtime.listeners.streams import end_process_at
            from workers.runtime.listeners.log import configure, LogListener
            from domain.events import WorkerLost
            configure("INFO", "json")
            end_process_at(20, exit_code=9)
            tell, event = LogListener(0), WorkerLost(
                at=1.0, lost_run="r" * 1000, cluster="c", worker="w", silent_seconds=1.0)
            for _ in range(2000):
                tell(event)
            import os
            os._exit(0)
            """,
            stderr=write_end,
        )
    finally:
        os.close(write_end)
        os.close(read_end)
    assert done.returncode == 0
