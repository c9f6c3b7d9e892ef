"""Every event kind, exported metric and management command stands in docs/."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

from domain.events import KINDS, Kind, Shown
from domain.failure import FailureKind
from domain.parking import ParkingCause
from drakkar_site.accounts.models import SCOPES
from drakkar_site.accounts.roles import ROLES, SCOPES_OF_ROLE
from tests.support.promql import exported_labels
from workers.control import Action
from workers.handler import (
    BatchGroup,
    DeliveryError,
    Message,
    MessageGroup,
    Pending,
    Task,
    TaskFailure,
    TaskResult,
    Usage,
)
from workers.pipeline.life_cycle import LEAVING, MESSAGE_TRANSITIONS, TASK_TRANSITIONS, TaskState

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
EXPORTED = re.compile(
    r"""(?:self\._(counter|gauge|summary)\(|self\._family\(\s*(\w+MetricFamily),)\s*"(\w+)\""""
)
NAMED = re.compile(r'GaugeMetricFamily\(\s*"(drakkar_\w+)"')
COUNTED = re.compile(r'CounterMetricFamily\(\s*"(drakkar_\w+)"')
HISTOGRAM = re.compile(r'\("(\w+_seconds)", "')


def exported() -> set[str]:
    source = (ROOT / "workers/runtime/listeners/metrics.py").read_text()
    names = {"drakkar_worker_info"} | set(NAMED.findall(source))
    for method, family, name in EXPORTED.findall(source):
        is_counter = method == "counter" or family == "CounterMetricFamily"
        names.add(f"drakkar_{name}{'_total' if is_counter else ''}")
    names |= {f"drakkar_{name}" for name in HISTOGRAM.findall(source)}
    names |= {"drakkar_consumer_lag", "drakkar_partition_queue_messages"}
    controller = (ROOT / "workers/control_plane/controller.py").read_text()
    names |= {f"{name}_total" for name in COUNTED.findall(controller)}
    return names | set(NAMED.findall(controller))


def test_the_metrics_page_names_exactly_what_is_exported() -> None:
    page = (DOCS / "metrics.md").read_text()
    assert set(re.findall(r"^\| `(drakkar_\w+)`", page, re.MULTILINE)) == exported()


def test_the_metrics_page_names_the_labels_of_each_metric() -> None:
    page = (DOCS / "metrics.md").read_text()
    rows = re.findall(r"^\| `(drakkar_\w+)` \| (\w+) \|([^|]*)\|", page, re.MULTILINE)
    suffix = {"histogram": "_sum", "summary": "_sum"}
    told = {name + suffix.get(kind, ""): re.findall(r"`(\w+)`", cell) for name, kind, cell in rows}
    every, labels = {"cluster", "worker"}, exported_labels()
    own = {name: labels[name] - (every if every <= labels[name] else set()) for name in told}
    assert {name: set(cell) for name, cell in told.items()} == own


def row_of(*cells: str) -> str:
    return f"| {' | '.join(cells)} |"


def quoted(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names) or "-"


def described(kind: Kind) -> str:
    text = " ".join((inspect.getdoc(kind.event) or "").split("\n\n")[0].split()).replace("``", "`")
    return row_of(f"`{kind.name}`", text, quoted(kind.columns), quoted(kind.data))


def handled(kind: Kind) -> str:
    shown = " ".join(page.name.lower() for page in Shown if page in kind.shown and page.name)
    shed = kind.shed.name.lower()
    return row_of(f"`{kind.name}`", kind.severity, shed, quoted(kind.metrics), shown or "-")


@pytest.mark.parametrize("row", [described, handled])
def test_the_events_page_tells_of_each_kind_as_it_is_declared(row: Callable[[Kind], str]) -> None:
    page = (DOCS / "events.md").read_text().splitlines()
    first = row(next(iter(KINDS.values())))
    assert first in page
    start = page.index(first)
    assert page[start : start + len(KINDS)] == [row(kind) for kind in KINDS.values()]


def test_the_metrics_that_kinds_move_are_on_the_metrics_page() -> None:
    page = (DOCS / "metrics.md").read_text()
    named = set(re.findall(r"^\| `(drakkar_\w+)`", page, re.MULTILINE))
    assert {metric for kind in KINDS.values() for metric in kind.metrics} <= named


def commands() -> list[str]:
    found = ROOT.glob("*/**/management/commands/*.py")
    inside = (path for path in found if not path.relative_to(ROOT).parts[0].startswith("."))
    return sorted({path.stem for path in inside if path.stem != "__init__"})


@pytest.mark.parametrize("command", commands())
def test_each_command_is_described(command: str) -> None:
    pages = "\n".join(path.read_text() for path in DOCS.rglob("*.md"))
    assert f"manage.py {command}" in pages


@pytest.mark.parametrize("kind", list(FailureKind))
def test_each_kind_of_failure_is_described(kind: FailureKind) -> None:
    page = (DOCS / "handler-guide.md").read_text()
    assert f"`{kind.value}`" in page


GIVEN = (Message, Pending, TaskResult, Usage, TaskFailure, MessageGroup, BatchGroup, DeliveryError)


@pytest.mark.parametrize("given", GIVEN)
def test_each_thing_a_hook_gets_is_described_with_its_fields(given: type[Any]) -> None:
    page = (DOCS / "handler-guide.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{given.__name__}` |"))
    assert {field.name for field in fields(given)} <= set(re.findall(r"`(\w+)`", row))


