"""librdkafka's own mock cluster, driven by ctypes in a process of its own.

It needs no Java, starts in 0.1 s, keeps everything in memory, chooses its port by itself, and can
be told to fail. ``python -m integration.services.kafka_mock --port-file F --topics a:50,b:50``
writes its address to F and then reads commands, one JSON list a line, from standard input.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager
from pathlib import Path

import confluent_kafka

from integration.services.base import (
    Launch,
    Running,
    ServiceUnavailable,
    await_ready,
    dying,
    started,
)

PRODUCER = 0
REBALANCE_DELAY_MS = 500
SESSION_TIMEOUT_MS = 6000
ERROR_BYTES = 512


def library_path() -> Path:
    """The librdkafka inside the confluent-kafka wheel. Raises ServiceUnavailable."""
    package = Path(confluent_kafka.__file__).parent
    for folder in (package.parent / "confluent_kafka.libs", package / ".dylibs"):
        for found in sorted(folder.glob("librdkafka*")):
            return found
    raise ServiceUnavailable("mock Kafka: this confluent-kafka carries no librdkafka: pip's wheel")


class MockCluster:
    """One broker in this process's memory. The calls mirror rdkafka_mock.h."""

    def __init__(self, brokers: int = 1) -> None:
        self._lib = ctypes.CDLL(str(library_path()))
        self._client = self._new_client()
        make = self._lib.rd_kafka_mock_cluster_new
        make.restype = ctypes.c_void_p
        make.argtypes = [ctypes.c_void_p, ctypes.c_int]
        self._cluster = ctypes.c_void_p(make(self._client, brokers))
        self._tune()

    def _new_client(self) -> ctypes.c_void_p:
        self._lib.rd_kafka_conf_new.restype = ctypes.c_void_p
        new = self._lib.rd_kafka_new
        new.restype = ctypes.c_void_p
        new.argtypes = [ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p, ctypes.c_size_t]
        error = ctypes.create_string_buffer(ERROR_BYTES)
        client = new(PRODUCER, self._lib.rd_kafka_conf_new(), error, ERROR_BYTES)
        if not client:
            raise ServiceUnavailable(f"mock Kafka: {error.value.decode()}")
        return ctypes.c_void_p(client)

    def _tune(self) -> None:
        self.call("set_controller_id", 1)
        self.call("group_initial_rebalance_delay_ms", REBALANCE_DELAY_MS)
        self.call("set_group_consumer_session_timeout_ms", SESSION_TIMEOUT_MS)

    @property
    def brokers(self) -> str:
        """Bootstrap servers."""
        address = self._lib.rd_kafka_mock_cluster_bootstraps
        address.restype = ctypes.c_char_p
        address.argtypes = [ctypes.c_void_p]
        return str(address(self._cluster).decode())

    def call(self, name: str, *args: int | str) -> None:
        """``rd_kafka_mock_<name>(cluster, *args)``; integers and texts only."""
        values = [v.encode() if isinstance(v, str) else ctypes.c_int(v) for v in args]
        getattr(self._lib, f"rd_kafka_mock_{name}")(self._cluster, *values)

    def create_topic(self, name: str, partitions: int) -> None:
        """Make a topic (the mock knows no CreateTopics request)."""
        self.call("topic_create", name, partitions, 1)

    def push_errors(self, api_key: int, *codes: int) -> None:
        """The next requests with this ApiKey fail with these error codes, one each."""
        self.call("push_request_errors", api_key, len(codes), *codes)


