"""The demo from start to end: services, topics, tables, web page, workers, producer, verdict."""

from __future__ import annotations

import os
import secrets
import shutil
import subprocess
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import psycopg

from integration.demo.clusters import (
    CLUSTERS,
    KAFKA,
    MAIN,
    PAGE_PORTS,
    SOURCE_TOPIC,
    WORKER_PORTS,
    Cluster,
)
from integration.demo.config import (
    cluster_names,
    config_path,
    session_timeout_ms,
    stop_seconds,
    topics_wanted,
)
from integration.demo.faults import BrokenProgram, Fault, Scenario, count_fates, stop_all, strike
from integration.demo.folder import CHECKOUT, RUN, socket_path, wipe, write_state
from integration.demo.kafka import Offsets, Sampler, await_return, create_topics, kafka_kind
from integration.demo.plan import (
    BROKEN,
    FAULTY_WORKER,
    Addresses,
    Options,
    Program,
    Secrets,
    own_programs,
    service_program,
    shared_environment,
    verdict_argv,
)
from integration.demo.running import FaultInjector, RunningDemo
from integration.demo.steps import migrate, stage, start_services, start_web
from integration.demo.supervisor import ENDED, Supervisor
from integration.demo.terminal_env import (
    remove_terminal_env,
    terminal_environment,
    write_terminal_env,
)
from integration.services import (
    kafka_apache,
    kafka_mock,
    mongo,
    postgres,
    prometheus,
    redis,
    webhook,
)
from integration.services.base import Launch, ServiceFailed, last_lines
from integration.services.ports import LOOPBACK, prefer

WATCH_SECONDS = 0.25
BROKEN_AFTER_FATES = 100

NO_KAFKA_UI = "Kafka UI is in no package registry, Compose runs its image"
RESULTS_TABLE = CHECKOUT / "integration" / "sql" / "search_results.sql"


