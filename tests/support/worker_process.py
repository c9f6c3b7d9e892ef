"""A real ``manage.py runworker``, what it reads and writes in Kafka, and what it says meanwhile."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import psutil
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka import Message as KafkaMessage
from pydantic import BaseModel

from domain.commit import CommitMetadata
from domain.settled import Ranges
from integration.demo.faults import Family
from integration.services.base import last_lines
from integration.services.ports import free_port
from workers.handler import Handler, KafkaPayload, Message, Payload, Pending, Task, TaskResult

CHECKOUT = Path(__file__).resolve().parents[2]
CLUSTER = "p"
WAIT_SECONDS = 30.0
POLL_SECONDS = 0.02
T = TypeVar("T")


class Script(BaseModel):
    """What a message asks for: a shell script."""

    script: str


class ScriptHandler(Handler[Script]):
    """One shell script a message; its output goes to the sink ``out``."""

    async def arrange(
        self, messages: Sequence[Message[Script]], pending: Pending
    ) -> Sequence[Task]:
        """One task a message."""
        return [
            Task(args=("-c", one.payload.script), source_offsets=(one.offset,)) for one in messages
        ]

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """What the script wrote."""
        return [KafkaPayload(sink="out", value=result.stdout)]


def until(holds: Callable[[], T | None], what: str, seconds: float = WAIT_SECONDS) -> T:
    """Poll until ``holds()`` is true and return it; AssertionError naming ``what`` otherwise."""
    deadline = time.monotonic() + seconds
    while not (found := holds()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(POLL_SECONDS)
    return found


def tagged(tag: str) -> list[int]:
    """Live processes with ``tag`` among their arguments."""
    found = []
    for process in psutil.process_iter(["cmdline", "status"]):
        is_alive = process.info["status"] != psutil.STATUS_ZOMBIE
        if is_alive and tag in (process.info["cmdline"] or []):
            found.append(process.pid)
    return found


@dataclass(kw_only=True)
class Scene:
    """A source topic, its outputs, and the configuration of the workers that read it."""

    folder: Path
    brokers: str
    database_url: str
    topic: str
    executor: Mapping[str, Any] = field(default_factory=dict)
    cluster: Mapping[str, Any] = field(default_factory=dict)
    workers: list[WorkerProcess] = field(default_factory=list)

    def configuration(self) -> str:
        """The file's content (JSON is YAML)."""
        section = {
            "handler": "tests.support.worker_process:ScriptHandler",
            "drain_timeout_seconds": 10,
            "kafka": {
                "brokers": self.brokers,
                "topic": self.topic,
                "group": f"{self.topic}-group",
                "group_protocol": "consumer",
                "client": {"fetch.wait.max.ms": 50},
            },
            "executor": {
                "binary": "/bin/sh",
                "max_executors": 2,
                "spawners": 1,
                "kill_grace_seconds": 0.5,
                "retry_backoff": {"initial_seconds": 0.05},
                **self.executor,
            },
            "sinks": {"out": {"kind": "kafka", "topic": f"{self.topic}-out"}},
            "recorder": {"spool_dir": str(self.folder / "spool")},
            **self.cluster,
        }
        site = {"database_url": self.database_url, "secret_key": "s" * 50}
        return json.dumps({"site": site, "clusters": {CLUSTER: section}})

    def worker(self, name: str = "w1", **environment: str) -> WorkerProcess:
        """Start a worker; it ends with the test."""
        path = self.folder / "drakkar.yaml"
        path.write_text(self.configuration())
        started = WorkerProcess(name, self.folder / f"{name}.log", path, environment)
        self.workers.append(started)
        return started

    def produce(self, *scripts: str, partition: int = 0) -> None:
        """A message a script."""
        self.produce_raw(*(json.dumps({"script": one}).encode() for one in scripts), at=partition)

    def produce_raw(self, *values: bytes, at: int = 0) -> None:
        """Messages of any content to partition ``at``; all are stored on return."""
        producer = Producer({"bootstrap.servers": self.brokers})
        for value in values:
            producer.produce(self.topic, value, b"key", at)
        assert producer.flush(WAIT_SECONDS) == 0

    def results(self, count: int, suffix: str = "out") -> list[KafkaMessage]:
        """Everything in an output topic, once it holds ``count`` records at least."""
        return until(
            lambda: found if len(found := self.read(suffix)) >= count else None,
            f"{count} records in {self.topic}-{suffix}",
        )

    def read(self, suffix: str = "out") -> list[KafkaMessage]:
        """Everything in an output topic now."""
        topic = f"{self.topic}_{suffix}" if suffix == "dlq" else f"{self.topic}-{suffix}"
        consumer = self._consumer()
        try:
            part = TopicPartition(topic, 0, 0)
            end = consumer.get_watermark_offsets(part, timeout=10)[1]
            consumer.assign([part])
            found: list[KafkaMessage] = []
            while len(found) < end:
                message = consumer.poll(10)
                assert message is not None, f"{topic}: no record at {len(found)}"
                assert message.error() is None, message.error()
                found.append(message)
            return found
        finally:
            consumer.close()

    def committed(self) -> int:
        """The group's next offset in partition 0; negative where there is none."""
        return int(self._committed().offset)

    def settled(self) -> Ranges:
        """What the group knows to have its fate above the offset in partition 0."""
        metadata = CommitMetadata.decode(self._committed().metadata)
        return metadata.settled if metadata else ()

    def _committed(self) -> TopicPartition:
        consumer = self._consumer()
        try:
            return consumer.committed([TopicPartition(self.topic, 0)], timeout=10)[0]
        finally:
            consumer.close()

    def _consumer(self) -> Consumer:
        return Consumer(
            {
                "bootstrap.servers": self.brokers,
                "group.id": f"{self.topic}-group",
                "enable.auto.commit": False,
                "fetch.wait.max.ms": 50,
            }
        )

    def close(self) -> None:
        """No worker of this scene survives it."""
        for one in self.workers:
            one.process.kill()
            one.process.wait()


