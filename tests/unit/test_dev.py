"""``drakkar dev``: its plan, which changes count, and what other terminals find."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from drakkar_site.config.sources import State, load
from integration.demo import folder
from integration.demo.terminal_env import write_terminal_env
from integration.dev.changes import is_source, ticks, watched_folders
from integration.dev.environment import running_environment
from integration.dev.plan import (
    broker_environment,
    group_of_ones_own,
    sinks_outside,
    topics_of,
)
from integration.dev.stack import BadUse, LogReader, chosen_cluster

CLUSTER: dict[str, Any] = {
    "handler": "mytool:Handler",
    "kafka": {"brokers": "kafka.example:9092", "topic": "in", "group": "g"},
    "dead_letters": {"brokers": "letters.example:9092"},
    "sinks": {
        "near": {"kind": "kafka", "topic": "out"},
        "far-away": {"kind": "kafka", "topic": "far", "brokers": "far.example:9092"},
        "table": {"kind": "postgres", "dsn": "postgresql://u@db.example/d", "table": "t"},
        "files": {"kind": "file", "base_path": "out"},
    },
}
SITE = {"database_url": "postgresql://u@127.0.0.1/d", "secret_key": "s" * 50}


def loaded(tmp_path: Path, **clusters: Any) -> State:
    path = tmp_path / "drakkar.yaml"
    path.write_text(yaml.safe_dump({"site": SITE, "clusters": clusters}))
    return load({"DRAKKAR_CONFIG": str(path)})


def test_nothing_is_left_at_a_kafka_of_others(tmp_path: Path) -> None:
    config = loaded(tmp_path, **{"my-tool": CLUSTER}).config
    assert config is not None
    told = broker_environment("mock:1", config)
    path = str(tmp_path / "drakkar.yaml")
    moved = load({"DRAKKAR_CONFIG": path, **told}).config
    assert moved is not None
    text = moved.model_dump_json()
    assert text.count("mock:1") == 3
    assert not any(f"{name}.example:9092" in text for name in ("kafka", "letters", "far"))
    assert set(topics_of(moved)) == {"in", "in_dlq", "out", "far"}


def test_at_a_real_kafka_the_group_is_one_s_own(tmp_path: Path) -> None:
    loaded(tmp_path, **{"my-tool": CLUSTER})
    told = group_of_ones_own("my-tool", "g-dev-ada")
    moved = load({"DRAKKAR_CONFIG": str(tmp_path / "drakkar.yaml"), **told}).config
    assert moved is not None
    assert moved.clusters["my-tool"].kafka.group == "g-dev-ada"


def test_sinks_that_reach_servers_of_others_are_named(tmp_path: Path) -> None:
    config = loaded(tmp_path, main=CLUSTER).config
    assert config is not None
    assert list(sinks_outside(config.clusters["main"])) == [("table", "postgres")]


@pytest.mark.parametrize(
    ("names", "asked", "said"),
    [
        (("a", "b"), "", "expected one of a, b, got none"),
        (("a",), "c", "expected one of a, got c"),
    ],
)
def test_a_cluster_is_the_only_one_or_is_named(
    tmp_path: Path, names: tuple[str, ...], asked: str, said: str
) -> None:
    state = loaded(tmp_path, **dict.fromkeys(names, CLUSTER))
    with pytest.raises(BadUse, match=said):
        chosen_cluster(state, asked)
    assert chosen_cluster(state, names[0]) == names[0]


def test_a_wrong_configuration_is_named(tmp_path: Path) -> None:
    state = loaded(tmp_path, main={**CLUSTER, "handler": 7})
    with pytest.raises(BadUse, match=r"clusters\.main\.handler: expected"):
        chosen_cluster(state, "")


def test_hidden_folders_and_environments_are_not_watched(tmp_path: Path) -> None:
    for name in (".run/logs", ".git", "env/lib", "node_modules", "inner/deep", "__pycache__"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "env" / "pyvenv.cfg").touch()
    watched = {str(path.relative_to(tmp_path)) for path in watched_folders(tmp_path)}
    assert watched == {".", "inner", "inner/deep"}


def test_code_configuration_and_the_program_count() -> None:
    programs = frozenset({Path("/x/bin/tool")})
    for name in ("a.py", "drakkar.yaml", "b.toml", "bin/tool"):
        assert is_source(Path("/x", name), programs)
    for name in ("a.txt", "a.pyc", ".#a.py", "bin/other", "out.jsonl"):
        assert not is_source(Path("/x", name), programs)


def next_change(changes: Iterator[list[Path]]) -> list[Path]:
    return next(changed for changed in changes if changed)


def test_a_change_is_seen_also_in_a_folder_that_is_new(tmp_path: Path) -> None:
    changes = ticks(tmp_path, frozenset())
    assert next(changes) == []  # it watches from here on
    (tmp_path / "a.py").write_text("1")
    assert next_change(changes) == [tmp_path / "a.py"]
    (tmp_path / "new").mkdir()
    writing = threading.Event()

    def write() -> None:
        """A watch begins within a call of ``next``: write until a change is seen."""
        while not writing.wait(0.05):
            (tmp_path / "new" / "b.py").write_text("2")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert next_change(changes) == [tmp_path / "new" / "b.py"]
    finally:
        writing.set()
        writer.join()


def test_a_log_is_read_on_by_whole_lines_also_when_it_is_replaced(tmp_path: Path) -> None:
    log = LogReader(tmp_path / "log")
    assert log.read() == ""
    log.path.write_text("one\ntw")
    assert log.read() == "one\n"
    log.path.write_text("one\ntwo\n")
    assert log.read() == "two\n"
    log.path.write_text("new\n")
    assert log.read() == "new\n"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(folder, "RUN", tmp_path)
    write_terminal_env(tmp_path, {"DRAKKAR_SITE__URL": "a 'b' $c", "OTHER": "x"})
    return tmp_path


def test_what_runs_here_is_found_by_its_file(run: Path) -> None:
    with folder.lock():
        assert running_environment({"PATH": "x"}, run) == {"DRAKKAR_SITE__URL": "a 'b' $c"}
        assert running_environment({"DRAKKAR_CONFIG": "mine.yaml"}, run) == {}


def test_a_file_that_a_dead_one_left_is_not_followed(run: Path) -> None:
    assert running_environment({}, run) == {}
