"""Real services for tests. A missing one skips loudly, or fails where CI requires it."""

from __future__ import annotations

import os

import pytest

from integration.services import kafka_apache
from integration.services.base import ServiceUnavailable

REQUIRED = frozenset(filter(None, os.environ.get("DRAKKAR_REQUIRE", "").split(",")))
"""Names of services whose absence is a failure: apache, mock, postgres, chromium."""

SKIPPED: dict[str, str] = {}
"""Why each missing service is missing; printed as a table at the end of the run."""


def lacking(name: str, reason: str) -> None:
    """This machine cannot run a service: skip with the reason, or fail where it is required."""
    SKIPPED[name] = reason
    if name in REQUIRED:
        pytest.fail(f"{name} is required (DRAKKAR_REQUIRE) but missing: {reason}", pytrace=False)
    pytest.skip(f"{name}: {reason}")


def require_apache() -> None:
    """Skip or fail unless Apache Kafka can run here."""
    reason = kafka_apache.missing()
    if reason is not None:
        lacking("apache", reason)


def lacks(name: str, error: ServiceUnavailable) -> None:
    """A service said itself that it cannot run here."""
    lacking(name, str(error))
