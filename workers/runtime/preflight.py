"""Checks of what must be right on this machine before a worker connects to anything."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from domain.masking import is_secret, mask
from domain.problem import Problem
from domain.tracebacks import error_text
from workers.broker.named_topics import named_topics
from workers.config import ClusterConfig


def preflight(name: str, cluster: ClusterConfig) -> list[Problem]:
    """Problems of one cluster's handler, its settings, its program and its retry topic; empty: it
    can start."""
    executor = cluster.executor
    return [
        *retry_problems(name, cluster),
        *handler_problems(name, cluster.handler, cluster.app),
        *binary_problems(name, executor.model_dump()),
    ]


def retry_problems(name: str, cluster: ClusterConfig) -> Iterator[Problem]:
    """Name what else the retry topic is used for: its messages are run as deferred ones only."""
    *others, retries = named_topics(cluster)
    if cluster.retry.topic is None:
        return
    for other in others:
        if (other.topic, other.brokers) == (retries.topic, retries.brokers):
            yield Problem(
                id="drakkar.E034",
                key=f"clusters.{name}.retry.topic",
                expected="a topic of its own",
                got=f"{retries.topic!r}, which is also the cluster's topic of {other.role}",
                hint="name another, and create it with manage.py create_topics",
            )


def program_problems(name: str, dotted: Any, binary: Any) -> Iterator[Problem]:
    """Name what keeps any program from being run: the cluster's default, or one that tasks bring.

    A handler that cannot be had is ``handler_problems``' to name.
    """
    from workers.runtime.task_programs import may_bring_programs

    module, colon, attribute = str(dotted).partition(":")
    if binary is not None or not colon:
        return
    if may_bring_programs(getattr(import_module(module), attribute)):
        return
    yield Problem(
        id="drakkar.E032",
        key=f"clusters.{name}.executor.binary",
        expected="a program, since the handler's tasks name none (Task.binary, precomputed)",
        got="none",
        hint="set executor.binary, or give each task its own by Task(binary=...)",
    )


def handler_problems(name: str, dotted: Any, app: Any) -> Iterator[Problem]:
    """Name why the handler cannot be imported, is none, or refuses its ``app`` section."""
    key = f"clusters.{name}.handler"
    module, colon, attribute = str(dotted).partition(":")
    if not isinstance(dotted, str) or not colon:
        return  # the structure check names it
    from workers.handler import Handler

    try:
        found = getattr(import_module(module), attribute)
    except KeyboardInterrupt:
        raise
    except BaseException as exc:  # noqa: BLE001 - a module may end in sys.exit, even with code 0
        yield Problem(
            id="drakkar.E020",
            key=key,
            expected="an importable package.module:Class",
            got=f"{dotted!r} ({error_text(exc)})",
            hint="the module must be on PYTHONPATH and hold that class",
        )
        return
    if not (isinstance(found, type) and issubclass(found, Handler)):
        hint = "derive it from workers.handler.Handler"
        yield Problem(
            id="drakkar.E021", key=key, expected="a Handler class", got=repr(dotted), hint=hint
        )
        return
    model = getattr(found, "settings_model", None)
    if isinstance(model, type) and issubclass(model, BaseModel):
        yield from _app_problems(name, model, app)


def _app_problems(name: str, model: type[BaseModel], app: Any) -> Iterator[Problem]:
    try:
        model.model_validate(app)
    except ValidationError as exc:
        for detail in exc.errors(include_url=False):
            parts = [str(part) for part in detail["loc"]]
            is_hidden = any(is_secret(part) for part in parts)
            yield Problem(
                id="drakkar.E022",
                key=".".join(("clusters", name, "app", *parts)),
                expected=detail["msg"],
                got="***" if is_hidden else repr(mask(detail["input"]))[:200],
                hint="the handler's settings_model says what it takes",
            )
    except Exception as exc:  # noqa: BLE001 - a validator of the user's may raise anything
        yield Problem(
            id="drakkar.E022",
            key=f"clusters.{name}.app",
            expected="what the handler's settings_model takes",
            got=f"a validator that raised {error_text(exc)}",
            hint="let validators raise ValueError for what they refuse",
        )


def binary_problems(name: str, executor: Mapping[str, Any]) -> Iterator[Problem]:
    """Name what is missing of the default program and the tasks' directory, if configured."""
    binary, cwd, env = executor.get("binary"), executor.get("cwd"), executor.get("env")
    if isinstance(cwd, str) and not Path(cwd).is_dir():
        hint = "make it, or name one that the worker's user may enter"
        key = f"clusters.{name}.executor.cwd"
        yield Problem(
            id="drakkar.E033", key=key, expected="a directory", got=f"{cwd!r}: none", hint=hint
        )
        return
    if not isinstance(binary, str):
        return
    # The PATH of the tasks, not ours.
    search = env.get("PATH") if isinstance(env, Mapping) else None
    found = shutil.which(binary, path=search if isinstance(search, str) else None)
    path = Path(cwd or ".") / binary if "/" in binary else Path(found or binary)
    key = f"clusters.{name}.executor.binary"
    if not path.is_file():
        hint = "install it, or give its path; a bare name is looked up on PATH"
        yield Problem(
            id="drakkar.E030", key=key, expected="a program", got=f"{binary!r}: missing", hint=hint
        )
    elif not os.access(path, os.X_OK):
        yield Problem(
            id="drakkar.E031",
            key=key,
            expected="an executable file",
            got=f"{binary!r}: not executable",
            hint=f"chmod +x {binary}",
        )
