"""Plan of the demo: options, environment, and supervised programs. No side effects."""

from __future__ import annotations

import os
import shlex
import signal
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from integration.demo.clusters import CLUSTERS, MAIN, cluster_of
from integration.services import mongo, redis
from integration.services.base import Launch, dying
from integration.services.ports import LOOPBACK
from workers.runtime.health import page_url
from workers.version import VERSION

BROWSERS = ("topics", "mongo-browser", "redis-browser")
PARTITIONS = 50
FAULTY_WORKER = "worker-2"
SERVICE_RETRIES = 5

BROKEN = "program-broken"
"""File of the demo's folder; while it is there, the program of ``main`` fails."""
RECEIVER = "DRAKKAR_SITE__NOTIFY__RECEIVERS__DEMO__"
NOTICES_PATH = "/notices"
"""Where the webhook receiver gets what is wrong; at ``/`` it gets what the sink delivers."""

PAUSE_SECONDS = 0.2
TASK_TIMEOUT_SECONDS = 45.0
SESSION_TIMEOUT_MS = 10_000
MIN_SESSION_TIMEOUT_MS = 6000


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Options of the command line."""

    messages: int
    speed: float = 1.0
    per_second: float | None = None
    """A steady load in place of the phases."""
    partitions: int = PARTITIONS
    slow_percent: float = 3.0
    seed: int = 1
    kafka: str = "auto"
    env: tuple[tuple[str, str, str], ...] = ()
    until_drained: bool = False
    report: Path | None = None
    kill_worker_at: int | None = None
    stop_worker_at: int | None = None
    break_program_seconds: float | None = None
    full: bool = False

    def env_of(self, worker: str) -> dict[str, str]:
        """Return what ``--env`` gives this worker alone."""
        return {key: value for name, key, value in self.env if name == worker}

    @property
    def is_judged(self) -> bool:
        """Whether committed offsets have to be sampled for the verdict."""
        faults = (self.kill_worker_at, self.stop_worker_at)
        return self.until_drained or any(at is not None for at in faults)


@dataclass(frozen=True, slots=True, kw_only=True)
class Program:
    """One supervised process. ``argv`` carries the death signal already."""

    name: str
    argv: tuple[str, ...]
    log_path: Path
    is_service: bool = False
    is_restarted: bool = False
    version: str = VERSION
    start_seconds: int = 0
    stop_seconds: int = 10
    stop_signal: signal.Signals = signal.SIGTERM


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Addresses on which everything listens."""

    web_port: int
    postgres_port: int
    controller_port: int
    webhook_port: int
    redis_port: int
    mongo_port: int
    worker_ports: Mapping[str, int]
    database_url: str
    brokers: str = ""
    full_ports: Mapping[str, int] = field(default_factory=dict)
    """Of ``--full``: prometheus, topics, mongo-browser, redis-browser; empty without it."""
    page_ports: Mapping[str, int] = field(default_factory=dict)
    """Of ``--full``: where each worker's page is opened; empty without it."""

    @property
    def shown_full_ports(self) -> dict[str, int | str]:
        """``full_ports`` by process: one has those of all browsers, told as a text."""
        others = {name: port for name, port in self.full_ports.items() if name not in BROWSERS}
        browsers = [str(self.full_ports[name]) for name in BROWSERS if self.full_ports]
        browsers += [str(port) for port in self.page_ports.values()]
        return {**others, "browsers": ",".join(browsers)}

    @property
    def redis_url(self) -> str:
        """URL of the Redis server."""
        return redis.url(self.redis_port)

    @property
    def mongo_uri(self) -> str:
        """URI of the MongoDB server."""
        return mongo.uri(self.mongo_port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Secrets:
    """Made at each start, unless the environment names them."""

    secret_key: str = field(repr=False)
    auth_token: str = field(repr=False)
    admin_password: str = field(repr=False)


def shared_environment(
    addresses: Addresses, secrets: Secrets, speed: float, given: Mapping[str, str], run: Path
) -> dict[str, str]:
    """The environment of every program of ours but the brokers, known only once Kafka runs.

    Addresses win over ``given``; the scaled values only fill what ``given`` leaves open.
    """
    scaled = {} if speed == 1 else scaled_values(speed)
    return {
        **{name: value for name, value in scaled.items() if name not in given},
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{given.get('PATH', os.defpath)}",
        "PYTHONUNBUFFERED": "1",
        "DRAKKAR_SITE__DATABASE_URL": addresses.database_url,
        "DRAKKAR_SITE__SECRET_KEY": secrets.secret_key,
        "DRAKKAR_SITE__AUTH_TOKEN": secrets.auth_token,
        "DRAKKAR_SITE__ADMIN_PASSWORD": secrets.admin_password,
        "DRAKKAR_SITE__BIND": f"127.0.0.1:{addresses.web_port}",
        "DRAKKAR_SITE__CONTROLLER_METRICS_PORT": str(addresses.controller_port),
        f"{MAIN.prefix}SINKS__METRICS__DSN": addresses.database_url,
        f"{MAIN.prefix}SINKS__ARCHIVE__URI": addresses.mongo_uri,
        f"{MAIN.prefix}SINKS__SUMMARIES__URL": addresses.redis_url,
        f"{MAIN.prefix}SINKS__WEBHOOK__URL": f"http://{LOOPBACK}:{addresses.webhook_port}/",
        f"{MAIN.prefix}EXECUTOR__ENV__RUN_RG_BROKEN_FILE": str(run / BROKEN),
        f"{RECEIVER}APPRISE_URL": f"json://{LOOPBACK}:{addresses.webhook_port}{NOTICES_PATH}",
        f"{MAIN.prefix}SINKS__FILES__BASE_PATH": str(run / "files"),
        **{f"{cluster.prefix}RECORDER__SPOOL_DIR": str(run / "spool") for cluster in CLUSTERS},
        **full_environment(addresses, secrets),
    }


def full_environment(addresses: Addresses, secrets: Secrets) -> dict[str, str]:
    """Return what ``--full`` adds: Prometheus may scrape the page, the page links to the
    browsers."""
    if not addresses.full_ports:
        return {}
    urls = {name: f"http://{LOOPBACK}:{port}/" for name, port in addresses.full_ports.items()}
    return {
        "BROWSERS_PASSWORD": secrets.admin_password,
        "DRAKKAR_SITE__METRICS_ALLOW": f'["{LOOPBACK}"]',
        "DRAKKAR_SITE__LINKS__PROMETHEUS": urls.get("prometheus", ""),
        "DRAKKAR_SITE__LINKS__KAFKA_UI": urls["topics"],
        "DRAKKAR_SITE__LINKS__MONGO_UI": urls["mongo-browser"],
        "DRAKKAR_SITE__LINKS__REDIS_UI": urls["redis-browser"],
    }


def scaled_values(speed: float) -> dict[str, str]:
    """Every duration of the demo divided by ``speed``; the broker refuses sessions below 6 s."""
    session_ms = max(MIN_SESSION_TIMEOUT_MS, round(SESSION_TIMEOUT_MS / speed))
    values = {
        f"{MAIN.prefix}EXECUTOR__ENV__RUN_RG_PAUSE_SECONDS": f"{PAUSE_SECONDS / speed:.6g}",
        f"{MAIN.prefix}EXECUTOR__TASK_TIMEOUT_SECONDS": f"{TASK_TIMEOUT_SECONDS / speed:.6g}",
        f"{MAIN.prefix}KAFKA__SESSION_TIMEOUT_MS": str(session_ms),
    }
    # The event threshold is not scaled: it is 0, which keeps every event.
    for cluster in CLUSTERS:
        threshold = f"{cluster.thresholds_ms / speed:.6g}"
        for name in ("LOG", "WS", "OUTPUT"):
            values[f"{cluster.prefix}RECORDER__{name}_MIN_DURATION_MS"] = threshold
    return values


def service_program(launch: Launch, name: str) -> Program:
    """A service under supervision: started again when it dies."""
    return Program(
        name=name,
        argv=with_env(launch.argv, launch.env),
        log_path=launch.log_path.resolve(),
        is_service=True,
        is_restarted=launch.keeps_data,
        version=launch.version,
        start_seconds=1,
        stop_seconds=int(launch.stop_seconds),
        stop_signal=launch.stop_signal,
    )


def own_programs(
    addresses: Addresses, options: Options, logs: Path, stop_seconds: Mapping[str, int]
) -> list[Program]:
    """Web page, controller, workers and producer, in the order in which they start.

    ``stop_seconds`` by worker: from SIGTERM to SIGKILL.
    """
    python = sys.executable
    daphne = [str(Path(python).with_name("daphne")), "-b", "127.0.0.1"]
    daphne += ["-p", str(addresses.web_port), "drakkar_site.asgi:application"]
    controller = [python, "manage.py", "runcontroller"]
    brokers = {f"{cluster.prefix}KAFKA__BROKERS": addresses.brokers for cluster in CLUSTERS}
    return [
        own_program("web", with_env(daphne, brokers), logs, is_service=True),
        own_program("controller", with_env(controller, brokers), logs, is_service=True),
        *(
            _worker(name, addresses, options, logs, stop_seconds[name])
            for name in addresses.worker_ports
        ),
        *([_browsers(addresses, logs)] if addresses.full_ports else []),
        own_program("producer", producer_argv(addresses.brokers, options), logs),
    ]


def _browsers(addresses: Addresses, logs: Path) -> Program:
    ports = addresses.full_ports
    argv = [sys.executable, "-m", "integration.demo.browsers"]
    argv += ["--mongo-port", str(ports["mongo-browser"]), "--mongo-uri", addresses.mongo_uri]
    argv += ["--redis-port", str(ports["redis-browser"]), "--redis-url", addresses.redis_url]
    web = f"http://{LOOPBACK}:{addresses.web_port}"
    argv += ["--lead", f"{ports['topics']}={web}/topics"]
    for name, port in addresses.page_ports.items():
        argv += ["--lead", f"{port}={page_url(web, cluster_of(name).name, name)}"]
    return own_program("browsers", argv, logs, is_service=True)


def _worker(
    name: str, addresses: Addresses, options: Options, logs: Path, stop_seconds: int
) -> Program:
    cluster = cluster_of(name)
    env = {
        f"{cluster.prefix}KAFKA__BROKERS": addresses.brokers,
        f"{cluster.prefix}METRICS__PORT": str(addresses.worker_ports[name]),
        **options.env_of(name),
    }
    argv = [sys.executable, "manage.py", "runworker", "--cluster", cluster.name]
    argv += ["--name", name]
    return Program(
        name=name,
        argv=dying(with_env(argv, env)),
        log_path=logs / f"{name}.log",
        stop_seconds=stop_seconds,
    )


def own_program(name: str, argv: Sequence[str], logs: Path, is_service: bool = False) -> Program:
    """Return a program of ours, in Python; a service is started again when it ends."""
    return Program(
        name=name,
        argv=dying(argv),
        log_path=logs / f"{name}.log",
        is_service=is_service,
        is_restarted=is_service,
    )


def with_env(argv: Sequence[str], env: Mapping[str, str]) -> tuple[str, ...]:
    """By ``env``, since supervisor's own ``environment=`` cannot quote every value."""
    pairs = [f"{name}={value}" for name, value in env.items()]
    return ("env", *pairs, *argv) if pairs else tuple(argv)


def producer_argv(brokers: str, options: Options) -> list[str]:
    """The producer's command line."""
    argv = [sys.executable, "-m", "integration.demo.producer", "--brokers", brokers]
    argv += ["--total", str(options.messages), "--speed", f"{options.speed:g}"]
    argv += ["--partitions", str(options.partitions)]
    if options.per_second is not None:
        argv += ["--per-second", f"{options.per_second:g}"]
    return [*argv, "--slow-percent", f"{options.slow_percent:g}", "--seed", str(options.seed)]


def verdict_argv(addresses: Addresses, run: Path, report: Path) -> list[str]:
    """The verdict's command line."""
    argv = [sys.executable, "-m", "integration.verdict", "--brokers", addresses.brokers]
    argv += ["--database-url", addresses.database_url]
    argv += ["--redis-url", addresses.redis_url, "--mongo-uri", addresses.mongo_uri]
    return [*argv, "--run", str(run), "--report", str(report)]


def supervisor_section(run: Path, socket: Path, directory: Path) -> str:
    """supervisord's own part of its configuration; its socket is for this user only."""
    return f"""[supervisord]
nodaemon = true
silent = true
identifier = drakkar
logfile = {_escaped(str(run / "logs" / "supervisord.log"))}
pidfile = {_escaped(str(run / "supervisord.pid"))}
directory = {_escaped(str(directory))}

[unix_http_server]
file = {_escaped(str(socket))}
chmod = 0600

[rpcinterface:supervisor]
supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface

[supervisorctl]
serverurl = unix://{_escaped(str(socket))}
"""


def program_section(program: Program) -> str:
    """One program's part of supervisord's configuration."""
    return f"""
[program:{program.name}]
command = {_escaped(shlex.join(program.argv))}
autostart = false
autorestart = {str(program.is_restarted).lower()}
startsecs = {program.start_seconds}
startretries = {SERVICE_RETRIES if program.is_restarted else 0}
stopwaitsecs = {program.stop_seconds}
stopsignal = {program.stop_signal.name.removeprefix("SIG")}
killasgroup = true
redirect_stderr = true
stdout_logfile = {_escaped(str(program.log_path))}
stdout_logfile_maxbytes = 20MB
stdout_logfile_backups = 1
"""


def _escaped(text: str) -> str:
    return text.replace("%", "%%")
