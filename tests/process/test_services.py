"""The embedded services start, answer, come back after a crash, and end."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from http.client import HTTPConnection
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import psycopg
import pytest
import requests
from confluent_kafka import Consumer, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from pymongo import MongoClient
from redis import Redis

from integration.demo.kafka import Offsets, create_topics
from integration.demo.supervisor import until
from integration.services import kafka_apache, kafka_mock, webhook
from integration.services import mongo as mongo_service
from integration.services import postgres as postgres_service
from integration.services import redis as redis_service
from integration.services.base import PARENT, Launch, Running, ServiceFailed, as_parent, dying
from integration.services.kafka_apache import RunningKafka
from integration.services.ports import LOOPBACK, free_port, reserve
from integration.services.postgres import RunningPostgres
from tests.support.services import require
from workers.broker.base import BrokerError, GroupConfig
from workers.broker.base import TopicPartition as OwnedPartition
from workers.broker.kafka import KafkaBroker
from workers.config import KafkaConfig

CHECKOUT = Path(__file__).resolve().parents[2]


def test_postgres_keeps_its_data_over_a_crash(tmp_path: Path) -> None:
    require("postgres")
    with postgres_service.running(tmp_path) as server:
        with psycopg.connect(server.dsn) as connection:
            connection.execute("CREATE TABLE kept AS SELECT 7 AS number")
        server.kill()
        server.start()
        with psycopg.connect(server.dsn) as connection:
            assert connection.execute("SELECT number FROM kept").fetchone() == (7,)
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_only_a_forgetful_postgres_leaves_its_data_to_the_machine(
    postgres: RunningPostgres,
) -> None:
    assert "fsync" not in postgres_service.SETTINGS
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SHOW fsync").fetchone() == ("off",)


def test_postgres_starts_again_although_one_of_its_processes_was_stuck(tmp_path: Path) -> None:
    require("postgres")
    with postgres_service.running(tmp_path) as server:
        stuck = psutil.Process(server.pid).children(recursive=True)[0]
        stuck.suspend()
        server.kill()
        server.start()
        assert postgres_service.answers(server.dsn)


def test_postgres_is_not_started_twice_on_the_same_data(tmp_path: Path) -> None:
    require("postgres")
    with postgres_service.running(tmp_path) as server:
        with pytest.raises(ServiceFailed, match=f"process {server.pid} already serves"):
            postgres_service.prepare(tmp_path)
        server.kill()
        until(lambda: not _serves(server.pid, tmp_path), 5.0)
        postgres_service.prepare(tmp_path, server.port)
        server.start()
        assert postgres_service.answers(server.dsn)


def _serves(pid: int, folder: Path) -> bool:
    return postgres_service.is_server(pid, folder / "data")


def test_a_port_is_reserved_for_one_launcher_at_a_time() -> None:
    wanted = free_port()
    ask = "import sys; from integration.services.ports import prefer; "
    ask += f"print(prefer({wanted}), flush=True); sys.stdin.read()"
    argv = [sys.executable, "-c", ask]
    both = [
        subprocess.Popen(argv, cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for _ in range(2)
    ]
    try:
        given = [int(one.stdout.readline()) for one in both if one.stdout is not None]
        assert len(set(given)) == 2, "nobody listens yet"
        assert wanted in given
        assert not reserve(wanted)
        for one in both:
            one.communicate(timeout=10)
        assert reserve(wanted), "what a launcher reserved goes with it"
    finally:
        for one in both:
            one.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_a_program_of_a_parent_that_is_gone_already_is_not_started(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    for parent, is_started in ((os.getpid(), True), (os.getppid(), False)):
        argv = dying(["touch", str(mark)])
        done = subprocess.run(argv, env={**os.environ, PARENT: str(parent)}, check=False)
        assert (done.returncode == 0, mark.exists()) == (is_started, is_started)
        mark.unlink(missing_ok=True)
    child = shlex.join(dying(["sh", "-c", f"echo started ${{{PARENT}:-unnamed}}"]))
    named = as_parent(["sh", "-c", f"{child}; true"])
    said = subprocess.run(named, capture_output=True, text=True, check=False)
    assert (said.returncode, said.stdout) == (0, "started unnamed\n"), "the name is not passed on"


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a parent-death signal")
def test_a_program_dies_with_its_parent_and_no_tool_is_needed_for_it(tmp_path: Path) -> None:
    child = "import time; print('up', flush=True); time.sleep(30); print('outlived its parent')"
    ask = "import subprocess, sys; subprocess.run(sys.argv[1:])"
    argv = [sys.executable, "-c", ask, *dying([sys.executable, "-c", child])]
    none = {"PATH": str(tmp_path)}
    with subprocess.Popen(argv, env=none, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        assert parent.stdout.readline() == b"up\n"
        parent.kill()
        assert parent.stdout.read() == b"", "the end of its output is the end of the child"


def test_a_program_that_dies_with_its_parent_ignores_no_signal_more() -> None:
    argv = ["grep", "SigIgn", "/proc/self/status"]
    plain, bound = (subprocess.check_output(one) for one in (argv, dying(argv)))
    assert bound == plain


def test_postgres_of_the_session_answers(postgres: RunningPostgres) -> None:
    with psycopg.connect(postgres.dsn) as connection:
        assert connection.execute("SHOW timezone").fetchone() == ("UTC",)


def test_redis_keeps_its_data_over_a_crash(tmp_path: Path) -> None:
    require("redis")
    with redis_service.running(tmp_path) as server, Redis.from_url(server.url) as client:
        assert client.hset("h", "a", "1") == 1
        server.kill()
        assert not redis_service.answers(server.url)
        server.start()
        assert client.hset("h", "a", "1") == 0
        pid = server.pid
    assert not psutil.pid_exists(pid)


def test_mongo_keeps_its_data_over_a_crash(tmp_path: Path) -> None:
    require("mongo")
    with mongo_service.running(tmp_path) as server:
        with MongoClient[dict[str, Any]](server.uri) as client:
            client["demo"]["kept"].insert_one({"_id": 7})
            server.kill()
            server.start()
            assert client["demo"]["kept"].count_documents({}) == 1
        pid = server.pid
    assert not psutil.pid_exists(pid)


@pytest.mark.parametrize("service", [redis_service, mongo_service])
def test_a_taken_port_is_told_with_the_services_own_words(service: Any, tmp_path: Path) -> None:
    require("redis")
    require("mongo")
    with socket.create_server((LOOPBACK, 0)) as taken:
        launch = service.prepare(tmp_path, taken.getsockname()[1])
        with pytest.raises(ServiceFailed, match=r"(?i)address already in use"):
            Running(launch).start()


def test_the_mock_has_the_topics_it_was_started_with(tmp_path: Path) -> None:
    require("mock")
    with kafka_mock.running(tmp_path, {"given": 7}) as mock:
        topics = AdminClient({"bootstrap.servers": mock.brokers}).list_topics(timeout=10).topics
        assert len(topics["given"].partitions) == 7


def test_offsets_of_an_empty_topic(kafka_mock: kafka_mock.RunningMock) -> None:
    kafka_mock.create_topic("empty", 3)
    offsets = Offsets(kafka_mock.brokers, "empty", "nobody", 3)
    assert offsets.ends() == {}
    assert offsets.committed() == {}


@pytest.mark.slow
def test_ends_and_commits_are_told_again_after_a_brokers_restart(tmp_path: Path) -> None:
    require("apache")
    with kafka_apache.running(tmp_path) as broker:
        create_topics(broker.brokers, ["lasting"], 3)
        producer = Producer({"bootstrap.servers": broker.brokers})
        producer.produce("lasting", b"one", partition=1)
        assert producer.flush(20) == 0
        offsets = Offsets(broker.brokers, "lasting", "asked", 3)
        assert (offsets.ends(), offsets.are_drained()) == ({1: 1}, False)
        mine = Consumer({"bootstrap.servers": broker.brokers, "group.id": "asked"})
        mine.commit(offsets=[TopicPartition("lasting", 1, 1)], asynchronous=False)
        mine.close()
        worker = KafkaBroker(
            GroupConfig.from_config(KafkaConfig(brokers=broker.brokers, topic="lasting", group="g"))
        )
        assert ends_of(worker) == [0, 1, 0]
        broker.stop()
        assert not offsets.are_drained()
        assert ends_of(worker) is None
        broker.start()
        assert until(offsets.are_drained, 60.0)
        assert until(lambda: ends_of(worker) == [0, 1, 0], 60.0)


def ends_of(worker: KafkaBroker) -> list[int] | None:
    """As a worker's watch of its topic asks: the count first, which learns of new leaders."""
    try:
        count = worker.partition_count("lasting", 3.0)
        parts = [OwnedPartition("lasting", number) for number in range(count)]
        return list(worker.end_offsets(parts, 3.0).values())
    except BrokerError:
        return None


