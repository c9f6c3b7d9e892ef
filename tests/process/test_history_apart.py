"""Tests of the history, once more with a database of its own for it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from integration.services.postgres import database_url
from tests.conftest import HISTORY_APART

CHECKOUT = Path(__file__).resolve().parents[2]
TESTS = (
    "tests/apart",
    "tests/contract/test_recorder_postgres.py",
    "tests/contract/test_letters_postgres.py",
    "tests/contract/test_rollups_postgres.py",
)
VERDICT = "test_the_verdict_finds_rollups_equal_to_the_events_and_says_where_they_are_not"
ONE_DATABASE = ("--deselect", f"tests/contract/test_rollups_postgres.py::{VERDICT}")
"""The verdict of a chaos run reads runs and events in one database."""
MOST_SECONDS = 400


@pytest.mark.slow
@pytest.mark.timeout(MOST_SECONDS + 20)
def test_the_history_may_have_a_database_of_its_own() -> None:
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-p",
        "no:cacheprovider",
        *TESTS,
        *ONE_DATABASE,
    ]
    done = subprocess.run(
        command,
        cwd=CHECKOUT,
        env=os.environ | {HISTORY_APART: database_url(1, "apart")},
        capture_output=True,
        text=True,
        timeout=MOST_SECONDS,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:]
