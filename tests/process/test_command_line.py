"""Real ``manage.py`` processes: exit codes, named errors before anything connects, help."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import get_commands, load_command_class

from drakkar.cli import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
NOWHERE = "127.0.0.1:1"
GOOD: dict[str, Any] = {
    "site": {"database_url": f"postgresql://u@{NOWHERE}/d", "secret_key": "k" * 40},
    "clusters": {
        "main": {
            "handler": "integration.handlers.main:SearchHandler",
            "kafka": {"brokers": NOWHERE, "topic": "t", "group": "g"},
            "executor": {"binary": "integration/bin/run-rg"},
            "sinks": {"out": {"kind": "kafka", "topic": "o"}},
        }
    },
}
Done = subprocess.CompletedProcess[str]


def run(folder: Path, text: str, *arguments: str, **environment: str) -> Done:
    path = folder / "drakkar.yaml"
    path.write_text(text)
    kept = {name: value for name, value in os.environ.items() if "DRAKKAR_" not in name}
    environment = kept | {"DRAKKAR_CONFIG": str(path)} | environment
    command = [sys.executable, *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )


def changed(**sections: Any) -> str:
    main = GOOD["clusters"]["main"] | sections
    return yaml.safe_dump(GOOD | {"clusters": {"main": main}})


WORKER = ("manage.py", "runworker", "--cluster", "main")
MAX = "DRAKKAR_CLUSTERS__MAIN__EXECUTOR__MAX_EXECUTORS"
REFUSED = [
    (changed(handler="no.such:Handler"), {}, "clusters.main.handler: expected an importable"),
    (changed(executor={"binary": "/no/such"}), {}, "executor.binary: expected a program, got"),
    (changed(sinks={"o": {"kind": "tape"}}), {}, "sinks.o.kind: expected one of file, http"),
    (changed(executor={"max_executors": -1}), {}, "max_executors: expected 1 or more, got -1"),
    (changed(bach={}), {}, "clusters.main.bach: expected a known key, got 'bach'"),
    ("site: {\nclusters: x", {}, "line 2, column 12: expected valid YAML, got"),
    (changed(), {MAX: "many"}, f"max_executors (from {MAX}): expected an integer, got 'many'"),
]


@pytest.mark.parametrize(("text", "environment", "said"), REFUSED)
def test_a_worker_refuses_before_it_connects(
    tmp_path: Path, text: str, environment: dict[str, str], said: str
) -> None:
    done = run(tmp_path, text, *WORKER, **environment)
    assert done.returncode == 2, done.stderr
    assert said in done.stderr
    assert "[drakkar.E0" in done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""


@pytest.mark.parametrize("name", ["a\x1b[31m", "a" * 256, "two\nlines"])
def test_a_worker_s_name_is_short_and_printable(tmp_path: Path, name: str) -> None:
    done = run(tmp_path, changed(), *WORKER, WORKER_ID=name)
    assert done.returncode == 2
    assert done.stderr.startswith("--name, WORKER_ID: expected at most 255 printable characters")
    assert "\x1b" not in done.stderr


def test_check_lists_the_same_errors_and_exits_one(tmp_path: Path) -> None:
    text = changed(handler="no.such:Handler", bach={})
    done = run(tmp_path, text, "manage.py", "check")
    assert done.returncode == 1
    assert "(drakkar.E020) clusters.main.handler: expected" in done.stderr
    assert "(drakkar.E010) clusters.main.bach: expected" in done.stderr
    assert "HINT: did you mean batch?" in done.stderr


def test_daphne_does_not_serve_a_broken_configuration(tmp_path: Path) -> None:
    served = ("-m", "daphne", "-p", "0", "drakkar_site.asgi:application")
    done = run(tmp_path, changed(bach={}), *served)
    assert done.returncode == 2
    assert "clusters.main.bach: expected a known key, got 'bach'" in done.stderr


def test_other_commands_do_not_need_the_handler(tmp_path: Path) -> None:
    text = changed(handler="no.such:Handler", executor={"binary": "/no/such"})
    done = run(tmp_path, text, "manage.py", "create_token", "--user", "u", "--days", "-1")
    assert done.returncode == 2, done.stderr
    assert "--days: expected 0 or more, got -1" in done.stderr


def test_the_effective_configuration_ends_quietly_when_nobody_reads_on(tmp_path: Path) -> None:
    names = {f"KEY_{number:05}": "x" * 100 for number in range(2_000)}  # more than a pipe holds
    path = tmp_path / "drakkar.yaml"
    path.write_text(changed(executor={"env": names}))
    shell = f"{sys.executable} manage.py drakkar_config | head -1; echo ${{PIPESTATUS[0]}}"
    environment = os.environ | {"DRAKKAR_CONFIG": str(path)}
    command = ["bash", "-c", shell]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.stdout.splitlines()[0].startswith("site.database_url = ")
    assert (done.stdout.splitlines()[-1], done.stderr) == ("0", "")


def test_the_effective_configuration_as_json(tmp_path: Path) -> None:
    given = {MAX: "7"}
    done = run(tmp_path, changed(), "manage.py", "drakkar_config", "--json", **given)
    assert done.returncode == 0, done.stderr
    shown = {each["key"]: each for each in json.loads(done.stdout)}
    wanted = {"key": "clusters.main.executor.max_executors", "value": 7, "source": MAX}
    assert shown[wanted["key"]] == wanted
    assert shown["site.secret_key"]["value"] == "***"


OURS = {
    name: app
    for name, app in get_commands().items()
    if (ROOT / app.replace(".", "/") / "management/commands" / f"{name}.py").is_file()
}


@pytest.mark.parametrize("name", sorted(OURS))
def test_each_command_shows_an_example(name: str) -> None:
    parser = load_command_class(OURS[name], name).create_parser("manage.py", name)
    shown = " ".join(parser.format_help().split())
    assert f"xample: manage.py {name}" in shown


LIGHT = (
    "import workers.handler",
    "import drakkar; drakkar.Handler, drakkar.Task",
    "from drakkar.cli import main; main(['drakkar'])",
    "from drakkar.cli import main; main(['drakkar', '--help'])",
    "from drakkar.cli import main; main(['drakkar', '--version'])",
)


@pytest.mark.parametrize("code", LIGHT)
def test_neither_a_handler_nor_help_needs_django(code: str) -> None:
    code = f"import sys; {code}; sys.exit('django' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60, check=False).returncode == 0


def test_help_lists_all_our_commands(tmp_path: Path) -> None:
    done = run(tmp_path, changed(), "-m", "drakkar", "--help")
    listed = re.findall(r"^  (\w+) {2,}\S", done.stdout, re.MULTILINE)
    assert set(listed) == {command.name for command in COMMANDS}
    assert set(OURS) == {command.name for command in COMMANDS if not command.module}
    assert len(set(listed)) == len(listed)


def test_help_of_one_command_is_its_own(tmp_path: Path) -> None:
    done = run(tmp_path, changed(), "-m", "drakkar", "runcontroller", "--help")
    assert "Run the fleet's controller" in done.stdout
