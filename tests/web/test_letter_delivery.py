"""Letters to their sinks as jobs: the real requests, answered as a worker's heartbeat does."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from django.core.management import CommandError, call_command
from django.test import Client
from django.utils import timezone

from domain.events import Event
from sinks.letter_jobs import ReplayTransports
from sinks.models import DeadLetter, LetterJob, Replay
from sinks.replay_sink import RedeliveryOutcome
from tests.contract.test_control import Loop, described, ignored
from tests.support.reading import read_page
from tests.web.conftest import MakeRun
from tests.web.test_dead_letters import make
from tests.web.test_letter_actions import numbers, post, states
from workers.control import Answer
from workers.control_plane import redelivery_client
from workers.control_plane.jobs import run_letter_jobs
from workers.models import ControlRequest
from workers.runtime.control_inbox import ControlInbox

pytestmark = pytest.mark.django_db(transaction=True)
Deliver = Callable[..., Sequence[tuple[RedeliveryOutcome, str]]]


def letter(number: int, **fields: Any) -> DeadLetter:
    return make(number, stage="deliver", sink="results", **fields)


def answered_with(make_run: MakeRun, *arrivals: str) -> Deliver:
    """Deliver by a worker's inbox, which has its turn whenever the client looks."""
    loop, open_yet = Loop(), list(arrivals)
    inbox = ControlInbox(described(make_run()), loop, ignored)

    def deliver(
        letters: Sequence[DeadLetter], actor: str, tick: Callable[[], None]
    ) -> Sequence[tuple[RedeliveryOutcome, str]]:
        def turn() -> None:
            tick()
            inbox.turn()
            while loop.orders:
                arrival = open_yet.pop(0)
                told = Answer(is_done=arrival == "stored", detail="so", result={"arrival": arrival})
                loop.orders.pop(0)[1].set_result(told)

        return redelivery_client.deliver(letters, actor, turn)

    return deliver


def run(deliver: Deliver) -> list[Event]:
    told: list[Event] = []
    run_letter_jobs(ReplayTransports(transports={}, redeliver=deliver), told.append)
    return told


def test_letters_go_to_their_sink_by_a_live_worker(
    operator: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_client, "LOOK_SECONDS", 0.01)
    letters = [letter(number) for number in (1, 2, 3, 4)]
    other = make(5)
    where = post(operator, "sink", letter=[each.pk for each in (*letters, other)])["Location"]
    told = run(answered_with(make_run, "stored", "refused", "gone", "unknown"))
    assert [(event.offset, event.target) for event in told] == [(1, "sink results")]  # type: ignore[attr-defined]
    assert states() == ["replayed", "open", "expired", "replayed", "open"]
    asked = ControlRequest.objects.order_by("requested_at").values_list("arguments", flat=True)
    assert sorted(each["offset"] for each in asked) == [1, 2, 3, 4]
    confirmed = Replay.objects.exclude(confirmed_at=None).values_list("letter__offset", flat=True)
    assert list(confirmed) == [1]
    page = read_page(operator.get(where))
    assert numbers(page)["replayed"] == "1"
    assert LetterJob.objects.get().state == "failed"
    detail = read_page(operator.get(f"/dead-letters/{letters[0].pk}"))
    assert "stored by sink results" in detail


def test_nobody_alive_fails_the_job_and_opens_the_letters_again(operator: Client) -> None:
    one = letter(1)
    post(operator, "sink", letter=one.pk)
    run(redelivery_client.deliver)
    job = LetterJob.objects.get()
    assert "no worker of cluster main lives: start one" in job.error
    assert (job.state, states()) == ("failed", ["open"])


def test_a_request_that_no_worker_took_did_nothing(
    operator: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redelivery_client, "LOOK_SECONDS", 0.01)
    make_run()

    def deliver(letters: Sequence[DeadLetter], actor: str, tick: Any) -> Any:
        def expire() -> None:
            tick()
            ended = timezone.now() - timedelta(seconds=1)
            ControlRequest.objects.update(state="expired", detail="nobody", ended_at=ended)

        return redelivery_client.deliver(letters, actor, expire)

    post(operator, "sink", letter=letter(1).pk)
    run(deliver)
    assert states() == ["open"]
    assert Replay.objects.get().error == "nobody"


def test_other_stages_hold_no_payload(operator: Client) -> None:
    make(1)
    asked = {"of": "all", "cluster": "main", "stage": "task"}
    page = post(operator, "sink", **asked)
    assert "stage: expected deliver, because others hold no payload" in page.context["error"]


def test_the_command_queues_a_delivery() -> None:
    first, second = letter(1), letter(2)
    make(3)
    out = io.StringIO()
    call_command(
        "replay_dead_letters", "--cluster", "main", "--stage", "deliver", "--limit", "1", "--json",
        stdout=out,
    )  # fmt: skip
    job = LetterJob.objects.get()
    assert json.loads(out.getvalue()) == {"job": str(job.id), "letters": 1}
    assert (job.action, job.selection["ids"]) == ("sink", [first.pk])
    assert states() == ["open"] * 3
    with pytest.raises(CommandError, match="expected letters of stage deliver"):
        call_command("replay_dead_letters", "--cluster", "main", "--stage", "task", "--to", "sink")
    call_command("replay_dead_letters", "--cluster", "main", "--to", "sink", stdout=out)
    assert LetterJob.objects.latest("created_at").selection["ids"] == [first.pk, second.pk]


def test_a_stored_payload_of_several_messages_answers_the_letters_of_all(
    operator: Client, make_run: MakeRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The payload is in the letter of the lowest; those of the others have none to deliver."""
    monkeypatch.setattr(redelivery_client, "LOOK_SECONDS", 0.01)
    task, other = (f"0:1:0~{digit * 32}" for digit in "ab")
    for number in (1, 2, 3):
        letter(number, task_id=task, delivery_id=f"main/t/0/1/1700/0~{'a' * 32}/collect/0")
    letter(4, task_id=other, delivery_id=f"main/t/0/1/1700/0~{'b' * 32}/collect/0")
    letter(5, task_id="0:5:0", delivery_id="main/t/key:k")
    letter(6, task_id="0:6:0", delivery_id="main/t/key:k")
    first, second, *_ = DeadLetter.objects.order_by("pk")
    where = post(operator, "sink", letter=[first.pk, second.pk])["Location"]
    deliver = answered_with(make_run, "stored", "refused", "stored")
    run(deliver)
    assert states() == ["replayed", "replayed", "replayed", "open", "open", "open"]
    assert Replay.objects.exclude(confirmed_at=None).count() == 3
    page = read_page(operator.get(where))
    assert numbers(page)["replayed"] == "2"
    fifth = DeadLetter.objects.get(offset=5)
    post(operator, "sink", letter=[fifth.pk], key=uuid4().hex)
    run(deliver)
    assert states() == ["replayed"] * 3 + ["open", "replayed", "open"]
