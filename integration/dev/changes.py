"""Changes of the user's files that a worker has to be started again for."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from watchfiles import watch

SUFFIXES = (".py", ".yaml", ".yml", ".toml")
IGNORED = ("__pycache__", "node_modules", "build", "dist")
TICK_MS = 250


def watched_folders(root: Path) -> list[Path]:
    """Return the folders whose files count: not hidden ones, no virtual environments."""
    found = []
    for folder, inner, _ in os.walk(root):
        inner[:] = sorted(name for name in inner if _is_watched(Path(folder, name)))
        found.append(Path(folder))
    return found


def _is_watched(folder: Path) -> bool:
    is_named = not folder.name.startswith(".") and folder.name not in IGNORED
    return is_named and not (folder / "pyvenv.cfg").exists()


def is_source(path: Path, programs: frozenset[Path]) -> bool:
    """Whether a file is code or configuration, or one of these programs."""
    return path in programs or (path.suffix in SUFFIXES and not path.name.startswith("."))


def ticks(root: Path, programs: frozenset[Path]) -> Iterator[list[Path]]:
    """Yield the files that changed, an empty list where nothing did for a moment; for ever.

    Raises KeyboardInterrupt at a signal.
    """
    while True:
        folders = watched_folders(root)
        for changes in watch(
            *folders,
            recursive=False,
            watch_filter=None,
            step=50,
            debounce=400,
            rust_timeout=TICK_MS,
            yield_on_timeout=True,
            ignore_permission_denied=True,
        ):
            paths = sorted({Path(path) for _, path in changes})
            yield [path for path in paths if is_source(path, programs)]
            if changes and watched_folders(root) != folders:
                break
