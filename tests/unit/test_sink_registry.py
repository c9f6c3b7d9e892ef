"""Kinds of sinks are found by name, by dotted path and by entry point; what cannot be is named."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from pydantic import TypeAdapter, ValidationError

from docs.examples.sqlite_sink import KIND, SqlitePayload, SqliteSinkConfig
from domain.payload import MemoryPayload
from sinks.config import SinkConfig
from sinks.lane import build_lane
from sinks.registry import SinkContext, SinkKind, SinkSection, build_sink, find, known_kinds
from sinks.router import Router, UnknownSink

DOTTED = "docs.examples.sqlite_sink:KIND"
SECTION: TypeAdapter[Any] = TypeAdapter(SinkSection)


@pytest.fixture
def plugins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of installed packages that offers three kinds, one of which works."""
    (tmp_path / "raising_plugin.py").write_text("1 / 0\n")
    installed = tmp_path / "plugin-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: plugin\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[drakkar.sinks]\n"
        f"lite = {DOTTED}\n"
        "broken = raising_plugin:KIND\n"
        "other = docs.examples.sqlite_sink:TABLE\n"
        "memory = raising_plugin:KIND\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    sys.modules.pop("raising_plugin", None)


def test_a_dotted_path_names_a_kind() -> None:
    assert find(DOTTED) is KIND
    section = SECTION.validate_python({"kind": DOTTED, "path": "x.db", "max_batch": 7})
    assert isinstance(section, SqliteSinkConfig)
    assert (section.path, section.max_batch) == ("x.db", 7)


def test_an_entry_point_names_a_kind(plugins: Path) -> None:
    assert find("lite") is KIND
    assert SECTION.validate_python({"kind": "lite", "path": "x.db"}).path == "x.db"
    assert {"kafka", "http", "file", "lite", "broken"} <= set(known_kinds())


def test_a_built_in_name_cannot_be_taken(plugins: Path) -> None:
    assert find("memory").payload is MemoryPayload


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("nothing", "expected one of .*kafka.*, got 'nothing'"),
        ("broken", "ZeroDivisionError"),
        ("other", "expected a SinkKind, got str"),
        ("raising_plugin:KIND", "ZeroDivisionError"),
        ("no.such.module:KIND", "ModuleNotFoundError"),
        ("docs.examples.sqlite_sink:NONE", "NONE"),
        ("docs.examples.sqlite_sink:TABLE", "expected a SinkKind, got str"),
    ],
)
def test_a_kind_that_cannot_be_had_is_named(name: str, text: str, plugins: Path) -> None:
    with pytest.raises(LookupError, match=text):
        find(name)
    with pytest.raises(ValidationError, match=text):
        SECTION.validate_python({"kind": name})


def test_a_plugins_section_is_its_own_models() -> None:
    with pytest.raises(ValidationError, match="path"):
        SECTION.validate_python({"kind": DOTTED})


def test_a_plugins_payloads_are_known_by_their_class() -> None:
    """Also where the kind is registered under no name."""
    section = SECTION.validate_python({"kind": DOTTED, "path": "x.db"})
    context = SinkContext(cluster="c", name="lite", source_brokers="", source_client={})
    lane = build_lane(section, context, None)
    letters = cast(Any, SimpleNamespace())
    router = Router({"lite": lane}, letters, tell=lambda event: None, wall=lambda: 0.0)
    router.check([SqlitePayload(sink="lite", record={})])
    with pytest.raises(UnknownSink, match="expected SqlitePayload, got MemoryPayload"):
        router.check([MemoryPayload(sink="lite")])


class Earlier:
    """A plugin of the seam before ``encode`` and ``send``."""

    kind = "earlier"

    def __init__(self, config: Any, context: Any) -> None:
        """Nothing to keep."""

    def open(self) -> None:
        """Nothing to open."""

    def deliver(self, batch: Any) -> None:
        """Store it."""

    def close(self) -> None:
        """Nothing to close."""


BY_CLASS = SinkKind(
    name="earlier",
    config=SinkConfig,
    payload=MemoryPayload,
    build=Earlier,  # type: ignore[arg-type]
)


def test_a_plugin_of_an_earlier_seam_is_refused_before_anything_is_delivered() -> None:
    with pytest.raises(LookupError, match="got none of the name encode, send"):
        find(f"{__name__}:BY_CLASS")
    context = SinkContext(cluster="c", name="s", source_brokers="", source_client={})
    with pytest.raises(TypeError, match="got none of the name encode, send"):
        build_sink(BY_CLASS, SinkConfig(kind="earlier"), context)
