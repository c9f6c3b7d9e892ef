"""Steps of a start that demo and ``drakkar dev`` share: services, tables, the web page."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from integration.demo.supervisor import Supervisor
from integration.services.base import Launch, ServiceFailed, await_ready, last_lines
from integration.services.ports import is_open

MIGRATE_SECONDS = 180
WEB_SECONDS = 60.0


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print how long a part of the start took."""
    started = time.monotonic()
    yield
    print(f"  {name:<28} {time.monotonic() - started:6.1f} s", flush=True)


def start_services(supervisor: Supervisor, services: Mapping[str, Launch]) -> None:
    """Start all of them at once and wait until each is ready. Raises ServiceFailed."""
    for name in services:
        supervisor.launch(name)
    for name, launch in services.items():
        with stage(launch.name):
            await_ready(launch, lambda name=name: supervisor.ended(name))  # type: ignore[misc]


def migrate(environment: Mapping[str, str], folder: Path, log: Path) -> None:
    """Make the control plane's tables; ``folder`` holds the configuration. Raises ServiceFailed."""
    with log.open("w") as out:
        try:
            done = subprocess.run(
                [sys.executable, "-m", "drakkar", "migrate"],
                cwd=folder,
                env=environment,
                stdout=out,
                stderr=subprocess.STDOUT,
                timeout=MIGRATE_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired as exc:
            raise ServiceFailed(f"migrate did not end in {MIGRATE_SECONDS} s: {log}") from exc
    if done.returncode != 0:
        raise ServiceFailed(f"migrate failed; the end of {log}:\n{last_lines(log)}")


def start_web(supervisor: Supervisor, port: int, log: Path) -> None:
    """Start the program ``web`` and wait for its port. Raises ServiceFailed."""
    supervisor.launch("web")
    web = Launch(
        name="web",
        argv=(),
        log_path=log,
        is_ready=lambda: is_open(port),
        ready_seconds=WEB_SECONDS,
    )
    await_ready(web, lambda: supervisor.ended("web"))
