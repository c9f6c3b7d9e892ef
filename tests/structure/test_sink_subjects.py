"""No kind of sink without its file for the contract suite."""

from __future__ import annotations

from pkgutil import iter_modules

import sinks.backends
import tests.contract.sinks
from tests.contract.sinks.subject import cases


def test_every_backend_is_held_to_the_contract() -> None:
    backends = {module.name for module in iter_modules(sinks.backends.__path__)}
    subjects = {module.name for module in iter_modules(tests.contract.sinks.__path__)}
    assert backends - subjects == set(), "add tests/contract/sinks/<kind>.py with CASES"


def test_cases_are_named_apart() -> None:
    names = [case.name for case in cases()]
    assert len(names) == len(set(names))
    assert {"memory", "kafka-mock", "kafka-apache", "postgres-upsert"} <= set(names)
