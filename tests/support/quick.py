"""Guard of the tests of ``make quick``: they start no process and listen on no port."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hypothesis import settings

FOLDERS = ("tests/unit", "tests/property")
REFUSED = frozenset(
    ["subprocess.Popen", "os.posix_spawn", "os.fork", "os.forkpty", "os.system", "socket.bind"]
)
EXAMPLES = 25

settings.register_profile("quick", max_examples=EXAMPLES, deadline=None)

_held_test: list[str] = []


@contextmanager
def held(test: Path) -> Iterator[None]:
    """Refuse processes and ports while a test of one of the quick folders runs.

    ``test`` is its file, relative to the checkout.
    """
    if not test.as_posix().startswith(FOLDERS):
        yield
        return
    _held_test.append(test.as_posix())
    try:
        yield
    finally:
        _held_test.pop()


def _refuse(event: str, _arguments: tuple[Any, ...]) -> None:
    if event in REFUSED and _held_test:
        raise RuntimeError(
            f"{_held_test[-1]}: expected neither a process nor a port in {' and '.join(FOLDERS)}, "
            f"got {event}; the test belongs to tests/worker, tests/process or tests/contract"
        )


sys.addaudithook(_refuse)
