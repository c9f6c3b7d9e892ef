"""One reading of the configuration: values, where each is from, what is wrong."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from domain.masking import Key
from domain.problem import Problem

_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


@dataclass(slots=True)
class Reading:
    """Filled by the sources, in their order; nothing here raises."""

    environment: Mapping[str, str]
    origins: dict[Key, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    secrets: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    """Keys where a ``${...}`` stands, and what it was replaced by."""
    invented: dict[Key, str] = field(default_factory=dict)
    """Clusters and sinks that no file names, with the variable that does."""
    tree: dict[str, Any] = field(default_factory=dict)

    @property
    def secret_texts(self) -> frozenset[str]:
        """Everything that a ``${...}`` was replaced by."""
        return frozenset(text for texts in self.secrets.values() for text in texts)

    def fault(self, number: int, key: str, expected: str, got: str, hint: str = "") -> None:
        """Keep one more problem, ``drakkar.E<number>``."""
        self.problems.append(
            Problem(id=f"drakkar.E{number:03}", key=key, expected=expected, got=got, hint=hint)
        )

    def note(self, node: Any, key: Key, origin: str) -> None:
        """Every leaf below ``key`` comes from there."""
        if isinstance(node, dict):
            for name, value in node.items():
                self.note(value, (*key, str(name)), origin)
        else:
            self.origins[key] = origin

    def expand(self, value: Any, key: Key = ()) -> Any:
        """Return the tree with ``${NAME}`` and ``${file:/path}`` replaced inside its strings."""
        if isinstance(value, dict):
            return {name: self.expand(item, (*key, str(name))) for name, item in value.items()}
        if isinstance(value, list):
            return [self.expand(item, (*key, str(at))) for at, item in enumerate(value)]
        if not isinstance(value, str):
            return value
        return _REFERENCE.sub(lambda found: self._secret(found, key), value)

    def _secret(self, found: re.Match[str], key: Key) -> str:
        source = found[2]
        try:
            if found[1]:
                secret = Path(source).read_text(encoding="utf-8").rstrip("\r\n")
            else:
                secret = self.environment[source]
        except (OSError, ValueError, KeyError) as exc:
            hint = "set the variable, or write ${file:/path}"
            got = "an unset variable" if isinstance(exc, KeyError) else type(exc).__name__
            self.fault(5, ".".join(key), f"{found[0]} to be readable", got, hint)
            secret = ""
        self.secrets[key] = (*self.secrets.get(key, ()), secret)
        return secret
