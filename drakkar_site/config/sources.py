"""Where configuration comes from: one YAML file and the environment over it.

The only reader of os.environ. Loading never raises: what is wrong is kept in ``State.problems``.
"""

from __future__ import annotations

import os
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from pydantic import ValidationError

from domain.problem import Problem
from drakkar_site.config.report import describe
from drakkar_site.config.tree import Config, SiteConfig

ROOTS = ("site", "clusters")
Key = tuple[str, ...]
_REFERENCE = re.compile(r"\$\{(file:)?([^}]+)\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """What was loaded: ``config`` is None while there are problems; ``site`` always stands."""

    config: Config | None
    site: SiteConfig
    problems: tuple[Problem, ...]
    tree: dict[str, Any]
    origins: Mapping[Key, str]
    path: Path


@dataclass(slots=True)
class _Reading:
    environment: Mapping[str, str]
    tree: dict[str, Any] = field(default_factory=dict)
    origins: dict[Key, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def fault(self, number: int, key: str, expected: str, got: str, hint: str) -> None:
        self.problems.append(
            Problem(id=f"drakkar.E{number:03}", key=key, expected=expected, got=got, hint=hint)
        )


def environment() -> dict[str, str]:
    """The process environment, for those who may not read it themselves."""
    return dict(os.environ)


def load(environment: Mapping[str, str] | None = None) -> State:
    """Read ``DRAKKAR_CONFIG`` (default ``drakkar.yaml``), environment over file."""
    reading = _Reading(os.environ if environment is None else environment)
    path = Path(reading.environment.get("DRAKKAR_CONFIG", "drakkar.yaml"))
    _read_file(reading, path)
    for name in sorted(reading.environment):
        if _is_override(name):
            _read_variable(reading, name)
    tree = _expand(reading, reading.tree, ())
    config = _validate(reading, tree)
    return State(
        config=None if reading.problems else config,
        site=_site(tree),
        problems=tuple(reading.problems),
        tree=tree,
        origins=reading.origins,
        path=path,
    )


def _read_file(reading: _Reading, path: Path) -> None:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as exc:
        if "DRAKKAR_CONFIG" in reading.environment or path.exists():
            hint = "DRAKKAR_CONFIG names the configuration file"
            reading.fault(1, str(path), "a readable UTF-8 file", str(exc), hint)
        return
    except yaml.YAMLError as exc:
        mark = getattr(exc, "problem_mark", None)
        where = f"{path}, line {mark.line + 1}, column {mark.column + 1}" if mark else str(path)
        got = str(getattr(exc, "problem", None) or exc)
        reading.fault(2, where, "valid YAML", got, "look at this line and the one above it")
        return
    if tree is not None and not isinstance(tree, dict):
        reading.fault(2, str(path), "a mapping with 'site' and 'clusters'", type(tree).__name__, "")
        return
    reading.tree = tree or {}
    _note_origins(reading, reading.tree, (), str(path))


def _note_origins(reading: _Reading, node: Any, key: Key, origin: str) -> None:
    if isinstance(node, dict):
        for name, value in node.items():
            _note_origins(reading, value, (*key, str(name)), origin)
    else:
        reading.origins[key] = origin


def _is_override(name: str) -> bool:
    upper = name.upper()
    return upper.startswith("DRAKKAR_") and (
        "__" in name or upper.removeprefix("DRAKKAR_").lower() in ROOTS
    )


def _fold(name: str) -> str:
    return name.lower().replace("-", "_")


def _matching(node: Mapping[str, Any], part: str, parent: str) -> str:
    """The existing key that this part of a variable's name means, else a new one."""
    for name in node:
        if _fold(str(name)) == _fold(part):
            return name
    # Names of environment variables keep their case, all other keys are lower-case.
    return part if parent == "env" else part.lower()


def _read_variable(reading: _Reading, name: str) -> None:
    parts = name[len("DRAKKAR_") :].split("__")
    if _fold(parts[0]) not in ROOTS or not all(parts):
        hint = "as in DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXECUTORS=8"
        reading.fault(4, name, "DRAKKAR_SITE__... or DRAKKAR_CLUSTERS__...", "another name", hint)
        return
    node: dict[str, Any] = reading.tree
    key: Key = ()
    for part in parts[:-1]:
        match = _matching(node, part, key[-1] if key else "")
        key = (*key, match)
        if node.get(match) is None:
            node[match] = {}
        if not isinstance(node[match], dict):
            reading.fault(4, name, f"{'.'.join(key)} to be a mapping", "a plain value", "")
            return
        node = node[match]
    last = _matching(node, parts[-1], key[-1] if key else "")
    node[last] = _typed(reading.environment[name])
    _note_origins(reading, node[last], (*key, last), name)


def _typed(text: str) -> Any:
    """Lists, mappings, quoted text and null as YAML; all else stays text for the field's type."""
    if text.strip() != "null" and not text.strip().startswith(("[", "{", '"')):
        return text
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        return text


def _expand(reading: _Reading, value: Any, key: Key) -> Any:
    """The tree with ``${NAME}`` and ``${file:/path}`` replaced inside its strings."""
    if isinstance(value, dict):
        return {name: _expand(reading, item, (*key, str(name))) for name, item in value.items()}
    if isinstance(value, list):
        return [_expand(reading, item, key) for item in value]
    if not isinstance(value, str):
        return value
    return _REFERENCE.sub(lambda found: _secret(reading, found, key), value)


def _secret(reading: _Reading, found: re.Match[str], key: Key) -> str:
    source = found[2]
    try:
        if found[1]:
            return Path(source).read_text(encoding="utf-8").rstrip("\r\n")
        return reading.environment[source]
    except (OSError, UnicodeDecodeError, KeyError) as exc:
        hint = "set the variable, or write ${file:/path}"
        got = "an unset variable" if isinstance(exc, KeyError) else type(exc).__name__
        reading.fault(5, ".".join(key), f"{found[0]} to be readable", got, hint)
        return ""


def _validate(reading: _Reading, tree: dict[str, Any]) -> Config | None:
    try:
        return Config.model_validate(tree)
    except ValidationError as exc:
        # After a file that cannot be read, every key is missing: saying so would hide the cause.
        if not any(problem.id in ("drakkar.E001", "drakkar.E002") for problem in reading.problems):
            reading.problems += describe(exc, reading.origins, tree)
        return None


def _site(tree: Mapping[str, Any]) -> SiteConfig:
    """The site section; when it is broken, one that connects nowhere and serves nobody."""
    try:
        return SiteConfig.model_validate(tree.get("site"))
    except ValidationError:
        return SiteConfig(
            database_url="postgresql://nobody@configuration-is-broken.invalid/nothing",
            secret_key=secrets.token_urlsafe(48),
        )