def test_apache_creates_topics(kafka_apache: RunningKafka) -> None:
    create_topics(kafka_apache.brokers, ["made"], 5)
    client = AdminClient({"bootstrap.servers": kafka_apache.brokers})
    assert len(client.list_topics(timeout=10).topics["made"].partitions) == 5


def test_the_webhook_records_what_it_answers(tmp_path: Path) -> None:
    with webhook.running(tmp_path, free_port()) as receiver:
        assert requests.get(receiver.url + "healthz", timeout=5).status_code == 200
        assert requests.get(receiver.url, timeout=5).status_code == 200
        assert requests.get(receiver.url + "other", timeout=5).status_code == 404
        key = {"Idempotency-Key": "d1"}
        assert requests.post(receiver.url + "a", json={"n": 1}, headers=key, timeout=5).ok
        assert requests.put(receiver.url, data=b"\xff", timeout=5).status_code == 400
        assert requests.put(receiver.url, data=b"2", timeout=5).ok
        receiver.kill()
        receiver.start()
        assert _refused(receiver.url, "Content-Length", str(webhook.MAX_BODY_BYTES + 1)) == 413
        assert _refused(receiver.url, "Transfer-Encoding", "chunked") == 411
        first, second = receiver.received()
    assert (first["path"], first["idempotency_key"], first["body"]) == ("/a", "d1", {"n": 1})
    assert (second["path"], second["idempotency_key"], second["body"]) == ("/", None, 2)


def _refused(url: str, header: str, value: str) -> int:
    """The answer to headers alone."""
    connection = HTTPConnection(urlsplit(url).netloc, timeout=5)
    connection.putrequest("POST", "/")
    connection.putheader(header, value)
    connection.endheaders()
    status = connection.getresponse().status
    connection.close()
    return status


def test_a_service_that_fails_shows_its_own_last_lines(tmp_path: Path) -> None:
    launch = Launch(
        name="broken",
        argv=("sh", "-c", "echo the disk is full; exit 3"),
        log_path=tmp_path / "broken.log",
        is_ready=lambda: False,
    )
    with pytest.raises(ServiceFailed, match=r"(?s)exit code 3.*the disk is full"):
        Running(launch).start()
