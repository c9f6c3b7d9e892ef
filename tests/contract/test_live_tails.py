"""Live tails on a real PostgreSQL: written while a lease stands, bounded, shared, gone with it."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.db import connection
from django.db.models.functions import Now
from django.test.utils import CaptureQueriesContext

from domain.live_tail import KEPT_BYTES, TailFacts, TailState, TailText
from recorder.models import Event, RunState
from tests.support.factories import make_run
from tests.support.tails import TASK, TailWorker
from workers.control_plane.live.tail_reader import TailReader, forget_tails, live_fleet
from workers.models import TailChunk, TailLease
from workers.runtime.live_tails import MOST_TAILS, REPEAT_SECONDS

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def worker() -> TailWorker:
    return TailWorker(
        make_run(worker="worker-1", beat__partitions=[{"topic": "requests", "partition": 7}])
    )


def reader(task_id: str = TASK) -> TailReader:
    made = TailReader("main", task_id)
    made.look(0.0, live_fleet())
    return made


def expire() -> None:
    TailLease.objects.update(expires_at=Now() - timedelta(seconds=1))


def test_output_reaches_every_reader_in_order_and_is_gone_with_the_last_lease(
    worker: TailWorker,
) -> None:
    first, second = reader(), reader()
    worker.turn()
    worker.prints(b"one ")
    worker.prints("zwölf".encode()[:3], 4)
    worker.turn()
    worker.prints("zwölf".encode()[3:], 7)
    worker.prints(b"warned", 0, "stderr")
    worker.turn()
    texts = []
    for each in (first, second):
        text = TailText()
        news = each.look(1.0)
        assert news.worker == "worker-1"
        assert news.facts == TailFacts(state="running", attempt=1, pid=4711)
        written = [found for piece in news.pieces if (found := text.add(piece))]
        texts.append([(found.stream, found.left_out, found.text) for found in written])
    assert texts[0] == texts[1]
    assert "".join(text for stream, _, text in texts[0] if stream == "stdout") == "one zwölf"
    first.end()
    worker.turn()
    assert worker.follower.left == []
    second.end()
    worker.turn()
    assert worker.follower.left == [TASK]
    assert not TailChunk.objects.exists()
    assert not worker.tails.is_followed
    assert not Event.objects.exists()


def test_without_a_lease_a_turn_is_one_query(worker: TailWorker) -> None:
    with CaptureQueriesContext(
        connection,
    ) as queries:
        worker.turn()
    assert len(queries) == 1


def test_a_lease_that_nobody_renews_ends_the_tail(worker: TailWorker) -> None:
    reader()
    worker.turn()
    assert worker.tails.is_followed
    expire()
    worker.turn()
    assert worker.follower.left == [TASK]
    assert not worker.tails.is_followed


def test_a_reader_renews_its_lease_long_before_it_ends(worker: TailWorker) -> None:
    tail = reader()
    expire()
    tail.look(9.0)
    worker.turn()
    assert not worker.tails.is_followed
    tail.look(10.0)
    worker.turn()
    assert worker.tails.is_followed


def test_the_tables_are_bounded_whatever_a_task_prints(worker: TailWorker) -> None:
    tail, offset, chunk = reader(), 0, b"x" * 40_000
    worker.turn()
    for _ in range(40):
        worker.prints(chunk, offset)
        offset += len(chunk)
        worker.turn()
    kept = [bytes(data) for data in TailChunk.objects.values_list("data", flat=True) if data]
    assert sum(map(len, kept)) <= KEPT_BYTES
    pieces = tail.look(1.0).pieces
    text = TailText()
    written = [found for piece in pieces if (found := text.add(piece))]
    assert written[0].left_out == offset - sum(len(found.text) for found in written)
    assert written[0].left_out > 0
    assert {found.left_out for found in written[1:]} == {0}


def test_while_postgres_takes_nothing_the_oldest_output_is_left_out(worker: TailWorker) -> None:
    tail = reader()
    worker.turn()
    for number in range(20):
        worker.prints(b"y" * 40_000, 40_000 * number)
    worker.turn()
    pieces = tail.look(1.0).pieces
    assert pieces[-1].end == 800_000
    assert sum(len(piece.data) for piece in pieces) <= 128 * 1024


def test_a_ninth_task_is_refused_by_name_until_a_place_is_free(worker: TailWorker) -> None:
    tails = [reader(f"7:{number}:0") for number in range(MOST_TAILS)]
    worker.turn()
    ninth = reader("7:99:0")
    worker.turn()
    refused = ninth.look(1.0).facts
    assert refused is not None
    assert refused.state == TailState.REFUSED
    assert refused.detail is not None
    assert f"{MOST_TAILS} tasks already" in refused.detail
    assert "7:99:0" not in worker.follower.taps
    tails[3].end()
    worker.turn()
    now = ninth.look(2.0).facts
    assert now is not None
    assert now.state == TailState.RUNNING


def test_facts_are_repeated_so_that_silence_means_something(worker: TailWorker) -> None:
    reader()
    for _ in range(round(4 * REPEAT_SECONDS) * 3):
        worker.turn()
    assert 3 <= TailChunk.objects.filter(facts__isnull=False).count() <= 4


def test_a_tail_goes_with_its_task_to_another_worker(worker: TailWorker) -> None:
    tail = reader()
    worker.turn()
    worker.prints(b"old")
    worker.turn()
    assert tail.look(1.0).pieces
    RunState.objects.filter(run=worker.run).update(state="lost")
    lost = tail.look(2.0, live_fleet())
    assert (lost.worker, lost.is_moved) == (None, True)
    heir = TailWorker(
        make_run(worker="worker-2", beat__partitions=[{"topic": "requests", "partition": 7}])
    )
    moved = tail.look(4.0, live_fleet())
    assert (moved.worker, moved.is_moved) == ("worker-2", True)
    heir.turn()
    heir.prints(b"new")
    heir.turn()
    assert [piece.data for piece in tail.look(5.0).pieces] == [b"new"]


def test_the_run_that_runs_a_task_comes_before_the_owner_of_its_partition(
    worker: TailWorker,
) -> None:
    make_run(worker="worker-9", beat__pool={"running": [{"task_id": TASK, "slot": 0}]})
    tail = TailReader("main", TASK)
    assert tail.look(0.0, live_fleet()).worker == "worker-9"


def test_what_dead_runs_left_is_swept_and_what_is_read_stays(worker: TailWorker) -> None:
    tail = reader()
    worker.turn()
    worker.turn()
    assert forget_tails() == 0
    assert tail.look(1.0).facts is not None
    TailLease.objects.update(expires_at=Now() - timedelta(seconds=120))
    assert forget_tails() == 1 + 1
    assert not TailChunk.objects.exists()


def test_a_run_that_ends_leaves_nothing(worker: TailWorker) -> None:
    reader()
    worker.turn()
    worker.turn()
    assert TailChunk.objects.exists()
    worker.turn(is_last=True)
    assert not TailChunk.objects.exists()


def test_a_crash_of_postgres_empties_both_tables() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "SELECT relname, relpersistence FROM pg_class WHERE relname LIKE 'workers_tail%%' "
            "AND relkind = 'r' ORDER BY relname"
        )
        assert cursor.fetchall() == [("workers_tailchunk", "u"), ("workers_taillease", "u")]
