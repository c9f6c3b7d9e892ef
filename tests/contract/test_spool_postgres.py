"""The spool of a dead run is adopted; a full one sheds successes first."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from pickle import dumps
from typing import Any
from unittest import mock

import pytest
from django.db import DatabaseError

from domain.events import Control, Event
from recorder import models
from recorder.adoption import Adoption
from recorder.config import RecorderConfig
from recorder.recorder import Recorder
from recorder.runs import RunDescription
from recorder.shedding import is_no_success
from recorder.spool import DeadSpool, Spool, plain
from recorder.writer import ensure_run, flush
from tests.contract.test_recorder_postgres import WAIT_SECONDS, description, fate, letter, rows
from workers.runtime.build import project_letters

pytestmark = pytest.mark.django_db(transaction=True)
MIB = 1024 * 1024


def recorder_of(folder: Path, **values: Any) -> Recorder:
    config = RecorderConfig(flush_interval_ms=20, spool_dir=folder, **values)
    return Recorder(description(time.time()), config)


def left_behind(folder: Path, count: int = 2500) -> RunDescription:
    """A run that ended while Postgres was away."""
    run = description(time.time())
    spool = Spool(folder, run, 64 * MIB)
    for first in range(1, count + 1, 1000):
        assert spool.append(rows(min(1000, count - first + 1), first))
    spool.close()
    return run


@pytest.fixture
def heir(tmp_path: Path) -> Iterator[Recorder]:
    made = recorder_of(tmp_path)
    yield made
    made.close(5)


def seqs(run: RunDescription) -> list[int]:
    return list(
        models.Event.objects.filter(run=run.id).order_by("id").values_list("seq", flat=True)
    )


def test_the_spool_of_a_dead_run_is_adopted_with_its_description(
    tmp_path: Path, heir: Recorder
) -> None:
    dead = left_behind(tmp_path)
    heir.start()
    heir.tell(fate(1, time.time()))
    assert heir.wait_for(lambda now: not list(tmp_path.iterdir()), WAIT_SECONDS)
    assert seqs(dead) == list(range(1, 2501))
    stored = models.Run.objects.get(id=dead.id)
    assert (stored.worker, stored.config, stored.recorded_seq) == ("w", {"a": 1}, 2500)


def test_batches_that_the_dead_run_had_stored_are_not_stored_twice(
    tmp_path: Path, heir: Recorder
) -> None:
    dead = left_behind(tmp_path)
    ensure_run(dead)
    flush(dead, rows(1200), 0)
    heir.start()
    assert heir.wait_for(lambda now: not list(tmp_path.iterdir()), WAIT_SECONDS)
    assert seqs(dead) == list(range(1, 2501))


KILLED = """
import sys, time
from pathlib import Path
import django
django.setup()
from recorder.spool import Spool
from tests.contract.test_recorder_postgres import description, rows
run = description(time.time())
spool = Spool(Path(sys.argv[1]), run, 2**30)
assert spool.append(rows(10)) and spool.append(rows(10, 11))
spool.pop()
print(run.id, flush=True)
sys.stdin.read()
"""


def test_a_live_runs_spool_is_left_alone_until_it_is_killed(tmp_path: Path, heir: Recorder) -> None:
    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "drakkar_site.settings"}
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", KILLED, str(tmp_path)],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment,
    ) as owner:  # fmt: skip
        assert owner.stdout is not None
        name = owner.stdout.readline().decode().strip()
        path = tmp_path / f"{name}.spool"
        assert DeadSpool.lock(path) is None
        assert list(Adoption(tmp_path, description().id)._dead()) == []
        owner.send_signal(signal.SIGKILL)
    heir.start()
    assert heir.wait_for(lambda now: not path.exists(), WAIT_SECONDS)
    stored = models.Event.objects.filter(run=name).order_by("id")
    assert [event.seq for event in stored] == list(range(11, 21))


def test_an_heir_goes_on_where_postgres_went_away(tmp_path: Path) -> None:
    dead = left_behind(tmp_path, 3000)
    adoption = Adoption(tmp_path, description().id)
    calls = Counter[str]()

    def twice(*args: Any) -> Any:
        calls["flush"] += 1
        if calls["flush"] == 2:
            raise DatabaseError("away")
        return real(*args)

    from recorder.writer import flush_narrowing as real

    with mock.patch("recorder.adoption.flush_narrowing", side_effect=twice):
        with pytest.raises(DatabaseError):
            adoption.step(1000.0)
        assert seqs(dead) == list(range(1, 1001))
        assert adoption.step(1000.0) == []
    assert seqs(dead) == list(range(1, 3001))
    assert list(tmp_path.iterdir()) == []


def test_a_torn_end_is_given_up_and_what_lies_before_it_is_stored(tmp_path: Path) -> None:
    dead = left_behind(tmp_path)
    (path,) = tmp_path.iterdir()
    with path.open("r+b") as file:
        file.truncate(path.stat().st_size - 10)
    Adoption(tmp_path, description().id).step(1000.0)
    assert seqs(dead) == list(range(1, 2001))
    assert list(tmp_path.iterdir()) == []


class _Evil:
    def __reduce__(self) -> tuple[Any, tuple[str]]:
        return os.system, ("true",)


def test_what_is_no_spool_is_set_aside_and_runs_no_code(tmp_path: Path) -> None:
    (tmp_path / "old.spool").write_bytes(b"something else, longer than a head")
    dead = left_behind(tmp_path, 10)
    adoption = Adoption(tmp_path, description().id)
    adoption.step(1000.0)
    adoption.step(1000.0)
    assert [path.name for path in tmp_path.iterdir()] == ["old.unreadable"]
    assert seqs(dead) == list(range(1, 11))
    with pytest.raises(Exception, match="a spool holds no"):
        plain(dumps(_Evil()))


def mixed(count: int, first: int) -> list[dict[str, Any]]:
    """Rows of which each tenth tells of a failure."""
    made = rows(count, first)
    return [row | {"kind": "task_failed"} if row["seq"] % 10 == 0 else row for row in made]


def drained(spool: Spool) -> list[int]:
    found = []
    while (batch := spool.peek()) is not None:
        found += [row["seq"] for row in batch]
        spool.pop()
    return found


@pytest.mark.parametrize("popped", [0, 2])
def test_thinning_takes_the_oldest_successes_and_keeps_the_order(
    tmp_path: Path, popped: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("recorder.spool._THIN_BYTES", 40_000)
    spool = Spool(tmp_path, description(), 64 * MIB)
    for first in range(1, 1001, 100):
        assert spool.append(mixed(100, first))
    for _ in range(popped):
        spool.pop()
    before = spool.size_bytes
    taken = spool.thin(is_no_success)
    assert taken
    assert [row["seq"] for row in taken][:3] == [popped * 100 + n for n in (1, 2, 3)]
    assert spool.size_bytes < before
    gone = {row["seq"] for row in taken}
    while (more := spool.thin(is_no_success)) is not None:
        gone |= {row["seq"] for row in more}
    assert gone == {n for n in range(popped * 100 + 1, 1001) if n % 10}
    assert spool.append(rows(2, 1001))
    assert drained(spool) == [*range(popped * 100 + 10, 1001, 10), 1001, 1002]
    spool.close()


def test_what_was_thinned_is_adopted_too(tmp_path: Path) -> None:
    run = description(time.time())
    spool = Spool(tmp_path, run, 64 * MIB)
    for first in range(1, 301, 100):
        assert spool.append(mixed(100, first))
    spool.thin(is_no_success)
    spool.close()
    Adoption(tmp_path, description().id).step(1000.0)
    assert seqs(run) == list(range(10, 301, 10))


def control(at: float) -> Event:
    return Control(at=at, action="drain", target="w", outcome="done", request="1", detail="")


def test_a_full_spool_sheds_successes_and_keeps_the_rest(tmp_path: Path) -> None:
    recorder = recorder_of(tmp_path, max_buffer_bytes=65_536, spool_max_bytes=262_144)
    with mock.patch("recorder.recorder.ensure_run", side_effect=DatabaseError("away")):
        recorder.start()
        for offset in range(1, 10_001):
            recorder.tell(fate(offset, time.time()))
            if offset % 100 == 0:
                recorder.tell(letter())
                recorder.tell(control(time.time()))
        assert recorder.wait_for(lambda now: now.shed > 0, WAIT_SECONDS)
        assert recorder.wait_for(lambda now: now.buffer_events < 2000, WAIT_SECONDS)
    assert recorder.wait_for(lambda now: now.is_connected, WAIT_SECONDS)
    assert recorder.close(10)
    kinds = Counter(models.Event.objects.values_list("kind", flat=True))
    told = models.Event.objects.filter(kind="recorder_shed").values_list("data", flat=True)
    shed = sum((Counter((data or {})["shed"]) for data in told), Counter[str]())
    assert set(shed) == {"message_completed"}
    assert kinds["message_completed"] + shed["message_completed"] == 10_000
    assert (kinds["dead_lettered"], kinds["control"]) == (100, 100)
    newest = models.Event.objects.filter(kind="message_completed").order_by("-seq").first()
    assert newest is not None
    assert newest.offset == 10_000


LETTER: dict[str, Any] = {
    "key": None, "value": b"x", "headers": (), "size_bytes": 1, "is_whole": True,
    "fingerprint": "f", "origin": "o",
}  # fmt: skip


@pytest.mark.parametrize(
    "strange",
    [
        {"data": "{}", "content": LETTER},
        {"content": LETTER},
        {"data": "{}", "content": []},
        {"data": "{}", "content": LETTER | {"origin": 5}},
        {"data": "{}", "content": LETTER | {"more": 5}},
        {"topic": {"a": 1}},
    ],
    ids=str,
)
def test_a_row_as_another_version_made_it_costs_itself_alone(
    strange: dict[str, Any], tmp_path: Path
) -> None:
    dead = description(time.time())
    spool = Spool(tmp_path, dead, MIB)
    before, bad, after = rows(3)
    spool.append([before, bad | {"kind": "dead_lettered"} | strange, after])
    spool.close()
    adoption = Adoption(tmp_path, description().id, project_letters)
    (told,) = [*adoption.step(1000.0), *adoption.step(2000.0)]
    assert (told.ranges, told.shed) == ([[2, 2, 1]], {"dead_lettered": 1})
    assert seqs(dead) == [1, 3]
    assert list(tmp_path.iterdir()) == []
