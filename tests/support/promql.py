"""What a PromQL query or a Grafana variable asks for, held against what is exported."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from types import SimpleNamespace
from typing import Any

from domain.beat import Beat, RecorderBeat
from domain.histogram import Histogram
from workers.control_plane.controller import ControllerCollector, Figures
from workers.runtime.figures import WorkerFigures
from workers.runtime.listeners.counters import Counters
from workers.runtime.listeners.metrics import WorkerCollector

Labels = Mapping[str, frozenset[str]]
"""The labels of each name that a query may use."""

SELECTOR = re.compile(r"\b(drakkar_\w+)(?:\{([^}]*)\})?")
MATCHER = re.compile(r'(\w+)\s*(?:=~|!~|!=|=)\s*"')
GROUPED = re.compile(r"\b(?:by|without)\s*\(([^)]*)\)\s*\(")
JOINED = re.compile(r"\b(?:on|ignoring)\s*\(([^)]*)\)")
VALUES = re.compile(r"label_values\((.+),\s*(\w+)\)")
IDLE = WorkerFigures(
    beat=Beat(state="ready", recorder=RecorderBeat(flush_counts=tuple(Histogram().counts))),
    version="0",
    loop_lag_seconds=0.0,
    queued_bytes=0,
    is_full=False,
    hooks={},
    cuts={},
)
"""Figures of a worker that owns nothing: its metrics have their labels all the same."""


def exported_labels() -> dict[str, frozenset[str]]:
    """Of every metric of worker and controller, by each name that a query may use."""
    worker = WorkerCollector(Counters(), lambda: IDLE, {"cluster": "main", "worker": "w"})
    idle = SimpleNamespace(figures=Figures(), lags={}, standings={})
    controller = ControllerCollector(idle)  # type: ignore[arg-type]
    families = [*worker.collect(), *controller.collect()]
    return {name: labels for family in families for name, labels in _names(family)}


def _names(family: Any) -> Iterator[tuple[str, frozenset[str]]]:
    labels = frozenset(family._labelnames)
    match family.type:
        case "counter":
            yield f"{family.name}_total", labels
        case "info":
            yield f"{family.name}_info", labels | {"version"}
        case "histogram" | "summary":
            yield from ((f"{family.name}_{suffix}", labels) for suffix in ("sum", "count"))
            if family.type == "histogram":
                yield f"{family.name}_bucket", labels | {"le"}
        case _:
            yield family.name, labels


def faults_of(query: str, exported: Labels) -> list[str]:
    """Each metric that is not exported and each label that its metric does not have."""
    found = [name for name, _ in SELECTOR.findall(query) if name not in exported]
    for name, matchers in SELECTOR.findall(query):
        found += _strangers(MATCHER.findall(matchers), name, exported)
    for grouped in GROUPED.finditer(query):
        inner = _until_closed(query[grouped.end() :])
        found += _faults_of_list(grouped[1], inner, exported)
    for joined in JOINED.finditer(query):
        found += _faults_of_list(joined[1], query, exported)
    return found


def variable_faults(query: str, exported: Labels) -> list[str]:
    """The same of a variable's ``label_values(selector, label)``."""
    asked = VALUES.fullmatch(query)
    if asked is None or not SELECTOR.search(query):
        return [f"expected label_values(metric, label), got {query}"]
    return [*faults_of(asked[1], exported), *_faults_of_list(asked[2], asked[1], exported)]


def _faults_of_list(labels: str, query: str, exported: Labels) -> list[str]:
    wanted = [label.strip() for label in labels.split(",")]
    names = [name for name, _ in SELECTOR.findall(query)]
    return [fault for name in names for fault in _strangers(wanted, name, exported)]


def _strangers(labels: list[str], name: str, exported: Labels) -> list[str]:
    known = exported.get(name, frozenset(labels))
    return [f"{name} has no {label}" for label in labels if label not in known]


def _until_closed(text: str) -> str:
    """What stands before the bracket that closes one opened just before ``text``."""
    depth = 1
    for at, sign in enumerate(text):
        depth += {"(": 1, ")": -1}.get(sign, 0)
        if depth == 0:
            return text[:at]
    return text
