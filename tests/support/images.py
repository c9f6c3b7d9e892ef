"""Images, made by a builder or, where there is none, by their Dockerfile's commands in a folder.

``InContainers`` needs docker or podman. ``InFolder`` reads FROM, RUN, COPY, ENV, WORKDIR, USER,
ENTRYPOINT, HEALTHCHECK and CMD, and runs the same commands with every path of the image's own below
a folder. Python stands in for the image that a Dockerfile begins with; what only packages and users
of a system are made by is left out and named in ``left_out``.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from string import Template
from typing import Protocol

from tests.support.ordinary_user import NOBODY, as_ordinary_user, interpreter

OF_THE_IMAGE = re.compile(r"(?<![\w./)-])/(?=(?:app|build|srv|var|venv)\b)")
"""The slash that begins a path which the image makes for itself."""
OF_THE_SYSTEM = frozenset({"apt-get", "rm", "chmod", "useradd"})
STEP_SECONDS = 300
RUN_SECONDS = 120

Done = subprocess.CompletedProcess[str]


class Image(Protocol):
    """An image that can be run."""

    def run(self, *arguments: str, program: Sequence[str] = ()) -> Done:
        """Run it as its user with its entry point, or with ``program`` in that one's place."""
        ...


def builder() -> str | None:
    """A program that builds and runs images here; None without one."""
    for name in ("docker", "podman"):
        if shutil.which(name):
            done = subprocess.run([name, "info"], capture_output=True, timeout=60, check=False)
            if done.returncode == 0:
                return name
    return None


@dataclass(frozen=True, slots=True)
class InContainer:
    """An image of a builder, run with a root file system that is read-only."""

    tool: str
    tag: str

    def run(self, *arguments: str, program: Sequence[str] = ()) -> Done:
        """See Image."""
        entry = ["--entrypoint", program[0]] if program else []
        words = [self.tool, "run", "--rm", "--read-only", "--tmpfs", "/tmp", *entry, self.tag]
        return _done([*words, *program[1:], *arguments], Path.cwd(), None, RUN_SECONDS)


def in_container(tool: str, context: Path, tag: str, base: str = "") -> InContainer:
    """Build the Dockerfile of a folder, upon ``base`` if it is one of a user's."""
    given = ["--build-arg", f"DRAKKAR_IMAGE={base}"] if base else []
    done = _done([tool, "build", "-t", tag, *given, "."], context, None, 4 * STEP_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    return InContainer(tool, tag)


@dataclass(frozen=True, slots=True, kw_only=True)
class InFolder:
    """What the Dockerfile's commands made below ``root``."""

    root: Path
    environment: Mapping[str, str]
    folder: str = "/"
    user: str = "root"
    entry: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    health: tuple[str, ...] = ()
    left_out: frozenset[str] = field(default_factory=frozenset)

    def run(self, *arguments: str, program: Sequence[str] = ()) -> Done:
        """See Image. Process 1 of an image that only passes signals on is left out."""
        words = [*(program or self.entry[self.entry[:2] == ("tini", "--") and 2 :]), *arguments]
        mapped = [self.at(word) for word in words]
        is_same = self.user == "root" or interpreter() is None
        argv = mapped if is_same else as_ordinary_user(*mapped)
        return _done(argv, self.path(self.folder), self.environment, RUN_SECONDS)

    def at(self, text: str) -> str:
        """A text with the image's paths below the root."""
        return OF_THE_IMAGE.sub(f"{self.root}/", text)

    def path(self, inside: str) -> Path:
        """Where a path of the image is, from its working directory if it is relative."""
        return self.root / (Path(self.folder) / inside).relative_to("/")


def in_folder(
    dockerfile: Path, place: Path, python: str, images: Mapping[str, InFolder] | None = None
) -> InFolder:
    """Carry out a Dockerfile whose context is its folder, below ``place``; the last stage.

    ``images`` by name are those that it may begin with; each other one is the given Python.
    """
    stages: dict[str, InFolder] = {}
    variables: dict[str, str] = {}
    image = InFolder(root=place, environment={})
    for name, text in steps(dockerfile.read_text()):
        if name == "ARG":
            key, _, value = text.partition("=")
            variables[key] = value
        elif name == "FROM":
            source, *alias = Template(text).substitute(variables).split(" AS ")
            image = (images or {}).get(source) or _first(place, python, stages)
            stages[alias[0] if alias else ""] = image
        else:
            image = _after(image, name, text, dockerfile.parent, stages)
            stages[next(reversed(stages))] = image
    return image


def steps(dockerfile: str) -> list[tuple[str, str]]:
    """Each instruction as its name and its arguments, continued lines joined."""
    lines = dockerfile.replace("\\\n", " ").splitlines()
    pairs = [line.split(maxsplit=1) for line in lines if line and not line.startswith("#")]
    return [(name, rest) for name, rest in pairs]


def _first(place: Path, python: str, stages: dict[str, InFolder]) -> InFolder:
    """An empty root with nothing but Python. The stages before move aside: a virtual environment
    names its own place, so that each stage has to be made where the image will be."""
    root = place / "root"
    for name, stage in stages.items():
        if stage.root == root:
            stages[name] = replace(stage, root=root.rename(place / f"stage-{name}"))
    (root / "python").mkdir(parents=True)
    program = root / "python" / "python"
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(python)} "$@"\n')
    program.chmod(0o755)
    ours = ("DRAKKAR_", "DJANGO_", "PYTHON", "VIRTUAL_ENV")
    kept = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
    return InFolder(root=root, environment={**kept, "PATH": f"{program.parent}:/usr/bin:/bin"})