def test_each_field_of_a_task_is_described() -> None:
    page = (DOCS / "handler-guide.md").read_text()
    table = page.partition("| field of `Task` |")[2].partition("\n\n")[0]
    named = re.findall(r"^\| `(\w+)` \|", table, re.MULTILINE)
    assert [*named, "id", "parent_id"] == [field.name for field in fields(Task)]


@pytest.mark.parametrize("scope", SCOPES)
def test_each_scope_is_described_with_its_roles(scope: str) -> None:
    page = (DOCS / "security.md").read_text()
    (row,) = (line for line in page.splitlines() if line.startswith(f"| `{scope}` |"))
    named = set(re.findall(r"\w+", row.split("|")[3])) & set(ROLES)
    assert named == {role for role in ROLES if scope in SCOPES_OF_ROLE[role]}


LINK = re.compile(r"\]\((?!https?:)([^)#\s]*)(?:#([^)\s]+))?\)")
MARKDOWN = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    heads = re.findall(r"^#+ (.*)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", MARKDOWN, ids=lambda page: str(page.relative_to(ROOT)))
def test_each_link_leads_somewhere(page: Path) -> None:
    for path, anchor in LINK.findall(page.read_text()):
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{page.name}: there is no {path}"
        assert not anchor or anchor in anchors(target), f"{page.name}: {path} has no #{anchor}"


def test_the_readme_leads_to_each_page() -> None:
    linked = {path for path, _ in LINK.findall((ROOT / "README.md").read_text())}
    assert {f"docs/{page.name}" for page in DOCS.glob("*.md")} <= linked


def test_the_operations_page_tells_of_each_parking_cause_as_it_is_declared() -> None:
    page = (DOCS / "operations.md").read_text()
    table = page.partition("## Parked partitions")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| .* \| (.*) \|$", table, re.MULTILINE)
    assert rows == [(str(cause), cause.handling.goes_on) for cause in ParkingCause]


CANCELLED = {"ended", "dead_lettering", "left"}


@pytest.mark.parametrize(
    ("title", "transitions"), [("message", MESSAGE_TRANSITIONS), ("task", TASK_TRANSITIONS)]
)
def test_the_life_cycle_page_names_each_state_and_all_that_follow(
    title: str, transitions: Any
) -> None:
    page = (DOCS / "life-cycle.md").read_text().split(f"## A {title}")[1].split("## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\|([^|]*)\|$", page, re.MULTILINE)
    documented = {
        state: set(re.findall(r"`(\w+)`(?= \(|,|\s*$)", text))
        | (CANCELLED if "cancelled" in text else set())
        for state, text in rows
    }
    assert documented == {state: set(following) for state, following in transitions.items()}


def test_only_what_is_on_its_way_out_cannot_be_cancelled() -> None:
    ends = {TaskState.ENDED, TaskState.LEFT}
    cancellable = {state for state, following in TASK_TRANSITIONS.items() if following >= CANCELLED}
    assert cancellable == set(TaskState) - LEAVING - ends


def test_the_operations_page_tells_of_each_action_as_it_is_declared() -> None:
    page = (DOCS / "operations.md").read_text()
    table = page.partition("## Asking a worker")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \| (.*)\| (.*) \|$", table, re.MULTILINE)
    told = {name: (re.findall(r"`(\w+)`", names), meaning) for name, names, meaning in rows}
    assert told == {
        action.value: (list(action.spec.arguments.model_fields), action.spec.meaning)
        for action in Action
    }


@pytest.mark.parametrize("thing", ["a message", "an event"])
def test_a_walk_names_files_that_exist_and_counts_them(thing: str) -> None:
    page = (DOCS / "architecture.md").read_text()
    walk = page.split(f"## The walk of {thing}")[1].split("## ")[0]
    named = re.findall(r"`([\w-]+/[\w/-]+\.(?:py|js))`", walk)
    assert [name for name in named if not (ROOT / name).is_file()] == []
    rows = "".join(line for line in walk.splitlines() if line.startswith("| "))
    met = re.findall(r"`([\w-]+/[\w/-]+\.(?:py|js))`", rows)
    assert len(met) == len(set(met))
    assert f"These are {len(met)} files" in walk
