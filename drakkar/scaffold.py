"""``drakkar init NAME``: write a new repository from the template beside this file.

The template is the folder ``template``: each file ends in ``.tmpl`` and is read as a
``string.Template``; ``dot_`` at the start of a name is a dot, ``_name_`` is the new one's name.
"""

from __future__ import annotations

import argparse
import json
import keyword
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from string import Template

from workers.version import VERSION

TEMPLATE = Path(__file__).parent / "template"
NAME = re.compile(r"[a-z][a-z0-9_]{0,39}")
TOPIC = re.compile(r"[A-Za-z0-9._-]{1,200}")
OURS = (
    *("docs", "domain", "drakkar", "drakkar_site", "integration", "manage", "recorder"),
    *("sinks", "templates", "tests", "workers"),
)
"""Modules that one of the user's would hide, or be hidden by."""
BAD_USE = 2
EXECUTABLE = 0o755


class Refused(ValueError):
    """Raised for a name, folder or answer that cannot be used; the text says what can."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answers:
    """What is asked of whoever makes a repository; ``program`` empty: one is written."""

    name: str
    topic: str
    program: str = ""

    @property
    def values(self) -> dict[str, str]:
        """Values of the template's names."""
        program = self.program or f"bin/{self.name}"
        return {
            "name": self.name,
            "handler": "".join(word.title() for word in self.name.split("_")) + "Handler",
            "topic": self.topic,
            "upper": self.name.upper(),
            "program": json.dumps(program),
            "version": VERSION,
        }


def checked(answers: Answers) -> Answers:
    """Return the answers. Raises Refused, naming the one that is wrong."""
    name = answers.name
    if NAME.fullmatch(name) is None:
        raise Refused(f"NAME: expected [a-z][a-z0-9_]*, at most 40 characters, got {name[:60]!r}")
    if keyword.iskeyword(name) or name in OURS or name in sys.stdlib_module_names:
        raise Refused(f"NAME: expected no name of a module that is there already, got {name!r}")
    if TOPIC.fullmatch(answers.topic) is None:
        what = "expected 1 to 200 letters, digits, dots, dashes, underscores"
        raise Refused(f"--topic: {what}, got {answers.topic[:60]!r}")
    if answers.program and (len(answers.program) > 1000 or not answers.program.isprintable()):
        raise Refused(f"--program: expected a path or name, got {answers.program[:60]!r}")
    return answers


def rendered(answers: Answers) -> dict[Path, str]:
    """Return the text of each file of the new repository, by its path in it."""
    files = {}
    for source in sorted(TEMPLATE.rglob("*.tmpl")):
        path = _target(source.relative_to(TEMPLATE), answers.name)
        if path.parts[0] == "bin" and answers.program:
            continue
        files[path] = Template(source.read_text(encoding="utf-8")).substitute(answers.values)
    return files


def _target(path: Path, name: str) -> Path:
    parts = [part.replace("_name_", name) for part in path.with_suffix("").parts]
    return Path(*(f".{p.removeprefix('dot_')}" if p.startswith("dot_") else p for p in parts))


def write(folder: Path, files: Mapping[Path, str]) -> None:
    """Write the files into a folder that is empty or not there. Raises Refused or OSError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise Refused(f"{folder}: expected an empty folder or none; choose another, or empty it")
    for path, text in files.items():
        target = folder / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")
        if path.parts[0] == "bin":
            target.chmod(EXECUTABLE)


def asked(given: argparse.Namespace, ask: Callable[[str], str] | None) -> Answers:
    """Return the answers: options first, then what ``ask`` brings, then the defaults."""

    def answer(option: str | None, question: str, default: str, shown: str) -> str:
        if option is not None:
            return option
        said = ask(f"{question} [{shown}]: ").strip() if ask is not None else ""
        return said or default

    topic = f"{given.name}-requests"
    return Answers(
        name=given.name,
        topic=answer(given.topic, "Topic that it reads", topic, topic),
        program=answer(
            given.program, "Program it runs for a message", "", "a small one of its own"
        ),
    )


def _ask(question: str) -> str:
    """Return a line of the terminal; empty at its end. Raises Refused at Ctrl-C."""
    try:
        return input(question)
    except EOFError:
        return ""
    except KeyboardInterrupt as exc:
        raise Refused("nothing is written") from exc


def parser() -> argparse.ArgumentParser:
    """The command line."""
    root = argparse.ArgumentParser(
        prog="drakkar init",
        description="Write a new repository: handler, program, configuration, test, image.",
        epilog="Example: drakkar init mytool --program wc --topic texts --yes",
    )
    root.add_argument("name", help="of its folder, module and cluster: [a-z][a-z0-9_]*")
    root.add_argument("--program", help="run for each message; default: a small script is written")
    root.add_argument("--topic", help="Kafka topic that is read; default: NAME-requests")
    root.add_argument("--folder", type=Path, help="default: ./NAME; must be empty or not there")
    root.add_argument("--yes", action="store_true", help="ask nothing, take the defaults")
    return root


def main(arguments: list[str] | None = None) -> int:
    """Run the command: 0 written, 2 refused."""
    given = parser().parse_args(arguments)
    is_asking = sys.stdin.isatty() and not given.yes
    try:
        checked(Answers(name=given.name, topic="topic"))
        answers = checked(asked(given, _ask if is_asking else None))
        folder = given.folder or Path(answers.name)
        write(folder, rendered(answers))
    except (Refused, OSError) as exc:
        sys.stderr.write(f"drakkar init: {exc}\n")
        return BAD_USE
    sys.stdout.write(
        f"{folder}/ is written. Next:\n"
        f"  cd {folder}\n"
        "  drakkar check\n"
        "  drakkar dev\n"
        f"and in another terminal there:\n"
        f'  drakkar send {answers.topic} \'{{"text": "one two three"}}\'\n'
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
