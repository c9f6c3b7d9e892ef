"""Names of threads where the kernel shows them (``top -H``); Python 3.14 does so by itself."""

from __future__ import annotations

import threading
from contextlib import suppress
from pathlib import Path

LONGEST_NAME = 15
"""Bytes; the kernel refuses more."""


class ThreadNames:
    """Tells the kernel the name of each thread that it was not told of yet, but the main one's."""

    def __init__(self) -> None:
        self._shown: frozenset[int | None] = frozenset()

    def show(self) -> None:
        """Look for new threads; cheap when there are none. Without ``/proc`` it does nothing."""
        threads = {
            thread.native_id: thread.name
            for thread in threading.enumerate()
            if thread is not threading.main_thread()
        }
        for native_id in threads.keys() - self._shown:
            name = threads[native_id].encode()[:LONGEST_NAME]
            with suppress(OSError):  # it has ended
                Path(f"/proc/self/task/{native_id}/comm").write_bytes(name)
        self._shown = frozenset(threads)
