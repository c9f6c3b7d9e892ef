from __future__ import annotations

import threading
from pathlib import Path

from workers.runtime.thread_names import ThreadNames


def comm(native_id: int | None) -> str:
    return Path(f"/proc/self/task/{native_id}/comm").read_text().strip()


def test_the_kernel_shows_each_threads_name_and_the_main_threads_stays() -> None:
    names, ended = ThreadNames(), threading.Event()
    main_name = comm(threading.main_thread().native_id)
    threads = [threading.Thread(target=ended.wait, name=name) for name in ("lane-a", "x" * 40)]
    for thread in threads:
        thread.start()
        names.show()
    found = [comm(thread.native_id) for thread in threads]
    ended.set()
    for thread in threads:
        thread.join()
    names.show()
    assert found == ["lane-a", "x" * 15]
    assert comm(threading.main_thread().native_id) == main_name
