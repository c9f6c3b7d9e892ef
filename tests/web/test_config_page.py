"""The effective configuration with its sources, and who runs with another one."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.test import Client
from pytest_django import DjangoAssertNumQueries, Settings

from drakkar_site.config.sources import load
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from workers.config import ClusterConfig

pytestmark = pytest.mark.django_db
MAX_QUERIES = 15
FILE = """
site:
  database_url: postgresql://someone:unseen-one@localhost/x
  secret_key: ${SITE_KEY}
clusters:
  main:
    handler: docs.examples.word_count:WordCount
    app: {salt: "${SALT}"}
    kafka: {topic: t, group: g}
    executor: {max_executors: 7}
    sinks:
      out: {kind: memory}
"""


@pytest.fixture
def root(client: Client) -> Client:
    client.force_login(User.objects.create_superuser("root"))
    return client


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration with secrets, of which the environment changes one key."""
    path = tmp_path / "drakkar.yaml"
    path.write_text(FILE)
    monkeypatch.setenv("DRAKKAR_CONFIG", str(path))
    monkeypatch.setenv("SITE_KEY", "unseen-two" * 5)
    monkeypatch.setenv("SALT", "unseen-three")
    monkeypatch.setenv("DRAKKAR_CLUSTERS__MAIN__KAFKA__GROUP", "other")
    return path


def rows(page: str) -> dict[str, tuple[str, str]]:
    """Value and source by key."""
    found = re.findall(r'<th scope="row" class="mono nowrap">(.*?)</th>(.*?)</tr>', page)
    cells = {key: re.findall(r"<td[^>]*>(.*?)</td>", rest) for key, rest in found}
    return {key: (re.sub(r"<[^>]*>", "", value), source) for key, (value, source) in cells.items()}


def test_each_value_with_its_source_and_no_secret(
    root: Client, file: Path, django_assert_max_num_queries: DjangoAssertNumQueries
) -> None:
    with django_assert_max_num_queries(MAX_QUERIES):
        page = read_page(root.get("/config"))
    found = rows(page)
    assert found["clusters.main.kafka.topic"] == ("t", str(file))
    assert found["clusters.main.kafka.group"] == ("other", "DRAKKAR_CLUSTERS__MAIN__KAFKA__GROUP")
    assert found["clusters.main.batch.max_messages"] == ("100", "default")
    assert found["clusters.main.app.salt"][0] == "***"
    assert "unseen" not in page


def test_another_configuration_wants_a_restart(
    root: Client, file: Path, settings: Settings
) -> None:
    settings.DRAKKAR = load().config
    assert b"Restart due" not in root.get("/config").content
    file.write_text(FILE.replace("max_executors: 7", "max_executors: 8"))
    assert b"Restart due" in root.get("/config").content


def test_only_keys_that_match_are_shown(root: Client, file: Path) -> None:
    assert set(rows(read_page(root.get("/config?text=max_executors")))) == {
        "clusters.main.executor.max_executors"
    }
    assert not [
        key
        for key in rows(read_page(root.get("/config?cluster=other")))
        if not key.startswith("site.")
    ]


def test_a_broken_file_is_told(root: Client, file: Path) -> None:
    file.write_text(FILE.replace("max_executors: 7", "max_executors: none-at-all"))
    page = read_page(root.get("/config"))
    assert "clusters.main.executor.max_executors" in page
    assert "an integer" in page
    assert rows(page) == {}


def test_drift_of_live_runs(root: Client, file: Path, make_run: MakeRun) -> None:
    config = load().config
    assert config is not None
    hashes = {"same": config.clusters["main"].fingerprint, "differs": "0" * 16, "unknown": ""}
    for word, text in hashes.items():
        run = make_run(f"worker-{word}")
        run.config_hash = text
        run.save()
    make_run("worker-gone", state="stopped")
    page = read_page(root.get("/config"))
    found = re.findall(r"worker-(\w+)</a></th>.*?(same|differs|unknown)</span></td>", page)
    assert dict(found) == {word: word for word in hashes}
    assert "<b>2</b> of 3 live runs not like it" in page


def cluster(**sections: Any) -> ClusterConfig:
    least = {
        "handler": "a:B",
        "kafka": {"topic": "t", "group": "g"},
        "sinks": {"out": {"kind": "memory"}},
    }
    return ClusterConfig.model_validate({**least, **sections})


@pytest.mark.parametrize(
    ("sections", "is_same"),
    [
        ({}, True),
        ({"metrics": {"port": 1}}, True),
        ({"recorder": {"spool_dir": "elsewhere"}}, True),
        ({"executor": {"spawners": 63}}, False),
        ({"executor": {"max_executors": 9}}, False),
        ({"recorder": {"flush_interval_ms": 99}}, False),
    ],
)
def test_the_fingerprint_is_of_the_work(sections: dict[str, Any], is_same: bool) -> None:
    assert (cluster(**sections).fingerprint == cluster().fingerprint) is is_same
