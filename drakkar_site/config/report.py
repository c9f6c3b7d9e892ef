"""Says what is wrong with the configuration, and where each value comes from."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from domain.masking import MASK, is_secret, mask
from domain.problem import Problem
from drakkar_site.config.tree import Config, SiteConfig
from workers.config import ClusterConfig

Key = tuple[str, ...]
LENIENT = frozenset({"check", "help", "--help", "-h", "version", "--version"})

_BOUNDS = {
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "{le} or less",
    "less_than": "less than {lt}",
    "string_pattern_mismatch": "text matching {pattern}",
    "string_too_short": "at least {min_length} characters",
    "string_too_long": "at most {max_length} characters",
    "too_short": "at least {min_length} of them",
    "literal_error": "{expected}",
    "missing": "a value",
}
_TYPES = {
    "int": "an integer",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "tuple": "a list",
    "list": "a list",
    "dict": "a mapping",
    "model": "a mapping",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Value:
    """One key of the effective configuration, masked, and where it comes from."""

    key: str
    value: Any
    source: str


def describe(
    error: ValidationError, origins: Mapping[Key, str], tree: Mapping[str, Any]
) -> list[Problem]:
    """Every line of pydantic's error in our words; names the variable that set the key."""
    return [_problem(detail, origins) for detail in error.errors(include_url=False)]


def _problem(detail: ErrorDetails, origins: Mapping[Key, str]) -> Problem:
    key = tuple(str(part) for part in detail["loc"])
    variable = _variable(origins, key)
    shown = ".".join(key) + (f" (from {variable})" if variable else "")
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown(key, shown)
    if kind == "sink_kind":
        return _bad_sink(detail, shown)
    return Problem(
        id="drakkar.E011" if kind == "missing" else "drakkar.E012",
        key=shown,
        expected=_expected(detail),
        got="nothing" if kind == "missing" else _got(key, detail["input"]),
        hint="docs/configuration.md lists every key with its default and meaning",
    )


def _variable(origins: Mapping[Key, str], key: Key) -> str | None:
    for known, origin in origins.items():
        if origin.upper().startswith("DRAKKAR_") and known[: len(key)] == key:
            return origin
    return None


def _unknown(key: Key, shown: str) -> Problem:
    known = _siblings(key)
    close = difflib.get_close_matches(key[-1], known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return Problem(
        id="drakkar.E010", key=shown, expected="a known key", got=repr(key[-1]), hint=hint
    )


def _siblings(key: Key) -> list[str]:
    """The keys known where this one stands."""
    models: dict[str, type[BaseModel]] = {"site": SiteConfig, "clusters": ClusterConfig}
    if len(key) == 1:
        return list(Config.model_fields)
    model = models.get(key[0])
    for part in key[1:-1] if key[0] == "site" else key[2:-1]:
        inner = model.model_fields.get(part) if model else None
        found: Any = inner.annotation if inner else None
        model = found if isinstance(found, type) and issubclass(found, BaseModel) else None
    return list(model.model_fields) if model else []


def _bad_sink(detail: ErrorDetails, shown: str) -> Problem:
    text = str(detail.get("ctx", {}).get("problem", "expected a mapping with 'kind', got none"))
    expected, _, got = text.removeprefix("expected ").rpartition(", got ")
    return Problem(
        id="drakkar.E013",
        key=f"{shown}.kind",
        expected=expected or "an importable sink kind",
        got=got or text,
        hint="plugins add kinds by the entry point drakkar.sinks or by a dotted path",
    )


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    return _TYPES.get(kind.split("_")[0], detail["msg"])


def _got(key: Key, value: Any) -> str:
    if any(is_secret(part) for part in key):
        return MASK
    return repr(mask(value, key[-1] if key else ""))[:200]


def effective(config: Config, origins: Mapping[Key, str]) -> Iterator[Value]:
    """Each leaf of the configuration: masked, with its file, variable or ``default``."""
    yield from _leaves(mask(config.model_dump(mode="json")), (), origins)


def _leaves(node: Any, key: Key, origins: Mapping[Key, str]) -> Iterator[Value]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, (*key, str(name)), origins)
    else:
        yield Value(key=".".join(key), value=node, source=origins.get(key, "default"))


def refuse(problems: Sequence[Problem], arguments: Sequence[str]) -> None:
    """Exit 2 with every problem on stderr, unless the command can work without configuration."""
    if not problems or not arguments[1:] or arguments[1] in LENIENT or "--help" in arguments:
        return
    for problem in problems:
        hint = f"\n    hint: {problem.hint}" if problem.hint else ""
        sys.stderr.write(f"{problem}  [{problem.id}]{hint}\n")
    raise SystemExit(2)
