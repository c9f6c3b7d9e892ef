"""Versions of handler and program: real git repositories, real programs."""

from __future__ import annotations

import asyncio
import importlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

import pytest

from tests.support.logs import captured_logs
from workers.handler import Handler
from workers.runtime.versions import (
    MAX_CHARS,
    SECONDS,
    commit_of,
    deployed_by,
    handler_version,
    program_version,
)

IDENTITY = {"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@b", "GIT_COMMITTER_NAME": "a"}


def git(folder: Path, *args: str) -> str:
    env = {**os.environ, **IDENTITY, "GIT_COMMITTER_EMAIL": "a@b"}
    done = subprocess.run(["git", "-C", folder, *args], env=env, capture_output=True, check=True)
    return done.stdout.decode().strip()


@pytest.fixture
def handler_file(tmp_path: Path) -> Path:
    file = tmp_path / "handler_of_versions.py"
    file.write_text("from workers.handler import Handler\nclass Ours(Handler): ...\n")
    git(tmp_path, "init", "-q")
    git(tmp_path, "add", "handler_of_versions.py")
    git(tmp_path, "commit", "-qm", "first")
    git(tmp_path, "tag", "v1")
    return file


def test_a_tracked_file_has_the_commit_of_its_repository(handler_file: Path) -> None:
    commit = git(handler_file.parent, "rev-parse", "HEAD")
    assert commit_of(handler_file) == commit[:12]
    handler_file.write_text("changed")
    assert commit_of(handler_file) == f"{commit[:12]}-dirty"


def test_a_file_that_its_repository_does_not_track_has_none(handler_file: Path) -> None:
    beside = handler_file.with_name("installed.py")
    beside.write_text("")
    assert commit_of(beside) == ""
    assert commit_of(Path("/proc/version")) == ""


def test_a_handlers_own_version_goes_before_the_commit(
    handler_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(handler_file.parent))
    module = importlib.import_module("handler_of_versions")
    handler: Handler[Any] = module.Ours({})
    assert handler_version(handler) == git(handler_file.parent, "rev-parse", "HEAD")[:12]
    module.Ours.version = "7.1\x1b" + "x" * 1000
    assert handler_version(handler) == ("7.1\\x1b" + "x" * 1000)[:MAX_CHARS]


def printed(script: str, cwd: str | None = None) -> str:
    command = ("/bin/sh", "-c", script)
    return asyncio.run(program_version(command, env={"PATH": "/usr/bin:/bin"}, cwd=cwd))


@pytest.mark.parametrize(
    ("script", "version"),
    [
        ("echo; echo ' rg 14.1 '; echo more", "rg 14.1"),
        ("echo java 21 >&2", "java 21"),
        ("echo key password=hush", "key password=***"),
        ("true", ""),
        ("head -c 1000000 /dev/zero | tr '\\0' x", "x" * MAX_CHARS),
    ],
    ids=["first line", "stderr", "masked", "silent", "long"],
)
def test_the_first_line_that_a_program_prints_is_its_version(script: str, version: str) -> None:
    assert printed(script) == version


@pytest.mark.parametrize(
    ("script", "cwd", "told"),
    [
        ("echo no such option; exit 2", None, "exit code 2: no such option"),
        ("sleep 60", None, f"it did not end within {SECONDS:g} s"),
        ("true", "/nowhere", "No such file or directory"),
    ],
    ids=["fails", "hangs", "no folder"],
)
def test_a_failure_is_told_and_leaves_the_version_unknown(
    script: str, cwd: str | None, told: str
) -> None:
    began = time.monotonic()
    with captured_logs() as lines:
        assert printed(script, cwd) == ""
    assert time.monotonic() - began < SECONDS + 2
    (line,) = lines
    assert line["event"] == "program_version_unknown"
    assert told in line["detail"]


def test_who_deployed_is_what_the_deployment_says_else_the_user_of_the_system() -> None:
    assert deployed_by({"DRAKKAR_DEPLOYED_BY": " ann (pipeline 12) "}) == "ann (pipeline 12)"
    assert deployed_by({}).startswith("system user ")
