"""What a reader asked to see: of whom, when, split by what, and whether beside the time before."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime

from domain.paging import BadFilter
from recorder.rollups.reading import LABEL, Scope
from workers.control_plane.trends.window import Window, window_of

SPLITS = {
    "cluster": "cluster",
    "worker": "worker",
    "host": "host",
    "sink": "sink",
    "outcome": "outcome",
    "failure": "kind",
    "handler_version": "version of the handler",
    "program_version": "version of the program",
}
"""Dimensions by which every chart can be split, with their words; ``label:<name>`` beside them."""
MOST_CHARS = {"cluster": 63, "worker": 255, "host": 255, "sink": 255, "label": 1000, "split": 300}


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """``split``: a dimension, empty for none."""

    window: Window
    scope: Scope
    split: str = ""
    is_compared: bool = False


def view_of(asked: Mapping[str, str], now: datetime) -> View:
    """Return the view of a query. Raises BadFilter naming the parameter."""
    for name, most in MOST_CHARS.items():
        if len(asked.get(name, "")) > most:
            raise BadFilter(f"{name}: expected at most {most} characters, got {len(asked[name])}")
    return View(
        window=window_of(asked, now),
        scope=Scope(
            cluster=asked.get("cluster", "").strip(),
            worker=asked.get("worker", "").strip(),
            host=asked.get("host", "").strip(),
            sink=asked.get("sink", "").strip(),
            label=_label(asked.get("label", "").strip()),
        ),
        split=_split(asked.get("split", "").strip()),
        is_compared=_is_compared(asked.get("compare", "").strip()),
    )


def _label(text: str) -> tuple[str, str] | None:
    if not text:
        return None
    name, sign, value = text.partition("=")
    if not sign or not name.strip():
        raise BadFilter(f"label: expected name=value, got {text[:80]}")
    return name.strip(), value.strip()


def _split(text: str) -> str:
    if text and text not in SPLITS and text.removeprefix(LABEL) == text:
        known = ", ".join(SPLITS)
        raise BadFilter(f"split: expected one of {known} or label:<name>, got {text[:80]}")
    return text


def _is_compared(text: str) -> bool:
    if text not in ("", "before"):
        raise BadFilter(f"compare: expected before or nothing, got {text[:40]}")
    return bool(text)
