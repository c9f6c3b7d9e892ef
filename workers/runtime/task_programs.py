"""Whether a handler's tasks may bring programs of their own, as far as its source tells.

What tasks bring shows itself only when the handler runs. Known before is that none can, where no
call in the handler, or in what it uses of its own package, gives ``binary`` or ``precomputed``.
"""

from __future__ import annotations

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator
from types import FunctionType, ModuleType
from typing import Any

from workers.handler import Handler

_BRINGING = frozenset({"binary", "precomputed"})


def may_bring_programs(handler: type[Handler[Any]]) -> bool:
    """False only where nothing can; source that is not to be had may do anything."""
    package = handler.__module__.partition(".")[0]
    bases = [cls for cls in handler.__mro__ if cls.__module__.partition(".")[0] == package]
    waiting: list[type | FunctionType] = [cls for cls in bases if cls is not Handler]
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
    is_task = isinstance(node.func, ast.Name) and node.func.id == "Task"
    return not _BRINGING.isdisjoint(given) or (is_task and None in given)


def _used(tree: ast.AST, module: ModuleType, package: str) -> Iterator[type | FunctionType]:
    """The functions and classes of that package that are named in the tree."""
    for node in ast.walk(tree):
        found: Any = None
        if isinstance(node, ast.Name):
            found = getattr(module, node.id, None)
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            found = getattr(getattr(module, node.value.id, None), node.attr, None)
        is_part = isinstance(found, type | FunctionType) and found is not Handler
        if is_part and found.__module__.partition(".")[0] == package:
            yield found
