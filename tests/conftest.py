"""Session-wide services, and the environment that child processes of tests inherit."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from django.conf import settings
from django.db import connections

from integration.services import kafka_apache, kafka_mock, mongo, postgres, redis, webhook
from integration.services.ports import free_port
from tests.support import emptying, quick
from tests.support.executors import WANTED_LAUNCHER
from tests.support.services import PROBES, require

CHECKOUT = Path(__file__).resolve().parents[1]
POSTGRES_PORT = free_port()
os.environ["DRAKKAR_CONFIG"] = str(CHECKOUT / "drakkar.yaml")
os.environ["DRAKKAR_SITE__DATABASE_URL"] = postgres.database_url(POSTGRES_PORT)
HISTORY_APART = "DRAKKAR_SITE__HISTORY_URL"
"""Set by ``tests/process/test_history_apart.py``: these tests have a database for the history."""
# Every test client makes the middleware anew: it need not read all static files each time.
settings.WHITENOISE_AUTOREFRESH = True
settings.PASSWORD_HASHERS = ["tests.support.passwords.QuickHasher"]


@pytest.fixture(params=["native", "python"])
def launcher(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """How the test's executors start processes; processes of the test inherit it."""
    wanted: str = request.param
    if wanted == "native":
        require("launcher")
    monkeypatch.setenv(WANTED_LAUNCHER, wanted)
    return wanted


@pytest.fixture(scope="session")
def postgres_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[postgres.RunningPostgres]:
    """The embedded PostgreSQL, on the port that the settings name."""
    require("postgres")
    folder = tmp_path_factory.mktemp("postgres")
    with postgres.running(folder, POSTGRES_PORT, postgres.FORGETFUL) as server:
        yield server


@pytest.fixture(scope="session", name="postgres")
def _postgres(postgres_server: postgres.RunningPostgres) -> postgres.RunningPostgres:
    return postgres_server


@pytest.fixture(scope="session")
def kafka_mock_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[kafka_mock.RunningMock]:
    """librdkafka's mock cluster; tests make topics of their own in it."""
    require("mock")
    with kafka_mock.running(tmp_path_factory.mktemp("kafka-mock")) as server:
        yield server


@pytest.fixture(scope="session", name="kafka_mock")
def _kafka_mock(kafka_mock_server: kafka_mock.RunningMock) -> kafka_mock.RunningMock:
    return kafka_mock_server


@pytest.fixture(scope="session")
def kafka_apache_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[kafka_apache.RunningKafka]:
    """Apache Kafka; tests make topics of their own in it."""
    require("apache")
    with kafka_apache.running(tmp_path_factory.mktemp("kafka-apache")) as server:
        yield server


@pytest.fixture(scope="session", name="kafka_apache")
def _kafka_apache(kafka_apache_server: kafka_apache.RunningKafka) -> kafka_apache.RunningKafka:
    return kafka_apache_server


@pytest.fixture(scope="session")
def redis_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[redis.RunningRedis]:
    """The embedded Redis; tests put a prefix of their own before their keys."""
    require("redis")
    with redis.running(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="session")
def mongo_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[mongo.RunningMongo]:
    """The embedded MongoDB; tests make databases of their own in it."""
    require("mongo")
    with mongo.running(tmp_path_factory.mktemp("mongo")) as server:
        yield server


@pytest.fixture(scope="session")
def webhook_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[webhook.RunningWebhook]:
    """The demo's webhook receiver; tests tell their requests by the delivery ids."""
    with webhook.running(tmp_path_factory.mktemp("webhook"), free_port()) as server:
        yield server


@pytest.fixture(scope="session")
def django_db_modify_db_settings(
    postgres_server: postgres.RunningPostgres,
    django_db_modify_db_settings_parallel_suffix: None,
) -> None:
    """The real server; pytest-django may have read the settings before its port was chosen."""
    parts = urlsplit(postgres_server.dsn)
    where = {
        "HOST": parts.hostname or "",
        "PORT": str(parts.port),
        "USER": parts.username or "",
    }
    for alias in settings.DATABASES:
        for known in (settings.DATABASES[alias], connections[alias].settings_dict):
            known.update(where)


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: Any) -> None:
    """Tests with real commits are followed by the emptying of what they wrote."""
    with django_db_blocker.unblock():
        for alias in settings.DATABASES:
            emptying.note(alias)
    emptying.use()


@pytest.fixture
def kafka_has_half_a_second(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Kafka that is away is waited for half a second, not for five or ten."""
    for module in ("kafka_lag", "topic_reader", "topics"):
        monkeypatch.setattr(f"workers.broker.{module}.REQUEST_SECONDS", 0.5)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the slow ones; with a history apart, let tests that use the database use both."""
    # Begun last, each of them would keep one process busy while the others have nothing left.
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
    for item in items if HISTORY_APART in os.environ else ():
        for mark in list(item.iter_markers("django_db")):
            both = pytest.mark.django_db(*mark.args, **{**mark.kwargs, "databases": "__all__"})
            item.add_marker(both, append=False)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hold the tests of ``make quick`` to starting nothing."""
    with quick.held(item.path.relative_to(CHECKOUT)):
        return (yield)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What was measured, what was not tested, and why; from the reports of every process."""
    for report in terminalreporter.stats.get("passed", ()):
        for name, value in report.user_properties:
            if name == "said":
                terminalreporter.write_line(str(value))
    reasons = [str(report.longrepr[2]) for report in terminalreporter.stats.get("skipped", ())]
    skipped = Counter(
        reason.removeprefix("Skipped: ")
        for reason in reasons
        if reason.removeprefix("Skipped: ").partition(":")[0] in PROBES
    )
    if not skipped:
        return
    terminalreporter.section("SKIPPED for want of a service")
    for reason, count in sorted(skipped.items()):
        terminalreporter.write_line(f"{count:>4} tests  {reason}")
