"""Each kind of event moves the metrics that it declares, is logged, and is shed in its turn."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_type_hints

import pytest

from domain.events import KINDS, Event, Kind, Severity, Shed
from domain.fate import Fate
from domain.letter import LetterContent
from domain.parking import ParkingCause
from domain.process_end import ProcessEnd
from recorder.shedding import is_never_shed, is_no_success
from tests.support.logs import captured_logs
from tests.support.promql import IDLE
from workers.runtime.listeners.counters import Counters
from workers.runtime.listeners.log import LogListener
from workers.runtime.listeners.metrics import WorkerCollector

GIVEN: dict[Any, Any] = {
    str: "x",
    bytes: b"x",
    int: 3,
    float: 2.0,
    bool: True,
    Mapping[str, str]: {"a": "b"},
    Mapping[str, int]: {"consumed": 1},
    Sequence[str]: ("x",),
    Sequence[int]: (3,),
    Sequence[Any]: (),
    Sequence[Sequence[int]]: ((1, 2, 2),),
    Sequence[Mapping[str, str | None]]: ({"key": "x", "old": None, "new": "y"},),
    tuple[str, ...] | None: ("key",),
    tuple[int, ...] | None: (0, 3),
    str | None: "x",
    int | None: 3,
    float | None: 0.5,
    bytes | None: b"x",
    Mapping[str, Any] | None: None,
    ParkingCause: ParkingCause.PROGRAM,
    ProcessEnd: ProcessEnd.PROTOCOL,
    LetterContent: None,
}
STATIC = Path(__file__).resolve().parents[2] / "drakkar_site" / "static" / "drakkar"
every_kind = pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)


def example(kind: Kind) -> Event:
    hints = get_type_hints(kind.event)
    given = {field.name: GIVEN[hints[field.name]] for field in fields(kind.event)}
    if "fate" in given:
        given["fate"] = Fate.DELIVERED.value
    return kind.event(**given)


def told(counters: Counters) -> dict[str, dict[tuple[str, ...], float]]:
    """Samples of each metric by its documented name."""
    collector = WorkerCollector(counters, lambda: IDLE, {})
    return {
        f"{family.name}{'_total' if family.type == 'counter' else ''}": {
            (sample.name, *sample.labels.values()): sample.value for sample in family.samples
        }
        for family in collector.counted()
    }


@every_kind
def test_a_kind_moves_the_metrics_that_it_declares_and_no_other(kind: Kind) -> None:
    counters = Counters()
    if kind.name in ("task_completed", "task_failed"):
        counters(example(KINDS["task_started"]))
    before = told(counters)
    counters(example(kind))
    after = told(counters)
    assert {name for name in after if after[name] != before.get(name)} == set(kind.metrics)


def test_what_can_be_counted_is_declared_to_be_counted() -> None:
    counted = {name.removeprefix("_on_") for name in vars(Counters) if name.startswith("_on_")}
    assert counted == {name for name, kind in KINDS.items() if kind.metrics}


@every_kind
def test_a_kind_is_logged_as_loud_as_it_declares(kind: Kind) -> None:
    with captured_logs() as lines:
        LogListener(min_duration_ms=0.0)(example(kind))
    loud = [] if kind.severity is Severity.ROUTINE else [str(kind.severity)]
    assert [line["level"] for line in lines] == loud


@every_kind
def test_a_kind_is_drawn_in_a_colour_and_with_icons_that_are_there(kind: Kind) -> None:
    mark = [kind.mark.status, kind.mark.icon] if kind.mark is not None else ["", ""]
    colours, icons = {kind.status, mark[0]}, {kind.icon or kind.status, mark[1]}
    style, drawn = ((STATIC / name).read_text() for name in ("drakkar.css", "icons.svg"))
    assert [each for each in colours - {""} if f".s-{each} " not in style] == []
    assert [each for each in icons - {""} if f'id="{each}"' not in drawn] == []


def test_what_says_why_something_is_missing_is_never_shed() -> None:
    never = {name for name, kind in KINDS.items() if kind.shed is Shed.NEVER}
    assert never == {"dead_lettered", "control", "recorder_shed", "sampled", "skipped"}


@every_kind
def test_only_what_went_well_is_shed_before_the_rest(kind: Kind) -> None:
    row = {"kind": kind.name}
    assert is_never_shed(row) == (kind.shed is Shed.NEVER)
    assert is_no_success(row) == (kind.shed is not Shed.FIRST)
    if kind.shed is Shed.FIRST:
        assert kind.severity is not Severity.WARNING
        assert kind.status in ("", "running", "completed")