class RunningMock(Running):
    """The mock in a helper process."""

    def __init__(self, launch: Launch, port_file: Path) -> None:
        super().__init__(launch)
        self._port_file = port_file

    @property
    def brokers(self) -> str:
        """Bootstrap servers of the running mock."""
        return self._port_file.read_text().strip()

    def start(self) -> float:
        """A new, empty cluster on a new port."""
        self._port_file.unlink(missing_ok=True)
        return super().start()

    def create_topic(self, name: str, partitions: int = 50) -> None:
        """Make a topic; visible at once."""
        self._tell("topic_create", name, partitions, 1)

    def broker_down(self) -> None:
        """The broker closes its connections and refuses new ones, keeping its data."""
        self._tell("broker_set_down", 1)

    def broker_up(self) -> None:
        """Take back ``broker_down``."""
        self._tell("broker_set_up", 1)

    def broker_rtt(self, milliseconds: int) -> None:
        """Each answer takes this much longer."""
        self._tell("broker_set_rtt", 1, milliseconds)

    def push_errors(self, api_key: int, *codes: int) -> None:
        """The next requests with this ApiKey fail with these error codes, one each."""
        self._tell("push_request_errors", api_key, len(codes), *codes)

    def session_timeout(self, milliseconds: int) -> None:
        """Set how long a silent member of a ``consumer`` group is waited for."""
        self._tell("set_group_consumer_session_timeout_ms", milliseconds)

    def delay(self, api_key: int, milliseconds: int) -> None:
        """The next request with this ApiKey is answered so much later."""
        self._tell("broker_push_request_error_rtts", 1, api_key, 1, 0, milliseconds)

    def withdraw(self, api_key: int) -> None:
        """Offer this ApiKey no longer, as a broker too old for it."""
        self._tell("set_apiversion", api_key, -1, -1)

    def _tell(self, name: str, *args: int | str) -> None:
        acknowledged = self._port_file.with_suffix(".ack")
        acknowledged.unlink(missing_ok=True)
        pipe = self.process.stdin
        if pipe is None:
            raise RuntimeError("the mock was not started by this process")
        pipe.write(json.dumps([name, *args]).encode() + b"\n")
        pipe.flush()
        self._await(acknowledged)

    def _await(self, acknowledged: Path) -> None:
        done = Launch(
            name="mock command",
            argv=(),
            log_path=self.launch.log_path,
            is_ready=acknowledged.exists,
            ready_seconds=5.0,
        )
        await_ready(done, self._ended)


def prepare(
    folder: Path,
    topics: Mapping[str, int] | None = None,
    session_timeout_ms: int = SESSION_TIMEOUT_MS,
) -> Launch:
    """Return how to start the mock; its address appears in ``<folder>/brokers``.

    It has one session timeout for all groups: no member can set one.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port_file = folder / "brokers"
    listed = ",".join(f"{name}:{count}" for name, count in (topics or {}).items())
    argv = [sys.executable, "-m", "integration.services.kafka_mock"]
    argv += ["--port-file", str(port_file), "--topics", listed]
    argv += ["--session-timeout-ms", str(session_timeout_ms)]
    return Launch(
        name="kafka (mock)",
        argv=dying(argv),
        log_path=folder / "kafka-mock.log",
        is_ready=port_file.exists,
        env={"PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        ready_seconds=20.0,
        stop_seconds=5.0,
        version=f"librdkafka {confluent_kafka.libversion()[0]}",
        keeps_data=False,
    )


def running(
    folder: Path, topics: Mapping[str, int] | None = None
) -> AbstractContextManager[RunningMock]:
    """The mock as a context manager. Raises ServiceUnavailable or ServiceFailed."""
    return started(RunningMock(prepare(folder, topics), folder / "brokers"))


def parse_topics(text: str) -> dict[str, int]:
    """``a:50,b:8`` as a mapping; ValueError on anything else."""
    pairs = [part.rpartition(":") for part in text.split(",") if part]
    return {name: int(count) for name, _, count in pairs}


def obey(cluster: MockCluster, lines: Iterator[str], acknowledged: Path) -> None:
    """Carry out one command a line until the input ends; each is acknowledged by a file."""
    for line in lines:
        name, *args = json.loads(line)
        cluster.call(name, *args)
        acknowledged.write_text(line)


def write_address(port_file: Path, brokers: str) -> None:
    """Write the address so that a reader never sees half of it."""
    partial = port_file.with_suffix(".partial")
    partial.write_text(brokers)
    partial.replace(port_file)


def main() -> None:
    """Run the mock until SIGTERM or SIGINT."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port-file", type=Path, required=True)
    parser.add_argument("--topics", type=parse_topics, default={}, metavar="NAME:PARTITIONS,...")
    parser.add_argument("--session-timeout-ms", type=int, default=SESSION_TIMEOUT_MS)
    options = parser.parse_args()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_DFL)
    cluster = MockCluster()
    cluster.call("set_group_consumer_session_timeout_ms", options.session_timeout_ms)
    for name, partitions in options.topics.items():
        cluster.create_topic(name, partitions)
    write_address(options.port_file, cluster.brokers)
    obey(cluster, iter(sys.stdin), options.port_file.with_suffix(".ack"))
    signal.pause()


if __name__ == "__main__":
    main()
