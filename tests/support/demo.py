"""A demo in a folder of its own, so that others may run beside it; nothing of it stays."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import psutil

from integration.demo.faults import is_alive
from integration.demo.supervisor import until

CHECKOUT = Path(__file__).resolve().parents[2]
GONE_SECONDS = 10.0


def started_for(run: Path) -> list[psutil.Process]:
    """Every live process whose command line or environment names this folder."""
    return [process for process in psutil.process_iter() if _names(process, str(run))]


def _names(process: psutil.Process, folder: str) -> bool:
    with suppress(psutil.Error):
        texts = [*process.cmdline(), *process.environ().values()]
        return any(folder in text for text in texts) and is_alive(process)
    return False


def are_gone(run: Path) -> bool:
    """Whether every process of this folder ends in time."""
    return until(lambda: not started_for(run), GONE_SECONDS)


@contextmanager
def run_folder(parent: Path) -> Iterator[Path]:
    """The folder for ``DRAKKAR_RUN_DIR``; what still runs in it at the end is killed."""
    run = parent / "run"
    try:
        yield run
    finally:
        for process in started_for(run):
            with suppress(psutil.Error):
                process.kill()
