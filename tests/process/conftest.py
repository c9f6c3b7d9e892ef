"""Scenes for real workers: a topic of their own, a migrated database, an end for every process."""

from __future__ import annotations

import itertools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from integration.services import postgres as postgres_service
from integration.services.kafka_mock import RunningMock
from integration.services.postgres import RunningPostgres
from tests.support.worker_process import CHECKOUT, Scene

NUMBERS = itertools.count(1)
DATABASE = "process"

MakeScene = Callable[..., Scene]


def migrate(url: str) -> None:
    """Make the tables of an empty database."""
    subprocess.run(
        [sys.executable, "manage.py", "migrate"],
        cwd=CHECKOUT,
        env={**os.environ, "DRAKKAR_SITE__DATABASE_URL": url},
        check=True,
        capture_output=True,
        timeout=60,
    )


@pytest.fixture(scope="session")
def process_database(postgres: RunningPostgres) -> str:
    """URL of a migrated database for worker processes."""
    postgres_service.ensure_database(postgres.port, DATABASE)
    url = postgres.database_url(DATABASE)
    migrate(url)
    return url


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone as people have it, with what is not committed yet."""
    place = tmp_path / "drakkar"
    names = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    found = subprocess.run(names, cwd=CHECKOUT, capture_output=True, check=True).stdout
    listed = b"\0".join(
        name for name in found.split(b"\0") if (CHECKOUT / os.fsdecode(name)).is_file()
    )
    place.mkdir()
    copying = [
        "tar",
        "--null",
        "--no-recursion",
        "--files-from=-",
        "-cf",
        str(tmp_path / "all.tar"),
    ]
    subprocess.run(copying, cwd=CHECKOUT, input=listed, check=True)
    subprocess.run(["tar", "-xf", str(tmp_path / "all.tar")], cwd=place, check=True)
    return place


@pytest.fixture
def make_scene(
    kafka_mock: RunningMock, process_database: str, tmp_path: Path
) -> Iterator[MakeScene]:
    """Makes scenes on the mock; a ``topic`` of the caller's exists already."""
    scenes: list[Scene] = []

    def make(**changes: Any) -> Scene:
        topic = f"process-{next(NUMBERS)}"
        if "topic" not in changes:
            for name in (topic, f"{topic}-out", f"{topic}_dlq"):
                kafka_mock.create_topic(name, 1)
        given = {"brokers": kafka_mock.brokers, "database_url": process_database, "topic": topic}
        scenes.append(Scene(folder=tmp_path, **{**given, **changes}))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.close()


@pytest.fixture
def scene(make_scene: MakeScene) -> Scene:
    """A scene as it comes."""
    return make_scene()
