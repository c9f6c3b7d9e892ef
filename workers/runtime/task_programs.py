"""Find whether a handler's tasks may bring programs of their own, as far as its source tells.

What tasks bring shows itself only when the handler runs. Known before is that none can, where no
call in the handler, or in what it uses that may make tasks, gives ``binary`` or ``precomputed``.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from types import FunctionType, ModuleType
from typing import Any

from domain.task import Task
from workers.handler import Handler

_BRINGING = frozenset({"binary", "precomputed"})
_OWN = frozenset({"domain", "workers"})
"""Packages that know ``Task`` and make none for a handler."""


def may_bring_programs(handler: type[Handler[Any]]) -> bool:
    """False only where nothing can; source that is not to be had may do anything."""
    package = handler.__module__.partition(".")[0]
    waiting: list[type | FunctionType] = [
        cls for cls in handler.__mro__ if cls is not Handler and _makes_tasks(cls, package)
    ]
    seen: set[type | FunctionType] = set()
    while waiting:
        part = waiting.pop()
        if part in seen:
            continue
        seen.add(part)
        try:
            tree = ast.parse(textwrap.dedent(inspect.getsource(part)))
        except (OSError, TypeError, SyntaxError):
            return True
        if any(_is_bringing(node) for node in ast.walk(tree)):
            return True
        waiting += _used(tree, sys.modules[part.__module__], package)
    return False


def _is_bringing(node: ast.AST) -> bool:
    if not isinstance(node, ast.Call):
        return False
    given = {keyword.arg for keyword in node.keywords}
    # ``f(**fields)`` may give anything, by whatever name the module knows Task.
    return not _BRINGING.isdisjoint(given) or None in given


def _used(tree: ast.AST, module: ModuleType, package: str) -> Iterator[type | FunctionType]:
    """Return the functions and classes that are named in the tree, or held by what is, and may make
    tasks: those of that package, and of other modules that know ``Task``."""
    for node in ast.walk(tree):
        found: Any = None
        if isinstance(node, ast.Name):
            found = getattr(module, node.id, None)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = getattr(getattr(module, node.value.id, None), node.attr, None)
        for part in _held(found):
            if part is not Handler and _makes_tasks(part, package):
                yield part


def _held(found: Any) -> Iterator[type | FunctionType]:
    """Return the functions and classes that a module's value is, or holds as a table does."""
    parts: Iterable[Any] = (found,)
    if isinstance(found, Mapping):
        parts = tuple(found.values())
    elif isinstance(found, list | tuple | set | frozenset):
        parts = tuple(found)
    for part in parts:
        if isinstance(part, type | FunctionType):
            yield part


def _makes_tasks(part: type | FunctionType, package: str) -> bool:
    root = part.__module__.partition(".")[0]
    if root == package or root in _OWN:
        return root == package
    module = sys.modules.get(part.__module__)
    return module is not None and any(value is Task for value in vars(module).values())
