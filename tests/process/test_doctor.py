"""``manage.py doctor`` as a process: against real servers, and against what is not there."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from pathlib import Path
from typing import Any
from uuid import uuid4

import pytest
import yaml

from drakkar_site import doctor
from drakkar_site.config.sources import load
from drakkar_site.doctor import Level
from integration.services import postgres as postgres_service
from integration.services.kafka_mock import RunningMock
from integration.services.postgres import RunningPostgres
from tests.support.doc_commands import CHECKOUT

Found = dict[str, list[dict[str, str]]]
SECRET = "a-password-of-somebody"


def configured(folder: Path, brokers: str, database_url: str, **cluster: Any) -> Path:
    path = folder / "drakkar.yaml"
    main = {
        "handler": "integration.handlers.main:SearchHandler",
        "kafka": {"brokers": brokers, "topic": f"doctor-{uuid4().hex[:8]}", "group": "g"},
        "executor": {"binary": "cat"},
        "recorder": {"spool_dir": str(folder / "spool")},
        "sinks": {"kept": {"kind": "memory"}},
        **cluster,
    }
    site = {"database_url": database_url, "secret_key": "s" * 50}
    path.write_text(yaml.safe_dump({"site": site, "clusters": {"main": main}}))
    return path


def topics_of(path: Path) -> list[str]:
    topic = yaml.safe_load(path.read_text())["clusters"]["main"]["kafka"]["topic"]
    return [topic, f"{topic}_dlq"]


def examined(path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith("DRAKKAR_")}
    return subprocess.run(
        [sys.executable, "manage.py", "doctor", *words],
        cwd=CHECKOUT, env={**kept, "DRAKKAR_CONFIG": str(path)},
        capture_output=True, text=True, timeout=90, check=False,
    )  # fmt: skip


def by_check(done: subprocess.CompletedProcess[str]) -> Found:
    found: Found = {}
    for each in json.loads(done.stdout)["findings"]:
        found.setdefault(each["check"], []).append(each)
    return found


def test_all_is_well_with_real_servers(
    tmp_path: Path, kafka_mock: RunningMock, process_database: str
) -> None:
    path = configured(tmp_path, kafka_mock.brokers, process_database)
    for topic in topics_of(path):
        kafka_mock.create_topic(topic, 1)
    done = examined(path, "--json")
    assert done.returncode == 0, done.stdout + done.stderr
    found = by_check(done)
    sound = ("configuration", "kafka", "topics", "postgres", "clock", "migrations", "disk")
    assert [each["level"] for name in sound for each in found[name]] == ["ok"] * len(sound)
    assert {"ulimits", "isolation", "cgroups"} <= found.keys()
    assert not (tmp_path / "spool").exists()


def test_what_is_missing_is_told_with_what_to_do(
    tmp_path: Path, kafka_mock: RunningMock, postgres: RunningPostgres
) -> None:
    name = f"empty_{uuid4().hex[:8]}"
    postgres_service.ensure_database(postgres.port, name)
    path = configured(tmp_path, kafka_mock.brokers, postgres.database_url(name))
    source, letters = topics_of(path)
    kafka_mock.create_topic(source, 1)
    done = examined(path)
    assert done.returncode == 1
    assert f"{letters} (dead letters of main) is not there" in done.stdout
    assert "-> drakkar create_topics --cluster main" in done.stdout
    assert "-> drakkar migrate" in done.stdout


def test_servers_that_are_away_are_named_without_their_secrets(tmp_path: Path) -> None:
    url = f"postgresql://u:{SECRET}@127.0.0.1:1/d"
    done = examined(configured(tmp_path, "127.0.0.1:1", url), "--json")
    assert done.returncode == 1
    found = by_check(done)
    assert [each["level"] for each in found["kafka"]] == ["fail"]
    assert "127.0.0.1:1" in found["kafka"][0]["found"]
    assert [each["level"] for each in found["postgres"]] == ["fail"]
    assert SECRET not in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_a_wrong_configuration_is_all_that_is_looked_at(tmp_path: Path) -> None:
    path = configured(tmp_path, "127.0.0.1:1", "postgresql://u@127.0.0.1:1/d", handler=7)
    done = examined(path, "--json")
    assert done.returncode == 1
    found = by_check(done)
    assert found.keys() == {"configuration"}
    assert "clusters.main.handler: expected" in found["configuration"][0]["found"]


def test_limits_that_are_too_low_for_the_slots_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    executor = {"binary": "cat", "max_executors": 200}
    path = configured(tmp_path, "b:1", "postgresql://u@h/d", executor=executor)
    limits = {resource.RLIMIT_NOFILE: (1024, 1024), resource.RLIMIT_NPROC: (9, -1)}
    monkeypatch.setattr(resource, "getrlimit", limits.__getitem__)
    files, processes = doctor.ulimits(load({"DRAKKAR_CONFIG": str(path)}))
    assert (files.level, files.advice) == (Level.WARN, "raise ulimit -Hn to 1,856 or more")
    assert (processes.level, processes.found) == (Level.OK, "processes: unlimited")


@pytest.mark.parametrize(("skew", "level"), [(0.5, Level.OK), (-0.5, Level.OK), (-2.0, Level.WARN)])
def test_clocks_apart_are_told(skew: float, level: Level) -> None:
    assert doctor._clock("site.database_url", skew).level is level


def test_a_spool_that_nobody_may_write_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = configured(tmp_path, "b:1", "postgresql://u@h/d")
    monkeypatch.setattr(os, "access", lambda *_: False)
    (finding,) = doctor.disk(load({"DRAKKAR_CONFIG": str(path)}))
    assert finding.level is Level.FAIL
    assert finding.found == f"{tmp_path / 'spool'} cannot be written"
