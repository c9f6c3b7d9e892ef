"""``drakkar init``: what is written, and what is refused."""

from __future__ import annotations

import argparse
import ast
import os
from pathlib import Path

import pytest
import yaml
from compose_spec.models import ComposeSpecification

from drakkar.scaffold import Answers, Refused, asked, checked, main, rendered, write
from drakkar_site.config.sources import load

ANSWERS = Answers(name="my_tool", topic="texts")


def made(folder: Path, *words: str) -> int:
    return main(["my_tool", "--folder", str(folder), "--yes", *words])


def test_what_is_written_can_be_used(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert made(folder) == 0
    state = load({"DRAKKAR_CONFIG": str(folder / "drakkar.yaml")})
    assert state.problems == ()
    assert state.config is not None
    cluster = state.config.clusters["my_tool"]
    assert (cluster.handler, cluster.kafka.topic) == ("my_tool:MyToolHandler", "my_tool-requests")
    assert cluster.executor.binary == "bin/my_tool"
    assert os.access(folder / "bin" / "my_tool", os.X_OK)
    for path in (folder / "my_tool.py", folder / "bin" / "my_tool"):
        ast.parse(path.read_text())
    compose = yaml.safe_load((folder / "compose.yml").read_text())
    ComposeSpecification.model_validate({k: v for k, v in compose.items() if k[:2] != "x-"})
    workflow = yaml.safe_load((folder / ".github" / "workflows" / "test.yml").read_text())
    assert {"run": "python -m pytest"} in workflow["jobs"]["test"]["steps"]


def test_the_containers_variables_are_keys_of_the_configuration(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert made(folder) == 0
    variables = yaml.safe_load((folder / "compose.yml").read_text())["x-app"]["environment"]
    state = load({"DRAKKAR_CONFIG": str(folder / "drakkar.yaml"), **variables})
    assert state.problems == ()
    assert state.config is not None
    assert state.config.clusters["my_tool"].kafka.brokers == "kafka:9092"


def test_nothing_of_the_template_is_left_in_a_file() -> None:
    files = rendered(ANSWERS)
    assert {Path(".gitignore"), Path("tests/test_my_tool.py"), Path("my_tool.py")} <= files.keys()
    for path, text in files.items():
        assert "_name_" not in str(path)
        assert "$name" not in text


def test_a_program_of_one_s_own_is_taken_as_it_is(tmp_path: Path) -> None:
    folder = tmp_path / "new"
    assert made(folder, "--program", "/opt/it's here: #1") == 0
    assert not (folder / "bin").exists()
    config = yaml.safe_load((folder / "drakkar.yaml").read_text())
    assert config["clusters"]["my_tool"]["executor"]["binary"] == "/opt/it's here: #1"


@pytest.mark.parametrize(
    "name", ["", "Tool", "1tool", "my-tool", "../x", "a b", "x" * 41, "class", "json", "workers"]
)
def test_a_name_that_is_no_module_of_its_own_is_refused(name: str) -> None:
    with pytest.raises(Refused, match=r"^NAME: expected"):
        checked(Answers(name=name, topic="t"))


@pytest.mark.parametrize("topic", ["", "a b", "x" * 201, "a\nb", "a$b"])
def test_a_topic_that_kafka_refuses_is_refused(topic: str) -> None:
    with pytest.raises(Refused, match=r"^--topic: expected"):
        checked(Answers(name="tool", topic=topic))


def test_a_folder_with_something_in_it_stays_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").write_text("mine")
    assert made(tmp_path) == 2
    assert [path.name for path in tmp_path.iterdir()] == ["mine"]
    assert "expected an empty folder or none" in capsys.readouterr().err


def test_a_file_in_the_folder_s_place_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Refused):
        write(tmp_path / "file", {})


def test_options_are_not_asked_for_and_an_empty_answer_is_the_default() -> None:
    questions = []

    def ask(question: str) -> str:
        questions.append(question)
        return ""

    given = argparse.Namespace(name="my_tool", topic=None, program="wc")
    assert asked(given, ask) == Answers(name="my_tool", topic="my_tool-requests", program="wc")
    (question,) = questions
    assert question.startswith("Topic")
