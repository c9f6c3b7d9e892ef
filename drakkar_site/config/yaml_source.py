"""Configuration file as a source of values: its faults are kept, with their line."""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from pathlib import Path
from typing import Any

import yaml

from drakkar_site.config.reading import Reading


def of_file(reading: Reading, path: Path) -> dict[str, Any]:
    """Return the whole file, unknown keys as well; a missing default file is an empty one."""
    tree = _read(reading, path)
    reading.note(tree, (), str(path))
    return tree


def _read(reading: Reading, path: Path) -> dict[str, Any]:
    try:
        text = path.read_text(encoding="utf-8")
        tree, repeated = _parse(text)
    except (OSError, UnicodeDecodeError) as exc:
        if "DRAKKAR_CONFIG" in reading.environment or path.exists():
            hint = "DRAKKAR_CONFIG names the configuration file"
            reading.fault(1, str(path), "a readable UTF-8 file", str(exc), hint)
        return {}
    except yaml.YAMLError as exc:
        _fault(reading, path, exc)
        return {}
    for key, line, first in repeated:
        hint = "delete one of them; the last one would win silently"
        where = f"{path}, line {line}"
        reading.fault(3, where, f"each key once (first on line {first})", f"{key!r} again", hint)
    if tree is not None and not isinstance(tree, dict):
        reading.fault(2, str(path), "a mapping with 'site' and 'clusters'", type(tree).__name__)
        return {}
    return {str(name): value for name, value in (tree or {}).items()}


def _fault(reading: Reading, path: Path, exc: yaml.YAMLError) -> None:
    mark = getattr(exc, "problem_mark", None)
    where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
    got = str(getattr(exc, "problem", None) or exc)
    reading.fault(2, where, "valid YAML", got, "look at this line and the one above it")


class _Loader(yaml.SafeLoader):
    """Remembers keys that stand twice in one mapping: ``(key, line, line of the first)``."""

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.repeated: list[tuple[str, int, int]] = []

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        self.repeated += _repeated(node)
        return super().construct_mapping(node, deep=deep)


def _repeated(node: yaml.MappingNode) -> Iterator[tuple[str, int, int]]:
    seen: dict[str, int] = {}
    for name, _ in node.value:
        line = name.start_mark.line + 1
        if isinstance(name, yaml.ScalarNode) and name.value != "<<":
            if name.value in seen:
                yield name.value, line, seen[name.value]
            seen.setdefault(name.value, line)


def _parse(text: str) -> tuple[Any, list[tuple[str, int, int]]]:
    loader = _Loader(text)
    try:
        return loader.get_single_data(), loader.repeated
    finally:
        loader.dispose()
