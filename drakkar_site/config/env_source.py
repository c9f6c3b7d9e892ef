"""Environment as a source of values: names fold to the keys that the file has.

The names of clusters, sinks, client keys and the handler's settings are data, and ``FAST_ONE`` has
to meet ``fast-one``.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from typing import Any

import yaml

from domain.masking import Key
from drakkar_site.config.reading import Reading

ROOTS = ("site", "clusters")
PREFIX = "DRAKKAR_"
_OURS = ("DRAKKAR_CONFIG", "DRAKKAR_SITE__", "DRAKKAR_CLUSTERS__")
_EXAMPLE = "as in DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXECUTORS=8"
_NAMED = {("clusters",): 2, ("clusters", "sinks"): 4}
"""Mappings of names people choose, by their fixed keys; the length of a name's key."""


class EnvironmentSource:
    """Values of ``DRAKKAR_SITE__...`` and ``DRAKKAR_CLUSTERS__...``, as a tree over ``below``."""

    def __init__(self, reading: Reading, below: Mapping[str, Any]) -> None:
        self._reading = reading
        self._below = below
        self.tree: dict[str, Any] = {}
        for name in sorted(reading.environment):
            if _is_override(name):
                self._read(name)
            elif meant := _meant(name):
                expected = "DRAKKAR_CONFIG, DRAKKAR_SITE__... or DRAKKAR_CLUSTERS__..."
                reading.fault(4, name, expected, "another name", f"did you mean {meant}?")

    def _read(self, name: str) -> None:
        parts = name[len(PREFIX) :].split("__")
        if _fold(parts[0]) not in ROOTS or not all(parts):
            close = difflib.get_close_matches(_fold(parts[0]), ROOTS, n=1)
            hint = f"did you mean {PREFIX}{close[0].upper()}__...?" if close else _EXAMPLE
            expected = "DRAKKAR_SITE__... or DRAKKAR_CLUSTERS__..."
            self._reading.fault(4, name, expected, "another name", hint)
            return
        node, below, key = self.tree, self._below, Key()
        for part in parts[:-1]:
            key = (*key, _matching(node, below, part, key))
            self._note_invented(name, key, below)
            inner, under = node.get(key[-1]), below.get(key[-1])
            if any(found is not None and not isinstance(found, dict) for found in (inner, under)):
                expected = f"{'.'.join(key)} to be a mapping"
                self._reading.fault(4, name, expected, "a plain value", _EXAMPLE)
                return
            node[key[-1]] = inner or {}
            node, below = node[key[-1]], under or {}
        key = (*key, _matching(node, below, parts[-1], key))
        node[key[-1]] = _typed(self._reading.environment[name])
        self._reading.note(node[key[-1]], key, name)

    def _note_invented(self, name: str, key: Key, below: Mapping[str, Any]) -> None:
        if _NAMED.get(key[:-1:2]) == len(key) and key[-1] not in below:
            self._reading.invented.setdefault(key, name)


def _is_override(name: str) -> bool:
    upper = name.upper()
    return upper.startswith(PREFIX) and (
        "__" in name or upper.removeprefix(PREFIX).lower() in ROOTS
    )


def _meant(name: str) -> str | None:
    """Return the name that a variable with almost one of our names should have."""
    upper = name.upper()
    if upper == "DRAKKAR_CONFIG":
        return None if name == upper else upper
    for root in ROOTS:
        if upper.startswith(f"{PREFIX}{root.upper()}_"):
            return f"{PREFIX}{root.upper()}__{upper[len(PREFIX) + len(root) + 1 :]}"
    close = difflib.get_close_matches(upper, _OURS[:1], n=1, cutoff=0.85)
    return close[0] if close else None


def _fold(name: str) -> str:
    return name.lower().replace("-", "_").replace(".", "_")


def _matching(node: Mapping[str, Any], below: Mapping[str, Any], part: str, key: Key) -> str:
    """Return the existing key that this part of a variable's name means, else a new one."""
    for name in (*node, *below):
        if _fold(str(name)) == _fold(part):
            return str(name)
    parent = key[-1] if key else ""
    if parent == "client":  # keys of librdkafka: words between dots
        return part.lower().replace("_", ".")
    # Names of environment variables and of groups keep their case, all others are lower-case.
    return part if parent in ("env", "groups") else part.lower()


def _typed(text: str) -> Any:
    """Lists, mappings, quoted text and null as YAML; all else stays text for the field's type."""
    if text.strip() != "null" and not text.strip().startswith(("[", "{", '"')):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text
