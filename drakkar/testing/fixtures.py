"""Fixtures of pytest; loaded by its entry point where Drakkar is installed."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from drakkar.testing.outcome import Outcome


@pytest.fixture
def drakkar_run() -> Callable[..., Outcome]:
    """``run`` with the handler of the configuration: ``drakkar_run([message(...)])``."""
    from drakkar.testing.running import run

    return partial(run, None)
