"""Every command in README and docs/ is one that the program takes, and a test runs it or says why
none does."""

from __future__ import annotations

import argparse
import ast
import importlib
import json
import os
import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml
from daphne.cli import CommandLineInterface
from django.core.management import CommandError, get_commands, load_command_class
from django.urls import resolve
from supervisor.supervisorctl import DefaultControllerPlugin

from drakkar.cli import COMMANDS
from drakkar_site.config.sources import load
from drakkar_site.views import api_missing
from integration.demo import terminal_env
from integration.demo.clusters import WORKER_PORTS
from tests.support.doc_commands import CHECKOUT, SHELL, Block, Command, blocks, commands, variants
from workers.config import ClusterConfig

COMPOSE = "integration/docker-compose.yml"
SITE = {"database_url": "postgresql://u@127.0.0.1/d", "secret_key": "s" * 50}
SAMPLES = {
    "since": "2026-03-14T00:00",
    "until": "2026-03-15T00:00",
    "run": "01890a5d-ac96-774b-bcce-b302099a8057",
    "id": "17",
}
"""What stands for the value that a usage line leaves out; else the first choice, or ``x``."""
NEEDED = {
    "handler": "integration.handlers.main:SearchHandler",
    "kafka": {"topic": "t", "group": "g"},
    "sinks": {"out": {"kind": "memory"}},
}
INSTALLED = "docs.examples.sqlite_sink:KIND"
"""What the entry point ``sqlite`` of the plug-in's page would name, were it installed."""

RUN_BY = {
    "manage.py check": ("tests/process/test_doc_commands.py", "test_the_quick_start_s_commands"),
    "manage.py create_token": (
        "tests/web/test_access.py",
        "test_create_token_makes_a_token_that_opens",
    ),
    "manage.py create_topics": ("tests/process/test_doc_commands.py", "test_topics_and_a_message"),
    "manage.py doctor": ("tests/process/test_doctor.py", "test_all_is_well_with_real_servers"),
    "manage.py drakkar_config": (
        "tests/process/test_command_line.py", "test_the_effective_configuration_as_json",
    ),
    "manage.py export_recorder": (
        "tests/contract/test_export_postgres.py",
        "test_the_command_exports_the_chosen_run",
    ),
    "manage.py migrate": ("tests/process/conftest.py", "migrate"),
    "manage.py probe_message": (
        "tests/process/test_doc_commands.py", "test_the_quick_start_s_commands",
    ),
    "manage.py prune_recorder": (
        "tests/contract/test_retention_postgres.py",
        "test_the_command_prunes_what_its_dry_run_names",
    ),
    "manage.py replay_dead_letters": (
        "tests/contract/test_replay.py", "test_a_dry_run_sends_nothing",
    ),
    "manage.py rerun": (
        "tests/contract/test_rerun.py", "test_the_command_previews_asks_and_tells",
    ),
    "manage.py runcontroller": ("tests/process/test_doc_commands.py", "test_a_controller_leads"),
    "manage.py runworker": ("tests/process/test_worker_stop.py", "test_sigterm_drains"),
    "manage.py record": (
        "tests/contract/test_send_and_record.py", "test_a_message_that_is_sent_can_be_recorded",
    ),
    "manage.py send": ("tests/process/test_doc_commands.py", "test_topics_and_a_message"),
    "manage.py tail": ("tests/contract/test_tail_command.py", "test_ctrl_c_ends_the_lease"),
    "manage.py top": ("tests/contract/test_top.py", "test_on_a_terminal_it_runs_until_q"),
    "manage.py trace": (
        "tests/contract/test_trace_command.py", "test_a_message_is_told_life_by_life",
    ),
    "daphne": ("tests/support/site.py", "running_site"),
    "make demo": (
        "tests/process/test_demo.py", "test_a_second_start_is_refused_and_stop_leaves_nothing",
    ),
    "make demo-status": (
        "tests/process/test_demo.py", "test_a_second_start_is_refused_and_stop_leaves_nothing",
    ),
    "make demo-stop": (
        "tests/process/test_demo.py", "test_a_second_start_is_refused_and_stop_leaves_nothing",
    ),
    "make sbom": (
        "tests/process/test_sbom.py",
        "test_it_has_what_runs_with_version_and_licence_and_nothing_of_the_tests",
    ),
    "helm": ("tests/structure/test_helm.py", "test_what_it_makes_is_valid"),
    "make help": ("tests/process/test_doc_commands.py", "test_make_help_lists_every_target"),
    "source": (
        "tests/process/test_demo.py", "test_a_second_start_is_refused_and_stop_leaves_nothing",
    ),
    "supervisorctl": ("tests/process/test_demo.py", "_stop_by_supervisorctl"),
    "curl": ("tests/web/test_doc_requests.py", "test_each_request_is_answered"),
    "cp": ("tests/process/test_doc_commands.py", "test_the_quick_start_s_commands"),
    **dict.fromkeys(
        (
            *("cd", "drakkar dev", "drakkar init"),
            *("pip", "python -m pytest", "python3"),
        ),
        ("tests/process/test_your_own_repository.py", "test_from_an_empty_folder_to_a_result"),
    ),
    "drakkar build_launcher": ("tests/process/test_wheel.py", "build_the_launcher"),
    "drakkar --help": ("tests/unit/test_cli.py", "test_the_help_names_every_command_of_ours"),
}  # fmt: skip
"""Program: the test, or what a test stands on, that runs it."""

