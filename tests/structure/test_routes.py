"""Each page has its route, its template, and a way to it from everywhere."""

from __future__ import annotations

import ast
import inspect
import re
from pathlib import Path

import pytest
from django.template.loader import get_template
from django.urls import URLPattern

from drakkar_site.navigation import ENTRIES, PART_OF
from drakkar_site.urls import urlpatterns

ROOT = Path(__file__).resolve().parents[2]
MODULES = sorted(
    path for room in ("recorder", "sinks", "workers") for path in ROOT.glob(f"{room}/**/pages/*.py")
)
BESIDE_PAGES = {"^api", "findings", "go", "healthz", "login", "logout"}
"""First steps of addresses that are no pages to go to: the palette, the door, what forms send."""
OF_OTHER_VIEWS = {"file_answer"}
"""Answers that several views give."""
ROUTES = [each for each in urlpatterns if isinstance(each, URLPattern)]


def views(module: Path) -> set[str]:
    """Names of the functions of a module that answer a request."""
    return {
        node.name
        for node in ast.parse(module.read_text()).body
        if isinstance(node, ast.FunctionDef)
        and not node.name.startswith("_")
        and node.args.args[:1]
        and ast.unparse(node.args.args[0].annotation or ast.Constant("")) == "HttpRequest"
        and "HttpResponse" in ast.unparse(node.returns or ast.Constant(""))
    }


@pytest.mark.parametrize("module", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_view_has_a_route_and_each_template_is_there(module: Path) -> None:
    name = ".".join(module.relative_to(ROOT).with_suffix("").parts)
    callbacks = [inspect.unwrap(each.callback) for each in ROUTES]
    routed = {each.__name__ for each in callbacks if each.__module__ == name}
    assert views(module) - OF_OTHER_VIEWS == routed
    for template in re.findall(r'"([\w/]+\.html)"', module.read_text()):
        get_template(template)  # raises where there is none


def test_each_page_can_be_gone_to() -> None:
    routes = {each.name: str(each.pattern) for each in ROUTES}
    entered = {routes[each.name].split("/")[0] for each in ENTRIES if each.name in routes}
    steps = {route.split("/")[0] for route in routes.values()}
    assert steps - entered - PART_OF.keys() <= BESIDE_PAGES
