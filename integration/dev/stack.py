"""``drakkar dev`` from start to end: services, tables, page, controller, one worker."""

from __future__ import annotations

import getpass
import os
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from domain.printable import printable
from drakkar_site.config.sources import State, load
from integration.demo.folder import RUN, socket_path, wipe, write_state
from integration.demo.plan import Secrets, service_program
from integration.demo.steps import migrate, stage, start_services, start_web
from integration.demo.supervisor import Supervisor
from integration.demo.terminal_env import (
    remove_terminal_env,
    terminal_environment,
    write_terminal_env,
)
from integration.dev.changes import ticks
from integration.dev.first_fates import Ended, first_fates
from integration.dev.plan import (
    WORKER,
    Options,
    Ports,
    broker_environment,
    group_of_ones_own,
    process_environment,
    programs,
    shared_environment,
    sinks_outside,
    topics_of,
)
from integration.services import kafka_mock, postgres
from integration.services.base import Launch, ServiceFailed, last_lines
from integration.services.ports import LOOPBACK, prefer
from workers.config import ClusterConfig

ASK_EVERY_SECONDS = 0.5
RUNNING = ("STARTING", "RUNNING")


class BadUse(ValueError):
    """Raised for a configuration or an option that cannot be used; the text says what can."""


@dataclass(slots=True)
class LogReader:
    """Reads on in a log that another process writes and may replace."""

    path: Path
    _position: int = 0

    def read(self) -> str:
        """Return what was written since the last time; a line of which the end is missing waits."""
        try:
            with self.path.open("rb") as log:
                if log.seek(0, os.SEEK_END) < self._position:
                    self._position = 0
                log.seek(self._position)
                text = log.read()
        except OSError:
            return ""
        whole = text[: text.rfind(b"\n") + 1]
        self._position += len(whole)
        return whole.decode(errors="replace")


