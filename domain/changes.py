"""Differences between two runs: what was set otherwise, key by key, old and new."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from domain.printable import printable
from domain.text_bounds import shortened

MAX_CHANGES = 200
MAX_VALUE_CHARS = 500
MASKED_VALUES = "(masked values)"
"""Key that stands for a difference nobody may see: the fingerprints differ, what is shown does
not."""
APART = ("metrics", "recorder.spool_dir")
"""Keys of a configuration that are where a process listens or spools, and no change of its
work."""


@dataclass(frozen=True, slots=True)
class Change:
    """Key with the value before and after, as JSON text; None where it was or is not there."""

    key: str
    old: str | None
    new: str | None

    def document(self) -> dict[str, str | None]:
        """Return it as a row and an event hold it."""
        return asdict(self)


def flat(tree: Mapping[str, Any]) -> dict[str, str]:
    """Return the values of a tree by their dotted keys, each as JSON text.

    A list is one value, and so is a mapping without entries.
    """
    found: dict[str, str] = {}
    rest = [("", tree)]
    while rest:
        prefix, node = rest.pop()
        for name, value in node.items():
            key = f"{prefix}{name}"
            if isinstance(value, Mapping) and value:
                rest.append((f"{key}.", value))
            else:
                found[key] = json.dumps(value, ensure_ascii=False, sort_keys=True)
    return found


def config_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Return what differs between two masked configurations, in the order of the keys.

    Keys of ``APART`` are left out. At most ``MAX_CHANGES`` are returned, with long values cut.
    """
    before, after = flat(old), flat(new)
    keys = sorted(before.keys() | after.keys())
    changed = [key for key in keys if before.get(key) != after.get(key) and not _is_apart(key)]
    return tuple(
        Change(printable(key), _shown(before.get(key)), _shown(after.get(key)))
        for key in changed[:MAX_CHANGES]
    )


def version_changes(old: Mapping[str, str], new: Mapping[str, str]) -> tuple[Change, ...]:
    """Return what differs between two sets of versions by name; an empty version is unknown."""
    changed = (Change(name, old.get(name) or None, new[name] or None) for name in new)
    return tuple(change for change in changed if change.old != change.new)


def _is_apart(key: str) -> bool:
    return any(key == apart or key.startswith(f"{apart}.") for apart in APART)


def _shown(text: str | None) -> str | None:
    return None if text is None else printable(shortened(text, MAX_VALUE_CHARS))
