"""Says what is wrong with the configuration, and where each value comes from."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from domain.masking import MASK, Key, is_secret, mask_at
from domain.problem import Problem
from drakkar_site.config.env_source import PREFIX
from drakkar_site.config.reading import Reading
from drakkar_site.config.tree import Config, SiteConfig
from sinks.config import SinkConfig
from sinks.registry import find
from workers.config import ClusterConfig

LENIENT = frozenset({"check", "doctor", "help", "--help", "-h", "version", "--version"})

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


def describe(error: ValidationError, reading: Reading) -> list[Problem]:
    """Every line of pydantic's error in our words; names the variable that set the key."""
    details = error.errors(include_url=False)
    strays = _strays(details, reading)
    rest = [detail for detail in details if not any(_key(detail)[: len(at)] == at for at in strays)]
    return [_stray(at, reading) for at in strays] + [_problem(each, reading) for each in rest]


def _key(detail: ErrorDetails) -> Key:
    return tuple(str(part) for part in detail["loc"])


def _strays(details: Iterable[ErrorDetails], reading: Reading) -> list[Key]:
    """Clusters and sinks made by a variable alone that are far from complete: misspelt names."""
    lacking = [_key(each) for each in details if each["type"] in ("missing", "sink_kind")]
    return [at for at in reading.invented if any(key[: len(at)] == at for key in lacking)]


def _stray(at: Key, reading: Reading) -> Problem:
    parent: Any = reading.tree
    for part in at[:-1]:
        parent = parent.get(part, {})
    known = [str(name) for name in parent if (*at[:-1], str(name)) not in reading.invented]
    close = difflib.get_close_matches(at[-1], known, n=1)
    what = "sink" if len(at) > 2 else "cluster"
    hint = f"a new {what} needs its required keys; docs/configuration.md lists them"
    return Problem(
        id="drakkar.E006",
        key=f"{'.'.join(at)} (from {reading.invented[at]})",
        expected=f"a {what} of the file ({', '.join(known) or 'it has none'})",
        got=repr(at[-1]),
        hint=f"did you mean {close[0]}?" if close else hint,
    )


def _problem(detail: ErrorDetails, reading: Reading) -> Problem:
    key = _key(detail)
    variable = _variable(reading.origins, key)
    shown = ".".join(key) + (f" (from {variable})" if variable else "")
    kind = detail["type"]
    if kind == "extra_forbidden":
        return _unknown(key, shown, reading.tree)
    if kind == "sink_kind":
        return _bad_sink(detail, ".".join((*key, "kind")) + shown[len(".".join(key)) :])
    return Problem(
        id="drakkar.E011" if kind == "missing" else "drakkar.E012",
        key=shown,
        expected=_expected(detail),
        got="nothing" if kind == "missing" else _got(key, detail["input"], reading.secrets),
        hint="docs/configuration.md lists every key with its default and meaning",
    )


def _variable(origins: Mapping[Key, str], key: Key) -> str | None:
    for known, origin in origins.items():
        if origin.upper().startswith(PREFIX) and known[: len(key)] == key:
            return origin
    return None


def _unknown(key: Key, shown: str, tree: Mapping[str, Any]) -> Problem:
    known = _siblings(key, tree)
    close = difflib.get_close_matches(key[-1], known, n=1)
    hint = f"did you mean {close[0]}?" if close else f"known here: {', '.join(known)}"
    return Problem(
        id="drakkar.E010", key=shown, expected="a known key", got=repr(key[-1]), hint=hint
    )


def _siblings(key: Key, tree: Mapping[str, Any]) -> list[str]:
    """Return the keys known where this one stands."""
    if len(key) == 1:
        return list(Config.model_fields)
    model: type[BaseModel] | None = SiteConfig if key[0] == "site" else ClusterConfig
    parts = key[1:-1] if key[0] == "site" else key[2:-1]
    if parts[:1] == ("sinks",):
        return list(_sink_model(tree["clusters"][key[1]]["sinks"][key[3]]).model_fields)
    found: Any = model
    for part in parts:
        if get_origin(found) is dict:  # Of names that people choose, by name.
            found = get_args(found)[1]
        else:
            inner = model.model_fields.get(part) if model else None
            found = inner.annotation if inner else None
        is_model = isinstance(found, type) and issubclass(found, BaseModel)
        model = found if is_model else None
    return list(model.model_fields) if model else []


def _sink_model(section: Mapping[str, Any]) -> type[SinkConfig]:
    return find(str(section["kind"])).config


def _bad_sink(detail: ErrorDetails, shown: str) -> Problem:
    text = str(detail.get("ctx", {}).get("problem", "expected a mapping with 'kind', got none"))
    expected, _, got = text.removeprefix("expected ").rpartition(", got ")
    return Problem(
        id="drakkar.E013",
        key=shown,
        expected=expected or "an importable sink kind",
        got=got or text,
        hint="plugins add kinds by the entry point drakkar.sinks or by a dotted path",
    )


def _expected(detail: ErrorDetails) -> str:
    kind, context = detail["type"], detail.get("ctx", {})
    if kind in _BOUNDS:
        return _BOUNDS[kind].format(**context)
    return _TYPES.get(kind.split("_")[0], detail["msg"])


def _got(key: Key, value: Any, secrets: Mapping[Key, tuple[str, ...]]) -> str:
    if any(is_secret(part) for part in key):
        return MASK
    return repr(mask_at(value, secrets, key))[:200]


def effective(
    config: Config, origins: Mapping[Key, str], secrets: Mapping[Key, tuple[str, ...]]
) -> Iterator[Value]:
    """Each leaf of the configuration: masked, with its file, variable or ``default``."""
    yield from _leaves(mask_at(config.model_dump(mode="json"), secrets), (), origins)


def _leaves(node: Any, key: Key, origins: Mapping[Key, str]) -> Iterator[Value]:
    if isinstance(node, dict) and node:
        for name, value in node.items():
            yield from _leaves(value, (*key, str(name)), origins)
    else:
        yield Value(key=".".join(key), value=node, source=origins.get(key, "default"))


def refuse(problems: Sequence[Problem], arguments: Sequence[str]) -> None:
    """Exit 2 with every problem on stderr, unless the command can work without configuration."""
    is_lenient = not arguments[1:] or arguments[1] in LENIENT or "--help" in arguments
    if problems and not is_lenient:
        stop(problems)


def stop(problems: Sequence[Problem]) -> NoReturn:
    """Exit 2 with every problem on stderr."""
    sys.stderr.write("".join(f"{problem.report}\n" for problem in problems))
    raise SystemExit(2)