RUN_BY_PEOPLE = {
    "python -m tests.structure.test_public_api": "writes the list of that test",
    "docker": "needs Docker; test_deployments and test_your_own_image hold what it is given",
    "make bench": "a measurement of minutes; its parts are tested by test_bench",
    "make chaos": "a run of minutes; test_chaos.py runs the short one",
    "make screenshots": "makes pictures; its stage is that of the browser tests",
    "make test": "runs this test",
    "make quick": "runs tests beside this one",
    "python -m integration.bench.listeners": "a measurement of minutes",
    "python -m integration.bench.pages": "a measurement of minutes",
    "python -m integration.bench.recorder_pressure": "a measurement of minutes",
    "python -m integration.bench.timeline": "a measurement of minutes",
}
ALL = list(commands())


def parsed(parser: argparse.ArgumentParser, command: Command) -> None:
    """Fails unless the parser takes the command; options without a value get a sample."""
    words: list[str] = []
    for at, word in enumerate(command.arguments):
        words.append(word)
        action = parser._option_string_actions.get(word)
        following = command.arguments[at + 1 : at + 2]
        if (
            action is not None
            and action.nargs not in (0, "*")
            and (not following or following[0][:2] == "--")
        ):
            words.append(SAMPLES.get(action.dest) or str(next(iter(action.choices or "x"))))
    try:
        parser.parse_args(words)
    except (CommandError, SystemExit) as exc:
        pytest.fail(f"{command}: {parser.prog} does not take {shlex.join(words)}: {exc}")


def of_manage(command: Command) -> None:
    name = command.program.partition(" ")[2]
    assert name in get_commands(), f"{command}: there is no such management command"
    if not command.is_mention:
        found = load_command_class(get_commands()[name], name)
        parsed(found.create_parser("manage.py", name), command)


def of_drakkar(command: Command) -> None:
    name = command.program.partition(" ")[2]
    if name == "--help":
        return
    (ours,) = (each for each in COMMANDS if each.name == name)
    if not ours.module:
        of_manage(command)
    elif not command.is_mention:
        parsed(importlib.import_module(ours.module).parser(), command)


def of_shell(command: Command) -> None:
    """What makes and enters an environment; the test that runs the page runs it."""
    assert command.arguments


