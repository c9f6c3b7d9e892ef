"""Where tests find their settings and their servers; each server starts when first asked for."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

import pytest
from django.conf import settings as django_settings
from django.db import connections

from integration.services import kafka_apache, kafka_mock, postgres
from integration.services.base import ServiceUnavailable
from tests.support.services import SKIPPED, lacks, require_apache


@pytest.fixture(scope="session")
def postgres_server(
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[postgres.RunningPostgres]:
    """A real PostgreSQL."""
    folder = tmp_path_factory.mktemp("postgres")
    try:
        with postgres.running(folder) as server:
            yield server
    except ServiceUnavailable as exc:
        lacks("postgres", exc)


@pytest.fixture(scope="session")
def django_db_modify_db_settings(postgres_server: postgres.RunningPostgres) -> None:
    """Tests that use the database get the real server; settings were read before it had a port."""
    parts = urlsplit(postgres_server.dsn)
    where = {"HOST": parts.hostname, "PORT": str(parts.port), "USER": parts.username}
    for settings in (django_settings.DATABASES["default"], connections["default"].settings_dict):
        settings.update(where)


@pytest.fixture(scope="session")
def apache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Brokers of a real Apache Kafka."""
    require_apache()
    with kafka_apache.running(tmp_path_factory.mktemp("kafka")) as server:
        yield server.brokers


@pytest.fixture(scope="session")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[kafka_mock.RunningMock]:
    """A mock cluster of the client library, in a process of its own."""
    try:
        with kafka_mock.running(tmp_path_factory.mktemp("mock"), {}) as server:
            yield server
    except ServiceUnavailable as exc:
        lacks("mock", exc)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """What this run could not test, in the reader's face."""
    if SKIPPED:
        terminalreporter.section("SKIPPED: services missing on this machine", yellow=True)
        for name, reason in sorted(SKIPPED.items()):
            terminalreporter.write_line(f"{name:10} {reason}")
