"""The stable surface changes on purpose only, and never without a line in the changelog.

After a change that is meant: ``python -m tests.structure.test_public_api`` writes the list anew and
prints its fingerprint, with which a line in CHANGELOG.md says what changed.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from dataclasses import is_dataclass
from enum import Enum
from hashlib import sha256
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

from tests.support.doc_commands import blocks

ROOT = Path(__file__).resolve().parents[2]
STORED = Path(__file__).with_name("public_api.txt")
MODULES = ("drakkar", "drakkar.sinks", "drakkar.testing")
INSIDE = {"domain", "drakkar_site", "integration", "recorder", "sinks", "workers"}
OURS = ("domain.", "sinks.", "workers.", "drakkar.")


def surface() -> list[str]:
    """One line a name, signature, field and member of the public modules."""
    lines: list[str] = []
    for module_name in MODULES:
        module = import_module(module_name)
        for name in module.__all__:
            lines += described(f"{module_name}.{name}", getattr(module, name))
    return lines


def described(name: str, thing: Any) -> Iterator[str]:
    if isinstance(thing, type) and issubclass(thing, Enum):
        yield name
        yield from (f"{name}.{member.name} = {member.value!r}" for member in thing)
    elif isinstance(thing, type) and issubclass(thing, BaseModel):
        yield name
        for key, field in thing.model_fields.items():
            yield f"{name}.{key}" + ("" if field.is_required() else f" = {field.default!r}")
    elif isinstance(thing, type):
        is_protocol = getattr(thing, "_is_protocol", False)
        has_signature = is_dataclass(thing) or ("__init__" in vars(thing) and not is_protocol)
        yield name + (str(inspect.signature(thing)) if has_signature else "")
        notes = {} if is_dataclass(thing) else inspect.get_annotations(thing)
        fields = (f"{name}.{key}: {note}" for key, note in notes.items() if key[0] != "_")
        yield from sorted([*fields, *members(name, thing)])
    elif inspect.isfunction(thing):
        yield f"{name}{inspect.signature(thing)}"
    else:
        yield f"{name} = {thing}"


def members(name: str, cls: type[Any]) -> Iterator[str]:
    """Public methods and properties of a class and those of its bases that are ours."""
    ours = [base for base in cls.__mro__ if base.__module__.startswith(OURS)]
    found = {key: value for base in reversed(ours) for key, value in vars(base).items()}
    for key, value in found.items():
        if key.startswith("_"):
            continue
        if isinstance(value, property):
            yield f"{name}.{key}: {inspect.signature(value.fget or len).return_annotation}"
        elif inspect.isfunction(value):
            is_async = inspect.iscoroutinefunction(value)
            yield f"{name}.{key}{inspect.signature(value)}" + (" async" if is_async else "")
        elif isinstance(value, classmethod):
            yield f"{name}.{key}{inspect.signature(value.__func__)} of the class"


def fingerprint(lines: list[str]) -> str:
    return sha256("\n".join(lines).encode()).hexdigest()[:8]


def test_the_surface_is_the_stored_one() -> None:
    assert surface() == STORED.read_text().splitlines(), __doc__


def test_the_changelog_tells_of_the_surface() -> None:
    of_stored = fingerprint(STORED.read_text().splitlines())
    told = f"Public API `{of_stored}`"
    is_told = told in (ROOT / "CHANGELOG.md").read_text()
    assert is_told, f"CHANGELOG.md: expected a line '- {told}: what changed'"


def test_all_that_is_promised_is_on_the_page() -> None:
    page = (ROOT / "docs/public-api.md").read_text()
    named = {name for module in MODULES for name in import_module(module).__all__}
    assert not {name for name in named if f"`{name}`" not in page}


SHOWN = [
    *(
        (f"{block.page}:{block.line}", block.text)
        for block in blocks()
        if block.language == "python"
    ),
    *((str(path.relative_to(ROOT)), path.read_text()) for path in ROOT.glob("docs/examples/*.py")),
    *((path.name, path.read_text()) for path in ROOT.glob("drakkar/template/**/*.py.tmpl")),
]


@pytest.mark.parametrize(("place", "text"), SHOWN, ids=[place for place, _ in SHOWN])
def test_what_is_shown_imports_the_public_face_only(place: str, text: str) -> None:
    imported = set(re.findall(r"^ *(?:from|import) ([\w.]+)", text, re.MULTILINE))
    assert not {name for name in imported if name.partition(".")[0] in INSIDE}
    assert {name for name in imported if name.partition(".")[0] == "drakkar"} <= {*MODULES}


if __name__ == "__main__":
    STORED.write_text("".join(f"{line}\n" for line in surface()))
    print(fingerprint(surface()))