def _after(
    image: InFolder, name: str, text: str, context: Path, stages: Mapping[str, InFolder]
) -> InFolder:
    """The image after one instruction."""
    match name:
        case "WORKDIR":
            image.path(text).mkdir(parents=True, exist_ok=True)
            return replace(image, folder=text)
        case "USER":
            return replace(image, user=text)
        case "ENV":
            pairs = [word.partition("=") for word in shlex.split(text)]
            known = dict(image.environment)
            given = {key: Template(image.at(value)).substitute(known) for key, _, value in pairs}
            return replace(image, environment={**known, **given})
        case "COPY":
            _copy(image, text.split(), context, stages)
            return image
        case "RUN":
            return _run(image, text)
        case "ENTRYPOINT":
            return replace(image, entry=tuple(json.loads(text)), command=())
        case "CMD":
            return replace(image, command=tuple(json.loads(text)))
        case "HEALTHCHECK":
            return replace(image, health=tuple(json.loads(text.partition(" CMD ")[2])))
        case "VOLUME":
            assert image.path(text).is_dir()
            return image
    raise AssertionError(f"{name}: nobody here knows what it does")


def _copy(image: InFolder, words: list[str], context: Path, stages: Mapping[str, InFolder]) -> None:
    options = dict(word[2:].split("=") for word in words if word.startswith("--"))
    *sources, target = [word for word in words if not word.startswith("--")]
    for source in sources:
        found = stages[options["from"]].path(source) if "from" in options else context / source
        to = image.path(target)
        if found.is_dir():
            shutil.copytree(found, to, symlinks=True, dirs_exist_ok=True)
        else:
            to.mkdir(parents=True, exist_ok=True)
            shutil.copy2(found, to)


def _run(image: InFolder, text: str) -> InFolder:
    """Run what is not the system's, one command after another."""
    left_out = set(image.left_out)
    for command in text.split(" && "):
        first = command.split()[0]
        is_owner = first == "chown"
        if first in OF_THE_SYSTEM or (is_owner and os.geteuid() != 0):
            left_out.add(first)
            continue
        words = command.replace("drakkar:drakkar", f"{NOBODY}:{NOBODY}") if is_owner else command
        shell = ["sh", "-ec", image.at(words)]
        done = _done(shell, image.path("."), image.environment, STEP_SECONDS)
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    return replace(image, left_out=frozenset(left_out))


def _done(
    argv: Sequence[str], folder: Path, environment: Mapping[str, str] | None, seconds: float
) -> Done:
    return subprocess.run(
        argv, cwd=folder, env=environment, capture_output=True, text=True, timeout=seconds,
        stdin=subprocess.DEVNULL, check=False,
    )  # fmt: skip