class Stack:
    """Everything one ``up`` runs; ``start``, then ``watch``, and always ``close``."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._kafka_kind = kafka_kind(options.kafka)
        ports = {name: prefer(port) for name, port in WORKER_PORTS.items()}
        database_port = prefer(5432)
        self._addresses = Addresses(
            web_port=prefer(8000),
            postgres_port=database_port,
            controller_port=prefer(9096),
            webhook_port=prefer(9000),
            redis_port=prefer(6379),
            mongo_port=prefer(27017),
            worker_ports=ports,
            database_url=postgres.database_url(database_port),
            full_ports=_full_ports() if options.full else {},
            page_ports=_page_ports() if options.full else {},
        )
        self._secrets = _secrets(os.environ)
        self._shared = shared_environment(
            self._addresses, self._secrets, options.speed, os.environ, RUN
        )
        self._environment = {**os.environ, **self._shared}
        self._stop_seconds = stop_seconds(self._environment, options)
        self._socket = socket_path()
        self._supervisor = Supervisor(RUN, self._socket, self._environment)
        self._launches: Mapping[str, Launch] = {}
        self._samplers: list[Sampler] = []
        self._drained = threading.Event()

    def start(self) -> None:
        """Bring everything up, in order. Raises ServiceFailed or ServiceUnavailable."""
        wipe()
        with stage("prepare the services"):
            services = self._launches = self._services()
        with stage("supervisord"):
            self._supervisor.start(service_program(one, name) for name, one in services.items())
        self._await_services(services)
        with stage("topics, tables"):
            self._create_topics()
            self._create_tables()
        self._supervisor.add(self._own_programs())
        longest = max(self._stop_seconds.values())
        write_state(self._socket, self._ports(), self._supervisor.versions(), longest)
        write_terminal_env(RUN, self._terminal_environment())
        if self._options.is_judged:
            self._start_samplers()
        with stage("web page"):
            start_web(self._supervisor, self._addresses.web_port, RUN / "logs" / "web.log")
        browsers = ["browsers"] if self._addresses.full_ports else []
        for name in ("controller", *self._addresses.worker_ports, *browsers, "producer"):
            self._supervisor.launch(name)

    def close(self) -> None:
        """End every process. Safe to call at any moment after the constructor."""
        remove_terminal_env(RUN)
        self._stop_samplers()
        self._supervisor.close()

    def kill(self) -> None:
        """End every process at once."""
        self._supervisor.kill()

    def _start_samplers(self) -> None:
        (RUN / "faults.jsonl").touch()
        for cluster in CLUSTERS:
            sampler = Sampler(self._offsets(cluster), cluster.committed_path(RUN))
            self._samplers.append(sampler)
            sampler.start()

    def _stop_samplers(self) -> None:
        for sampler in self._samplers:
            sampler.stop()

    def _services(self) -> dict[str, Launch]:
        database = postgres.prepare(RUN / "postgres", self._addresses.postgres_port)
        if self._kafka_kind == "apache":
            port = prefer(9092)
            kafka = kafka_apache.prepare(RUN / "kafka", port)
            self._set_brokers(f"127.0.0.1:{port}")
        else:
            topics = dict.fromkeys(topics_wanted(self._environment), self._options.partitions)
            session_ms = session_timeout_ms(self._environment)
            kafka = kafka_mock.prepare(RUN / "kafka", topics, session_ms)
        receiver = webhook.prepare(RUN / "webhook", self._addresses.webhook_port)
        more = {}
        if "prometheus" in self._addresses.full_ports:
            more["prometheus"] = self._prometheus()
        return {
            **more,
            "postgres": database,
            "kafka": kafka,
            "redis": redis.prepare(RUN / "redis", self._addresses.redis_port),
            "mongo": mongo.prepare(RUN / "mongo", self._addresses.mongo_port),
            "webhook": receiver,
        }

    def _prometheus(self) -> Launch:
        at = self._addresses
        moved = {port: at.worker_ports[name] for name, port in WORKER_PORTS.items()}
        moved |= {9096: at.controller_port, 8000: at.web_port}
        return prometheus.prepare(RUN / "prometheus", at.full_ports["prometheus"], moved)

    def _set_brokers(self, brokers: str) -> None:
        self._addresses = replace(self._addresses, brokers=brokers)

    def _await_services(self, services: Mapping[str, Launch]) -> None:
        start_services(self._supervisor, services)
        if self._kafka_kind == "mock":
            self._set_brokers((RUN / "kafka" / "brokers").read_text().strip())

    def _create_topics(self) -> None:
        if self._kafka_kind == "apache":
            wanted = topics_wanted(self._environment)
            create_topics(self._addresses.brokers, wanted, self._options.partitions)

    def _create_tables(self) -> None:
        postgres.ensure_database(self._addresses.postgres_port)
        with psycopg.connect(self._addresses.database_url) as connection:
            connection.execute(RESULTS_TABLE.read_bytes())
        migrate(self._environment, CHECKOUT, RUN / "logs" / "migrate.log")

    def _own_programs(self) -> list[Program]:
        return own_programs(self._addresses, self._options, RUN / "logs", self._stop_seconds)

    def _offsets(self, cluster: Cluster) -> Offsets:
        brokers, partitions = self._addresses.brokers, self._options.partitions
        return Offsets(brokers, SOURCE_TOPIC, cluster.group, partitions, cluster.retry_topic)

    def _terminal_environment(self) -> dict[str, str]:
        return terminal_environment(
            self._shared,
            brokers=self._addresses.brokers,
            clusters=cluster_names(self._environment),
            config=config_path(self._environment),
            url=f"http://{LOOPBACK}:{self._addresses.web_port}",
        )

    def _ports(self) -> dict[str, int | str]:
        addresses = self._addresses
        return {
            "web": addresses.web_port,
            "postgres": addresses.postgres_port,
            "kafka": int(addresses.brokers.rpartition(":")[2]),
            "controller": addresses.controller_port,
            "webhook": addresses.webhook_port,
            "redis": addresses.redis_port,
            "mongo": addresses.mongo_port,
            **addresses.worker_ports,
            **addresses.shown_full_ports,
        }

    def table(self) -> str:
        """URL, what it is, how to log in."""
        at = self._addresses
        web = f"http://127.0.0.1:{at.web_port}/"
        password = self._secrets.admin_password
        rows = [
            (f"{web}?token={self._secrets.auth_token}", "control plane, logged in by this link"),
            (web, f"control plane; admin / {password}"),
            (f"{web}api/v1/dashboard", "API; Authorization: Bearer <the token above>"),
            *(
                (f"http://127.0.0.1:{port}/metrics", f"{name}: metrics, /healthz, /readyz")
                for name, port in at.worker_ports.items()
            ),
            (f"http://127.0.0.1:{at.controller_port}/metrics", "controller: metrics"),
            (at.brokers, f"Kafka ({self._kafka_kind}), no login"),
            (at.database_url, "PostgreSQL, no password from this machine"),
            (at.mongo_uri, "MongoDB, no login; database drakkar"),
            (at.redis_url, "Redis, no login"),
            (f"http://127.0.0.1:{at.webhook_port}/", "webhook receiver, no login"),
            *self._full_rows(password),
            (f"{RUN / 'files'}/", "what the file sink wrote"),
            (f"{RUN / 'logs'}/", "a log a process"),
            (f"source {RUN / 'env'}", "in another terminal, before commands of yours"),
        ]
        width = max(len(url) for url, _ in rows)
        return "\n".join(f"  {url:<{width}}  {what}" for url, what in rows)

    def _full_rows(self, password: str) -> list[tuple[str, str]]:
        what = {
            "prometheus": "Prometheus with the alert rules, no login",
            "topics": f"Kafka topics: leads to the control plane's page; {NO_KAFKA_UI}",
            "mongo-browser": f"MongoDB browser, read-only; admin / {password}",
            "redis-browser": f"Redis browser, read-only; admin / {password}",
        }
        ports = self._addresses.full_ports
        rows = [(f"http://127.0.0.1:{port}/", what[name]) for name, port in ports.items()]
        rows += [
            (f"http://127.0.0.1:{port}/", f"{name}: leads to its page")
            for name, port in self._addresses.page_ports.items()
        ]
        if ports and "prometheus" not in ports:
            rows.append(("-", "Prometheus: not installed here (Debian: prometheus)"))
        return rows

    def demo(self) -> RunningDemo:
        """Return what the chaos test may do and look at; after ``start``."""
        patience = max(self._stop_seconds.values())
        injector = FaultInjector(
            self._supervisor, RUN / "faults.jsonl", patience, self._await_kafka
        )
        return RunningDemo(
            web_url=f"http://127.0.0.1:{self._addresses.web_port}/",
            auth_token=self._secrets.auth_token,
            messages=self._options.messages,
            partitions=self._options.partitions,
            speed=self._options.speed,
            worker_ports={name: self._addresses.worker_ports[name] for name in MAIN.ports},
            count_fates=self._count_fates,
            is_drained=self._drained.is_set,
            act=injector.act,
        )

    def _await_kafka(self) -> float:
        kafka = self._launches[KAFKA]
        return await_return(kafka, self._samplers, lambda: self._supervisor.ended(KAFKA))

    def watch(self, scenarios: Sequence[Scenario] = ()) -> int:
        """Stay until the end: of time, or with --until-drained of the backlog. An exit code."""
        faults = [*self._faults(), *scenarios]
        for fault in faults:
            fault.start()
        groups = [self._offsets(cluster) for cluster in CLUSTERS]
        while True:
            self._check(faults)
            if self._options.until_drained and self._is_drained(groups):
                self._drained.set()
                if not any(fault.is_alive() for fault in faults):
                    self._check(faults)
                    return self._judge()
                self._hurry(faults)
            time.sleep(WATCH_SECONDS)

    def _hurry(self, faults: Sequence[Scenario]) -> None:
        """Everything has its fate: once its history is flushed, a fault not due never will be."""
        kinds = (Fault, BrokenProgram)
        waiting = [fault for fault in faults if isinstance(fault, kinds) and fault.is_alive()]
        if waiting and self._count_fates() >= self._options.messages:
            for fault in waiting:
                fault.give_up()

    def _check(self, faults: Sequence[Scenario]) -> None:
        """Raises ServiceFailed when nothing more can come of this run."""
        for fault in faults:
            if fault.problem:
                raise ServiceFailed(fault.problem)
        if not self._supervisor.is_alive:
            raise ServiceFailed("supervisord ended; everything it ran died with it")
        if self._kafka_kind == "mock" and self._has_ended("kafka"):
            raise ServiceFailed(
                "the mock Kafka ended, and with it its topics and its address: start again;"
                f" the end of its log:\n{last_lines(RUN / 'kafka' / 'kafka-mock.log')}"
            )
        for cluster in CLUSTERS if self._options.until_drained else ():
            if all(self._has_ended(name) for name in cluster.ports):
                log = RUN / "logs" / f"{next(iter(cluster.ports))}.log"
                raise ServiceFailed(
                    f"every worker of {cluster.name} ended; the end of {log}:\n{last_lines(log)}"
                )

    def _has_ended(self, name: str) -> bool:
        return self._supervisor.info(name)["statename"] in ENDED

    def _is_drained(self, groups: Iterable[Offsets]) -> bool:
        if not self._has_ended("producer"):
            return False
        code = self._supervisor.info("producer")["exitstatus"]
        if code != 0:
            log = RUN / "logs" / "producer.log"
            raise ServiceFailed(f"producer: exit code {code}:\n{last_lines(log)}")
        return all(offsets.are_drained() for offsets in groups)

    def _faults(self) -> list[Scenario]:
        asked = {"kill": self._options.kill_worker_at, "stop": self._options.stop_worker_at}
        faults: list[Scenario] = [
            Fault(kind, at, self._count_fates, self._strike)
            for kind, at in asked.items()
            if at is not None
        ]
        if (seconds := self._options.break_program_seconds) is not None:
            broken = BrokenProgram(RUN / BROKEN, seconds, BROKEN_AFTER_FATES, self._count_fates)
            faults.append(broken)
        return faults

    def _count_fates(self) -> int:
        return count_fates(self._addresses.database_url, MAIN.name)

    def _strike(self, kind: str) -> int:
        pid = int(self._supervisor.info(FAULTY_WORKER)["pid"])
        seconds = self._stop_seconds[FAULTY_WORKER]
        return strike(pid, kind, FAULTY_WORKER, RUN / "faults.jsonl", seconds)

    def _judge(self) -> int:
        """Workers stop first, so that their whole history is written. The verdict's exit code."""
        print("  drained; stopping the workers", flush=True)
        infos = {name: self._supervisor.info(name) for name in self._addresses.worker_ports}
        pids = {name: int(info["pid"]) for name, info in infos.items() if info["pid"]}
        stop_all(pids, self._supervisor.stop, RUN / "faults.jsonl")
        self._stop_samplers()
        report = self._options.report or RUN / "report.json"
        argv = verdict_argv(self._addresses, RUN, Path(report))
        done = subprocess.run(argv, cwd=CHECKOUT, env=self._environment, check=False)
        return done.returncode


def _full_ports() -> dict[str, int]:
    wanted = {"topics": 8088, "mongo-browser": 8089, "redis-browser": 8087}
    if shutil.which("prometheus"):
        wanted = {"prometheus": 9099, **wanted}
    return {name: prefer(port) for name, port in wanted.items()}


def _page_ports() -> dict[str, int]:
    return {name: prefer(port) for name, port in PAGE_PORTS.items()}


def _secrets(given: Mapping[str, str]) -> Secrets:
    return Secrets(
        secret_key=given.get("DRAKKAR_SITE__SECRET_KEY") or secrets.token_urlsafe(48),
        auth_token=given.get("DRAKKAR_SITE__AUTH_TOKEN") or secrets.token_urlsafe(24),
        admin_password=given.get("DRAKKAR_SITE__ADMIN_PASSWORD") or secrets.token_urlsafe(12),
    )
