"""The command line: ``drakkar`` where it is installed, ``manage.py`` in the checkout.

Help and version are said without Django, which takes half a second to start.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from importlib import import_module
from itertools import groupby
from pathlib import Path

from workers.version import said_version


class Section(StrEnum):
    """Heading of commands in the help."""

    PROJECT = "Your project"
    RUN = "Run"
    LOOK = "Look"
    ACT = "Act"
    SET_UP = "Set up"


@dataclass(frozen=True, slots=True)
class Command:
    """A command of ours. ``module`` has its ``main(arguments) -> exit code``; '': a management
    command of that name in an app. ``extra`` of the package brings what the module needs."""

    section: Section
    name: str
    summary: str
    module: str = ""
    extra: str = ""


COMMANDS = (
    Command(Section.PROJECT, "init", "write a new repository from a template", "drakkar.scaffold"),
    Command(
        Section.PROJECT,
        "dev",
        "run the cluster of this folder, with Kafka, Postgres and the page",
        "integration.dev.__main__",
        extra="demo",
    ),
    Command(Section.RUN, "runworker", "run a worker of a cluster"),
    Command(Section.RUN, "runcontroller", "run the fleet's controller"),
    Command(Section.LOOK, "tail", "follow the output of a running task"),
    Command(Section.LOOK, "top", "watch workers, slots, lag and failures"),
    Command(Section.LOOK, "trace", "show the timeline of a message"),
    Command(Section.LOOK, "record", "write the last messages of a topic to a file"),
    Command(Section.LOOK, "probe_message", "show what one message would do; nothing is written"),
    Command(Section.LOOK, "export_recorder", "write events of the history to a file"),
    Command(Section.ACT, "send", "write messages to a topic"),
    Command(Section.ACT, "rerun", "run messages again, by what became of them"),
    Command(Section.ACT, "replay_dead_letters", "send dead letters back to where they came from"),
    Command(Section.SET_UP, "check", "say what is wrong with the configuration"),
    Command(Section.SET_UP, "doctor", "say what is missing on this machine, and what to do"),
    Command(Section.SET_UP, "drakkar_config", "print the configuration in force, secrets masked"),
    Command(Section.SET_UP, "migrate", "bring the database up to date"),
    Command(Section.SET_UP, "create_topics", "make the topics of the clusters in Kafka"),
    Command(Section.SET_UP, "create_token", "make a token for the API"),
    Command(Section.SET_UP, "prune_recorder", "delete the history's oldest days"),
    Command(
        Section.SET_UP,
        "build_launcher",
        "compile the launcher in C, for quicker starts",
        "drakkar.build_launcher",
    ),
)
"""Commands of ours, in the order of the help; those of one section stand together."""

FOLLOWING = ("doctor", "record", "send", "tail", "top", "trace")
"""Commands that, where the environment names nothing of ours, look at what runs in this folder."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Run a command line, by default that of this process. Raises SystemExit unless it ended well.

    Modules of the working directory can be imported, after those that are installed.
    """
    words = list(sys.argv if arguments is None else arguments)
    fill_standard_streams()
    if said_version(words):
        return
    if words[1:] in ([], ["help"], ["--help"], ["-h"]):
        sys.stdout.write(help_text(Path(words[0]).name))
        return
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.append(here)
    command = next((each for each in COMMANDS if each.name == words[1]), None)
    if command is not None and command.module:
        raise SystemExit(_run_module(command, words[2:]))
    _run_django(words)


def help_text(program: str) -> str:
    """Return the commands of ours, by section."""
    width = max(len(command.name) for command in COMMANDS)
    lines = [f"Usage: {program} COMMAND [OPTIONS]    ({program} COMMAND --help tells of one)", ""]
    for section, commands in groupby(COMMANDS, lambda command: command.section):
        lines += [f"{section}:"]
        lines += [f"  {command.name:<{width}}  {command.summary}" for command in commands]
        lines += [""]
    lines += [f"Django's commands work too: {program} help --commands"]
    return "\n".join(lines) + "\n"


def fill_standard_streams() -> None:
    """Open ``/dev/null`` where the process got no stdin, stdout or stderr.

    Else the next socket gets that number, and what a library prints goes to whom it leads to.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number


def _run_module(command: Command, arguments: list[str]) -> int:
    try:
        module = import_module(command.module)
    except ModuleNotFoundError as exc:
        if not command.extra:
            raise
        what = f"expected the package {exc.name}, got none"
        hint = f"pip install 'drakkar[{command.extra}]'"
        sys.stderr.write(f"drakkar {command.name}: {what}; {hint}\n")
        return 2
    return int(module.main(arguments))


def _follow_what_runs_here(command: str) -> None:
    from integration.dev.environment import running_environment

    if found := running_environment(os.environ):
        os.environ.update(found)
        sys.stderr.write(f"{command}: the servers of .run/env, which run here\n")


def _run_django(words: list[str]) -> None:
    if words[1] in FOLLOWING:
        _follow_what_runs_here(words[1])
    is_worker = words[1:2] == ["runworker"]
    module = "drakkar_site.worker_settings" if is_worker else "drakkar_site.settings"
    os.environ.setdefault("DJANGO_SETTINGS_MODULE", module)
    from django.core.management import execute_from_command_line

    from drakkar_site.config.report import refuse
    from drakkar_site.settings import DRAKKAR_PROBLEMS
    from workers.executor.isolation import hide_from_tasks

    hide_from_tasks()
    refuse(DRAKKAR_PROBLEMS, words)
    execute_from_command_line(words)