class WorkerProcess:
    """One ``runworker`` and its log."""

    def __init__(
        self, name: str, log_path: Path, config: Path, environment: Mapping[str, str]
    ) -> None:
        self._log_path = log_path
        self.port = free_port()
        metrics_port = f"DRAKKAR_CLUSTERS__{CLUSTER.upper()}__METRICS__PORT"
        argv = [sys.executable, "manage.py", "runworker", "--cluster", CLUSTER, "--name", name]
        with log_path.open("ab") as log:
            self.process = subprocess.Popen(
                argv,
                cwd=CHECKOUT,
                env={
                    **{k: v for k, v in os.environ.items() if not k.startswith("DRAKKAR_")},
                    "DRAKKAR_CONFIG": str(config),
                    metrics_port: str(self.port),
                    **environment,
                },
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
            )

    def family(self) -> Family:
        """Its descendants of now."""
        return Family(self.process.pid)

    def spawner(self) -> int:
        """The process number of the keeper of its (single) spawner."""
        children = psutil.Process(self.process.pid).children()
        return int(next(one.pid for one in children if "spawner.py" in " ".join(one.cmdline())))

    def inner_spawner(self) -> int:
        """The process number of the spawner itself, the keeper's child."""
        return int(psutil.Process(self.spawner()).children()[0].pid)

    def lines(self, event: str) -> list[dict[str, Any]]:
        """The log's lines of one event."""
        found = []
        for line in self._log_path.read_text(errors="replace").splitlines():
            if line.startswith("{") and (entry := json.loads(line)).get("event") == event:
                found.append(entry)
        return found

    def logged(self, event: str, count: int = 1) -> list[dict[str, Any]]:
        """Wait until an event was logged so often."""
        return until(
            lambda: found if len(found := self.lines(event)) >= count else None,
            f"{count} log lines {event!r}; the log ends:\n{last_lines(self._log_path)}",
        )

    @property
    def log(self) -> str:
        """The whole log."""
        return self._log_path.read_text(errors="replace")

    def get(self, path: str) -> tuple[int, str]:
        """Status and body; 0 while nobody listens."""
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=5) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as exc:
            return exc.code, exc.read().decode()
        except OSError:
            return 0, ""

    def ready(self) -> WorkerProcess:
        """Wait until ``/readyz`` is 200."""
        until(self._is_ready, f"ready; the log ends:\n{last_lines(self._log_path)}")
        return self

    def _is_ready(self) -> bool:
        assert self.process.poll() is None, last_lines(self._log_path)
        return self.get("/readyz")[0] == 200

    def metric(self, name: str) -> float:
        """The sum of a metric's samples."""
        _, text = self.get("/metrics")
        samples = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(float(value) for value in samples)

    def busy(self, count: int) -> None:
        """Wait until so many tasks run."""
        pattern = re.compile(r'^drakkar_executor_slots{[^}]*state="busy"[^}]*} (\S+)$', re.M)

        def busy() -> bool:
            found = pattern.search(self.get("/metrics")[1])
            return found is not None and float(found[1]) >= count

        until(busy, f"{count} busy slots; the log ends:\n{last_lines(self._log_path)}")

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self.process.send_signal(number)

    def exit_code(self, seconds: float = WAIT_SECONDS) -> int:
        """Wait for its end."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired as exc:
            raise AssertionError(f"still runs:\n{last_lines(self._log_path)}") from exc


def headers_of(message: KafkaMessage) -> dict[str, bytes]:
    """The record's headers."""
    pairs: Any = message.headers() or []
    return dict(pairs)


def delivery_ids(messages: Sequence[KafkaMessage]) -> list[str]:
    """The delivery id of each record. Raises KeyError where one has none."""
    return [headers_of(message)["drakkar-delivery-id"].decode() for message in messages]


class KillingHandler(ScriptHandler):
    """Its collect hook kills the worker where a script says ``die``."""

    async def collect(self, result: TaskResult) -> Sequence[Payload]:
        """What the script wrote, or nothing any more."""
        if result.stdout == b"die\n":
            os.kill(os.getpid(), signal.SIGKILL)
        return await super().collect(result)


class KillingArranger(ScriptHandler):
    """Its arrange hook kills the worker where a script says ``die``, before anything runs."""

    async def arrange(self, messages: Sequence[Message[Script]], pending: Pending) -> list[Task]:
        """As its parent, or nothing any more."""
        if any(message.payload.script == "die" for message in messages):
            os.kill(os.getpid(), signal.SIGKILL)
        return list(await super().arrange(messages, pending))


class HangingHandler(ScriptHandler):
    """Blocks the loop for ever when it is told to shut down."""

    async def on_shutdown(self) -> None:
        """Never returns, never yields."""
        signal.sigwait(set())
