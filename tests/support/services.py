"""Real services for tests: started once a session, and only when a test asks for one.

``require(name)`` skips with the reason, or fails where ``DRAKKAR_REQUIRE`` (a comma list of
apache, mock, postgres, redis, mongo, chromium, node, ordinary_user, confined, launcher, registry,
builder, helm, cgroups, cgroup_controllers) names the service.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable

import pytest

from integration.services import kafka_apache, kafka_mock, mongo, postgres, redis
from integration.services.base import ServiceUnavailable
from tests.support import cgroups, confined, images, ordinary_user
from workers.executor.native import LIBRARY, load


def require(name: str) -> None:
    """Skip or fail the calling test when this machine cannot run the service."""
    reason = PROBES[name]()
    if reason is None:
        return
    if name in os.environ.get("DRAKKAR_REQUIRE", "").split(","):
        pytest.fail(f"DRAKKAR_REQUIRE names {name}, but: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


def _unavailable(probe: Callable[[], object]) -> str | None:
    try:
        probe()
    except ServiceUnavailable as exc:
        return str(exc)
    return None


def _chromium() -> str | None:
    names = ("chromium", "chromium-browser", "google-chrome")
    if any(shutil.which(name) for name in names):
        return None
    return f"none of {', '.join(names)} found (Debian: chromium)"


def _program(name: str, source: str) -> str | None:
    return None if shutil.which(name) else f"{name} not found ({source})"


def _launcher() -> str | None:
    if load() is not None:
        return None
    why = "was not built, or of another launch.c, or cannot be loaded"
    return f"{LIBRARY} {why}: make builds it where there is a compiler"


def _registry() -> str | None:
    """Whether pip finds what building a wheel needs."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", folder]
        done = subprocess.run(
            [*command, "setuptools>=77"], capture_output=True, text=True, timeout=60, check=False
        )
    return None if done.returncode == 0 else f"pip finds no packages: {done.stderr[-300:].strip()}"


def _builder() -> str | None:
    return None if images.builder() else "neither docker nor podman builds images here"


PROBES: dict[str, Callable[[], str | None]] = {
    "apache": kafka_apache.missing,
    "mock": lambda: _unavailable(kafka_mock.library_path),
    "postgres": lambda: _unavailable(postgres.bin_folder),
    "redis": lambda: _unavailable(redis.binary),
    "mongo": lambda: _unavailable(mongo.binary),
    "chromium": _chromium,
    "promtool": lambda: _program("promtool", "Debian: prometheus"),
    "node": lambda: _program("node", "Debian: nodejs"),
    "ordinary_user": ordinary_user.missing,
    "confined": confined.missing,
    "helm": lambda: _program("helm", "go install helm.sh/helm/v3/cmd/helm"),
    "launcher": _launcher,
    "registry": _registry,
    "builder": _builder,
    "cgroups": cgroups.missing,
    "cgroup_controllers": cgroups.missing_controllers,
}
