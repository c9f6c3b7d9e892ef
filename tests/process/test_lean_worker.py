"""A worker loads what it needs: no pages, no admin, no client of a sink that it does not have."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from drakkar_site import settings, worker_settings
from integration.bench.config import CLUSTER, Topics, worker_environment, write_config
from integration.bench.config import settings as bench_settings
from integration.bench.worker import CHECKOUT

NEVER = {
    "channels",
    "daphne.server",
    "django.contrib.admin",
    "drakkar_site.urls",
    "ninja",
    "twisted.internet.reactor",
    "workers.control_plane",
}
CLIENTS = {"mongo": "pymongo", "redis": "redis", "http": "requests"}
SECTIONS: dict[str, dict[str, Any]] = {
    "mongo": {"uri": "mongodb://127.0.0.1:1", "database": "d"},
    "redis": {"url": "redis://127.0.0.1:1"},
    "http": {"url": "http://127.0.0.1:1/"},
}
SHOW_MODULES = (
    "import sys, django; django.setup();"
    " import workers.management.commands.runworker, integration.handlers.bench;"
    " print(*sys.modules)"
)


def environment_of_a_worker(
    folder: Path, sinks: dict[str, dict[str, Any]], **cluster: str
) -> dict[str, str]:
    content = bench_settings(
        Topics.of("lean"), brokers="127.0.0.1:1", database_url="postgresql://u@h/d", folder=folder
    )
    content["clusters"][CLUSTER] |= cluster
    content["clusters"][CLUSTER]["sinks"] |= sinks
    write_config(folder / "drakkar.yaml", content)
    return worker_environment(dict(os.environ), folder / "drakkar.yaml")


def loaded_by_a_worker(folder: Path, sinks: dict[str, dict[str, Any]]) -> set[str]:
    lean = {"DJANGO_SETTINGS_MODULE": "drakkar_site.worker_settings"}
    done = subprocess.run(
        [sys.executable, "-c", SHOW_MODULES],
        cwd=CHECKOUT,
        env=environment_of_a_worker(folder, sinks) | lean,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    return set(done.stdout.split())


def test_neither_pages_nor_clients_of_other_sinks(tmp_path: Path) -> None:
    loaded = loaded_by_a_worker(tmp_path, {})
    assert "confluent_kafka" in loaded
    assert loaded & (NEVER | set(CLIENTS.values())) == set()


@pytest.mark.parametrize("kind", CLIENTS)
def test_the_client_of_a_configured_sink(kind: str, tmp_path: Path) -> None:
    loaded = loaded_by_a_worker(tmp_path, {"more": {"kind": kind, **SECTIONS[kind]}})
    backends = {name for name in loaded if name.startswith("sinks.backends.")}
    assert backends == {"sinks.backends.kafka", f"sinks.backends.{kind}"}
    assert CLIENTS[kind] in loaded


def test_a_workers_apps_are_the_sites_in_its_order() -> None:
    assert [
        app for app in settings.INSTALLED_APPS if app in worker_settings.INSTALLED_APPS
    ] == worker_settings.INSTALLED_APPS


def test_runworker_takes_the_lean_settings(tmp_path: Path) -> None:
    (tmp_path / "telling.py").write_text(
        "from django.conf import settings\nraise ImportError(settings.SETTINGS_MODULE)\n"
    )
    environment = environment_of_a_worker(tmp_path, {}, handler="telling:Handler")
    done = subprocess.run(
        [sys.executable, "manage.py", "runworker", "--cluster", CLUSTER],
        cwd=CHECKOUT,
        env={**environment, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert "ImportError: drakkar_site.worker_settings" in done.stderr