class DevStack:
    """All that one ``drakkar dev`` runs; ``start``, then ``watch``, and always ``close``."""

    def __init__(self, options: Options, folder: Path, given: Mapping[str, str]) -> None:
        """Raises BadUse."""
        self._options = options
        self._folder = folder
        self._state = load(given)
        config, self._cluster = self._state.config, chosen_cluster(self._state, options.cluster)
        if config is None:
            raise BadUse("the configuration cannot be used")
        self._config = config
        self._own: ClusterConfig = config.clusters[self._cluster]
        self._ports = Ports(
            web=prefer(8000), controller=prefer(9096), worker=prefer(self._own.metrics.port or 9090)
        )
        self._postgres_port = 0 if options.database_url else prefer(5432)
        self._database_url = options.database_url or postgres.database_url(self._postgres_port)
        self._secrets = Secrets(
            secret_key=secrets.token_urlsafe(48),
            auth_token=given.get("DRAKKAR_SITE__AUTH_TOKEN") or secrets.token_urlsafe(24),
            admin_password=secrets.token_urlsafe(12),
        )
        self._shared = shared_environment(
            self._ports, self._secrets, self._database_url, config, RUN
        )
        self._environment = {**given, **self._shared, **process_environment(folder, given)}
        self._socket = socket_path()
        self._supervisor = Supervisor(RUN, self._socket, self._environment, folder)
        self._log = LogReader(RUN / "logs" / f"{WORKER}.log")
        self._brokers = options.brokers
        self._begun_at = time.time()
        self._told: set[str] = set()
        self._asked_at = 0.0
        self._has_said_end = False

    @property
    def _group(self) -> str:
        """Consumer group of the worker at a Kafka of others: nobody else's."""
        try:
            user = getpass.getuser()
        except (KeyError, OSError):  # a container's user may have no name
            user = str(os.getuid())
        return f"{self._own.kafka.group}-dev-{user}"

    @property
    def url(self) -> str:
        """Address of the page."""
        return f"http://{LOOPBACK}:{self._ports.web}"

    def start(self) -> None:
        """Bring everything up, in order. Raises ServiceFailed or ServiceUnavailable."""
        wipe()
        with stage("prepare the services"):
            services = self._services()
        self._supervisor.start(service_program(one, name) for name, one in services.items())
        start_services(self._supervisor, services)
        if not self._options.brokers:
            self._brokers = (RUN / "kafka" / "brokers").read_text().strip()
        with stage("tables"):
            if self._postgres_port:
                postgres.ensure_database(self._postgres_port)
            migrate(self._environment, self._folder, RUN / "logs" / "migrate.log")
        more = broker_environment(self._brokers, self._config)
        if self._options.brokers:
            more |= group_of_ones_own(self._cluster, self._group)
        logs = RUN / "logs"
        self._supervisor.add(programs(self._cluster, self._own, self._ports, more, logs))
        self._write_what_others_need(more)
        with stage("web page"):
            start_web(self._supervisor, self._ports.web, logs / "web.log")
        self._supervisor.launch("controller")
        self._supervisor.launch(WORKER)

    def _services(self) -> dict[str, Launch]:
        services = {}
        if self._postgres_port:
            services["postgres"] = postgres.prepare(
                RUN / "postgres", self._postgres_port, postgres.FORGETFUL
            )
        if not self._options.brokers:
            session_ms = self._own.kafka.session_timeout_ms or kafka_mock.SESSION_TIMEOUT_MS
            services["kafka"] = kafka_mock.prepare(
                RUN / "kafka", topics_of(self._config), session_ms
            )
        return services

    def _write_what_others_need(self, more: Mapping[str, str]) -> None:
        ports: dict[str, int | str] = {
            "web": self._ports.web,
            "postgres": self._postgres_port or "-",
            "kafka": self._brokers,
            "controller": self._ports.controller,
            WORKER: self._ports.worker,
        }
        drain_seconds = round(self._own.drain_timeout_seconds)
        write_state(self._socket, ports, self._supervisor.versions(), drain_seconds)
        variables = terminal_environment(
            {**self._shared, **more},
            brokers=self._brokers,
            clusters=list(self._config.clusters),
            config=self._state.path,
            url=self.url,
        )
        write_terminal_env(RUN, variables)

    def close(self) -> None:
        """End every process. Safe to call at any moment after the constructor."""
        remove_terminal_env(RUN)
        self._supervisor.close()

    def kill(self) -> None:
        """End every process at once."""
        self._supervisor.kill()

    def table(self) -> str:
        """What is where, and what to type next."""
        topic = self._own.kafka.topic
        own = f"as group {self._group}" if self._options.brokers else "in memory"
        lines = [
            f"  {self.url}/?token={self._secrets.auth_token}  the page, logged in by this link",
            f"  {self._brokers}  Kafka ({own})",
            f"  {self._database_url if self._postgres_port else '--database-url'}  PostgreSQL",
            f"  {RUN}/logs/  a log a process; the worker's follows here",
            *(
                f"  sink {name} ({kind}) delivers to where the configuration says"
                for name, kind in sinks_outside(self._own)
            ),
            "",
            f"Worker of cluster {self._cluster}; it starts again when a file of yours changes.",
            f"In another terminal: drakkar send {topic} '{{...}}'",
        ]
        return "\n".join(lines)

    def watch(self) -> None:
        """Show the worker's log and start it again at changes, for ever. Raises ServiceFailed,
        KeyboardInterrupt at a signal."""
        for changed in ticks(self._folder, self._programs()):
            if not self._supervisor.is_alive:
                raise ServiceFailed("supervisord ended; everything it ran died with it")
            if not self._options.brokers and self._supervisor.ended("kafka"):
                log = RUN / "kafka" / "kafka-mock.log"
                raise ServiceFailed(f"the mock Kafka ended: start again;\n{last_lines(log)}")
            self._show_log()
            if changed:
                self._start_again(changed)
            self._tell_end()
            self._tell_fates(time.monotonic())

    def _programs(self) -> frozenset[Path]:
        """Where a persistent process runs, its program's file counts as code."""
        binary = self._own.executor.binary
        return frozenset() if binary is None else frozenset({(self._folder / binary).resolve()})

    def _show_log(self) -> None:
        if text := self._log.read():
            print(text, end="", flush=True)

    def _start_again(self, changed: Sequence[Path]) -> None:
        names = ", ".join(_shown(path, self._folder) for path in changed[:3])
        state = load({**self._environment, **broker_environment(self._brokers, self._config)})
        if state.problems:
            print(f"-- changed: {names}; the configuration is wrong, the worker stays:", flush=True)
            print("".join(f"   {each.report}\n" for each in state.problems), end="", flush=True)
            return
        print(f"-- changed: {names}; the worker starts again", flush=True)
        self._supervisor.stop([WORKER])
        self._show_log()
        self._has_said_end = False
        self._supervisor.launch(WORKER)

    def _tell_end(self) -> None:
        if self._has_said_end or (how := self._supervisor.ended(WORKER)) is None:
            return
        self._has_said_end = True
        self._show_log()
        print(f"-- the worker ended ({how}); it starts again when a file changes", flush=True)

    def _tell_fates(self, now: float) -> None:
        if "delivered" in self._told or now - self._asked_at < ASK_EVERY_SECONDS:
            return
        self._asked_at = now
        for fate, ended in first_fates(self._database_url, self._begun_at).items():
            if fate not in self._told:
                self._told.add(fate)
                print(f"-- {self._said(ended)}", flush=True)

    def _said(self, ended: Ended) -> str:
        trace = f"{self.url}/trace/{ended.topic}/{ended.partition}:{ended.offset}"
        if ended.fate != "delivered":
            what = f"first message {ended.fate}: {ended.reason}".rstrip(": ")
            return f"{printable(what)}; see {trace}"
        return f"first message delivered: result at {', '.join(self._places())}; see {trace}"

    def _places(self) -> list[str]:
        return [
            f"topic {section.topic}" if section.kind == "kafka" else f"sink {name} ({section.kind})"  # type: ignore[attr-defined]
            for name, section in self._own.sinks.items()
        ]


def chosen_cluster(state: State, asked: str) -> str:
    """Return the cluster that is asked for, by default the only one. Raises BadUse."""
    if state.config is None:
        raise BadUse("\n".join(each.report for each in state.problems))
    known = list(state.config.clusters)
    if asked in known:
        return asked
    if not asked and len(known) == 1:
        return known[0]
    raise BadUse(f"--cluster: expected one of {', '.join(known) or 'none'}, got {asked or 'none'}")


def _shown(path: Path, folder: Path) -> str:
    return str(path.relative_to(folder) if path.is_relative_to(folder) else path)
