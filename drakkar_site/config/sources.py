"""Sources of the configuration: one YAML file and the environment over it.

The only reader of os.environ. Loading never raises: what is wrong is kept in ``State.problems``.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from domain.masking import Key
from domain.problem import Problem
from drakkar_site.config.env_source import EnvironmentSource
from drakkar_site.config.reading import Reading
from drakkar_site.config.report import describe
from drakkar_site.config.tree import Config, SiteConfig
from drakkar_site.config.yaml_source import of_file

_UNREADABLE = frozenset({"drakkar.E001", "drakkar.E002"})


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """Loaded configuration: ``config`` is None while there are problems; ``site`` always stands.

    ``secrets`` names the keys whose value holds a ``${...}``, with what it was replaced by."""

    config: Config | None
    site: SiteConfig
    problems: tuple[Problem, ...]
    tree: dict[str, Any]
    origins: Mapping[Key, str]
    secrets: Mapping[Key, tuple[str, ...]]
    path: Path

    @property
    def secret_texts(self) -> frozenset[str]:
        """Everything that a ``${...}`` was replaced by."""
        return frozenset(text for texts in self.secrets.values() for text in texts)

    def secret_keys(self, cluster: str) -> frozenset[Key]:
        """Return the keys below ``clusters.<cluster>`` that are secret whatever they are called."""
        return frozenset(key[2:] for key in self.secrets if key[:2] == ("clusters", cluster))


def environment() -> dict[str, str]:
    """Return the process environment, for those who may not read it themselves."""
    return dict(os.environ)


def load(environment: Mapping[str, str] | None = None) -> State:
    """Read ``DRAKKAR_CONFIG`` (default ``drakkar.yaml``), environment over file."""
    reading = Reading(os.environ if environment is None else environment)
    path = Path(reading.environment.get("DRAKKAR_CONFIG", "drakkar.yaml"))
    config = _validated(reading, path)
    return State(
        config=None if reading.problems else config,
        site=_site(reading.tree),
        problems=tuple(each.without(reading.secret_texts) for each in reading.problems),
        tree=reading.tree,
        origins=reading.origins,
        secrets=reading.secrets,
        path=path,
    )


def _validated(reading: Reading, path: Path) -> Config | None:
    file = of_file(reading, path)
    reading.tree = reading.expand(_laid_over(EnvironmentSource(reading, file).tree, file))
    try:
        return Config.model_validate(reading.tree)
    except ValidationError as exc:
        # After a file that cannot be read, every key is missing: saying so would hide the cause.
        if not any(problem.id in _UNREADABLE for problem in reading.problems):
            reading.problems += describe(exc, reading)
        return None


def _laid_over(above: Mapping[str, Any], below: Mapping[str, Any]) -> dict[str, Any]:
    """Return both trees as one; where a key is no mapping in both, the upper one counts."""
    merged = {**below, **above}
    for name in above.keys() & below.keys():
        if isinstance(above[name], dict) and isinstance(below[name], dict):
            merged[name] = _laid_over(above[name], below[name])
    return merged


def _site(tree: Mapping[str, Any]) -> SiteConfig:
    """Return the site section; when it is broken, one that connects nowhere and serves nobody."""
    try:
        return SiteConfig.model_validate(tree.get("site"))
    except ValidationError:
        return SiteConfig(
            database_url="postgresql://nobody@configuration-is-broken.invalid/nothing",
            secret_key=secrets.token_urlsafe(48),
        )
