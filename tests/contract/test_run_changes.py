"""What a run was started with otherwise than the run before it, on a real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace

import pytest

from domain.changes import MASKED_VALUES, Change
from recorder.models import Run
from recorder.run_changes import RunChanges, recorded_changes
from recorder.runs import RunDescription, uuid7
from recorder.writer import ensure_run

pytestmark = pytest.mark.django_db
CONFIG = {"executor": {"max_executors": 4}}
FIRST = RunDescription(
    id=uuid7(1_000.0),
    cluster="main",
    worker="w",
    host="h",
    pid=1,
    version="3",
    isolation="groups",
    slots=4,
    config_hash="aa",
    config=CONFIG,
    environment={},
    started_at=1_000.0,
    handler_version="v1",
)


def later(of: RunDescription, **values: object) -> RunDescription:
    return replace(of, id=uuid7(of.started_at + 1), started_at=of.started_at + 1, **values)  # type: ignore[arg-type]


def stored(*runs: RunDescription) -> RunChanges:
    """The changes of the last of these, once all are there."""
    for run in runs:
        ensure_run(run)
    return RunChanges.stored(Run.objects.get(id=runs[-1].id))


def test_the_first_run_of_all_has_nothing_to_be_compared_with() -> None:
    assert stored(FIRST) == RunChanges()


def test_an_equal_run_has_no_changes() -> None:
    assert stored(FIRST, later(FIRST)) == RunChanges(run_before=FIRST.id, versions=(), config=())


def test_config_and_versions_are_compared_with_the_run_before_of_that_name() -> None:
    other = later(FIRST, worker="other", config={"executor": {"max_executors": 99}})
    config = {"executor": {"max_executors": 8}}
    new = later(other, worker="w", config=config, config_hash="bb", handler_version="v2")
    assert stored(FIRST, other, new) == RunChanges(
        run_before=FIRST.id,
        versions=(Change("handler", "v1", "v2"),),
        config=(Change("executor.max_executors", "4", "8"),),
    )


def test_a_new_name_is_compared_with_the_last_run_of_its_cluster() -> None:
    elsewhere = later(FIRST, cluster="fast")
    new = later(elsewhere, cluster="main", worker="w-7f9c", handler_version="v2")
    assert stored(FIRST, elsewhere, new).run_before == FIRST.id


def test_what_differs_in_a_masked_value_alone_is_said() -> None:
    changes = stored(FIRST, later(FIRST, config_hash="bb"))
    assert changes.config == (Change(MASKED_VALUES, "aa", "bb"),)


def test_a_run_of_no_worker_is_compared_with_none() -> None:
    assert stored(FIRST, later(FIRST, config={})) == RunChanges()


def test_the_row_of_a_run_is_made_once() -> None:
    new = later(FIRST, handler_version="v2")
    changes = stored(FIRST, new)
    ensure_run(replace(FIRST, id=uuid7(1_000.5), started_at=1_000.5, handler_version="between"))
    assert stored(new) == changes


@pytest.mark.django_db(transaction=True)
def test_a_run_that_is_not_there_has_unknown_changes() -> None:
    assert recorded_changes(FIRST.id) == RunChanges()