def of_make(command: Command) -> None:
    """What make would run is asked of make itself."""
    target = command.program.partition(" ")[2]
    alone = {name: value for name, value in os.environ.items() if not name.startswith("MAKE")}
    done = subprocess.run(
        ["make", "--dry-run", "--no-print-directory", target, *command.arguments],
        cwd=CHECKOUT, env=alone, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert done.returncode == 0, f"{command}: {done.stderr}"
    given = [word for word in command.arguments if word]
    assert all(word.startswith("ARGS=") for word in given), f"{command}: expected ARGS=... only"
    if given:
        words = shlex.split(done.stdout.splitlines()[-1])
        of_module(_from_module(command, words[words.index("-m") :]))


def _from_module(command: Command, words: list[str]) -> Command:
    return Command(
        place=command.place,
        program=f"python -m {words[1]}",
        arguments=tuple(words[2:]),
        variables=(),
        is_mention=False,
    )


def of_module(command: Command) -> None:
    name = command.program.split()[2]
    module = importlib.import_module(name)
    if hasattr(module, "__path__"):
        module = importlib.import_module(f"{name}.__main__")
    if command.arguments:
        make_parser: Callable[[], argparse.ArgumentParser] | None = getattr(module, "parser", None)
        assert make_parser is not None, f"{command}: {module.__name__} has no parser()"
        parsed(make_parser(), command)


def of_curl(command: Command) -> None:
    """Only what the pages use; its address leads to a route. A test sends each (RUN_BY)."""
    known = argparse.ArgumentParser(prog="curl")
    known.add_argument("-H", action="append")
    known.add_argument("-d", type=json.loads)
    known.add_argument("url")
    parsed(known, command)
    view = resolve(urlsplit(known.parse_args(command.arguments).url).path).func
    assert view is not api_missing, f"{command}: no such route of the API"


def of_supervisorctl(command: Command) -> None:
    option, _, action, *names = command.arguments
    assert option == "-c"
    assert hasattr(DefaultControllerPlugin, f"do_{action}"), f"{command}: no such action"
    assert set(names) <= set(WORKER_PORTS), f"{command}: no such program"


def of_daphne(command: Command) -> None:
    parsed(CommandLineInterface().parser, command)
    assert command.arguments[-1] == "drakkar_site.asgi:application"


def of_docker(command: Command) -> None:
    """Run the demo, build from a Dockerfile here, or run a command of ours in such an image."""
    words = command.arguments
    match words:
        case ("build", "-t", _, "."):
            assert (CHECKOUT / "Dockerfile").is_file()
        case ("run", "--rm", "--read-only", "--tmpfs", "/tmp", _, name, *rest):
            program = f"drakkar {name}"
            of_drakkar(replace(command, program=program, arguments=tuple(rest), is_mention=False))
        case _:
            assert words == ("compose", "-f", COMPOSE, "up"), f"{command}: say what it is here"


def of_helm(command: Command) -> None:
    options = dict(zip(command.arguments[4::2], command.arguments[5::2], strict=True))
    assert command.arguments[:4] == ("upgrade", "--install", "drakkar", "integration/helm")
    for option, value in options.items():
        file = value.removeprefix("config=")
        assert option in {"--set-file", "--values"}, f"{command}: say what {option} is here"
        assert (CHECKOUT / file).is_file(), f"{command}: there is no {file}"


def of_cp(command: Command) -> None:
    source, _ = command.arguments
    assert (CHECKOUT / source).is_file(), f"{command}: there is no {source}"


def of_source(command: Command) -> None:
    (path,) = command.arguments
    is_known = path in (f".run/{terminal_env.NAME}", ".venv/bin/activate", "../.venv/bin/activate")
    assert is_known, f"{command}: no such file"


def of_variables(command: Command) -> None:
    """Variables alone: the test of variables below is all there is to them."""
    assert command.variables


KINDS = {
    "manage.py": of_manage,
    "drakkar": of_drakkar,
    **dict.fromkeys(("cd", "pip", "python3"), of_shell),
    "make": of_make,
    "python": of_module,
    "curl": of_curl,
    "supervisorctl": of_supervisorctl,
    "daphne": of_daphne,
    "docker": of_docker,
    "helm": of_helm,
    "cp": of_cp,
    "source": of_source,
    "": of_variables,
}


@pytest.mark.parametrize("command", ALL, ids=str)
def test_each_command_is_taken(command: Command) -> None:
    kind = command.program.partition(" ")[0]
    assert kind in KINDS, (
        f"{command}: an unknown kind of command: add a check of it to KINDS, and who runs it to "
        "RUN_BY; a fence that holds none is marked ```text"
    )
    KINDS[kind](command)


def test_each_program_is_run_by_a_test_or_says_why_not() -> None:
    named = {_plain(command.program) for command in ALL if command.program}
    assert named == RUN_BY.keys() | RUN_BY_PEOPLE.keys()
    assert not RUN_BY.keys() & RUN_BY_PEOPLE.keys()


def _plain(program: str) -> str:
    """A management command is one, whichever name it is called by."""
    modules = {f"drakkar {command.name}" for command in COMMANDS if command.module}
    name = program.removeprefix("drakkar ")
    is_managed = name != program and program not in modules and name != "--help"
    return f"manage.py {name}" if is_managed else program


@pytest.mark.parametrize("program", RUN_BY)
def test_who_runs_it_is_there(program: str) -> None:
    path, name = RUN_BY[program]
    tree = ast.parse((CHECKOUT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


CONFIGURED = [command for command in ALL if command.variables]


@pytest.mark.parametrize("command", CONFIGURED, ids=str)
def test_each_variable_is_read(command: Command, tmp_path: Path) -> None:
    ours = {name: value for name, value in command.variables if name.startswith("DRAKKAR_")}
    sinks = {"fast-one": {"kind": "kafka", "topic": "t"}}
    assert loaded(tmp_path, {"main": NEEDED | {"sinks": sinks}}, **ours) == []
    for name, _ in command.variables:
        assert name in ours or _is_read(name, command), f"{command}: nothing reads {name}"


def _is_read(name: str, command: Command) -> bool:
    if command.program == "docker":
        return f"${{{name}:-" in (CHECKOUT / COMPOSE).read_text()
    return f'"{name}"' in (CHECKOUT / "integration/demo/__main__.py").read_text()


def loaded(folder: Path, clusters: dict[str, Any], **environment: str) -> list[str]:
    """What the real loader says of a configuration with these clusters."""
    path = folder / "drakkar.yaml"
    path.write_text(yaml.safe_dump({"site": SITE, "clusters": clusters}))
    return [str(each) for each in load({"DRAKKAR_CONFIG": str(path), **environment}).problems]


def of_language(language: str) -> list[Any]:
    found = [block for block in blocks() if block.language == language]
    return [pytest.param(block, id=f"{block.page}:{block.line}") for block in found]


@pytest.mark.parametrize("block", of_language("yaml"))
def test_each_yaml_example_is_a_configuration(block: Block, tmp_path: Path) -> None:
    text = re.sub(r"\$\{file:[^}]+\}", "${KAFKA_PASSWORD}", block.text)
    found = yaml.safe_load(text.replace("kind: sqlite ", f"kind: {INSTALLED} "))
    if "clusters" in found:
        assert found.keys() == {"clusters"}
        assert loaded(tmp_path, found["clusters"], KAFKA_PASSWORD="x") == []
    else:
        assert found.keys() <= ClusterConfig.model_fields.keys(), "say where these keys stand"
        assert loaded(tmp_path, {"main": NEEDED | found}) == []


@pytest.mark.parametrize("block", of_language("python"))
def test_each_python_example_uses_what_a_handler_may_import(block: Block) -> None:
    compile(block.text, f"{block.page}:{block.line}", "exec")
    handler = vars(importlib.import_module("workers.handler"))
    tree = ast.parse(block.text)
    nodes = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    own = {node.id for node in nodes if isinstance(node.ctx, ast.Store)}
    own |= {node.arg for node in ast.walk(tree) if isinstance(node, ast.arg)}
    own |= {node.name for node in ast.walk(tree) if isinstance(node, ast.alias | ast.ClassDef)}
    used = {node.id for node in nodes if node.id not in own and node.id[0].isupper()}
    assert used - {"SearchRequest", "CountRequest"} <= handler.keys(), "those two are the reader's"


@pytest.mark.parametrize("block", of_language("toml"))
def test_each_toml_example_is_sound(block: Block) -> None:
    assert tomllib.loads(block.text)


def test_no_block_is_left_out() -> None:
    known = {*SHELL, "dockerfile", "yaml", "python", "toml", "text"}
    assert {block.language for block in blocks()} <= known


@pytest.mark.parametrize(
    ("usage", "lines"),
    [
        ("x --a 1", ["x --a 1"]),
        ("x [--a 1] [--b]", ["x --a 1 --b"]),
        ("x (--a T or --b F) [--c]", ["x --a T --c", "x --b F --c"]),
        ("x [--to here or there]", ["x --to here", "x --to there"]),
        ("x --f a|b -o F", ["x --f a -o F", "x --f b -o F"]),
    ],
)
def test_a_usage_stands_for_command_lines(usage: str, lines: list[str]) -> None:
    assert variants(usage) == lines
