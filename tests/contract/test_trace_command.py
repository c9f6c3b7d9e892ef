"""``manage.py trace``: the timeline of a message as text, and what cannot be shown."""

from __future__ import annotations

import io

import pytest
from django.core.management import call_command
from django.db import DatabaseError

from recorder.management.commands import trace as command
from tests.support.factories import TOPIC, Story, make_run

pytestmark = pytest.mark.django_db


def retried_and_delivered(offset: int = 7) -> None:
    """A first attempt fails, the next owner delivers; another cluster filters the message."""
    first = Story(make_run(worker="worker-1", beat__state="stopped"))
    first.consumed(0, offset)
    first.arranged(0.1, offset, [f"3:{offset}:0"], "acme")
    first.ran(0.3, f"3:{offset}:0", 1, failure="timeout", exit_code=-9)
    first.tell(2, "revoked", 0, duration_ms=3.0, data={"epoch": 1, "reason": "rebalance"})
    heir = Story(make_run(worker="worker-2"))
    heir.consumed(5, offset)
    heir.ran(5.3, f"3:{offset}:0", 1)
    heir.delivered(6.5, f"3:{offset}:0", "results")
    heir.fate(6.6, offset)
    other = Story(make_run(cluster="fast", worker="fast-1"))
    other.consumed(1, offset)
    other.fate(1.2, offset, "filtered")


def shown(message: str, *, is_wide: bool = False) -> list[str]:
    out = io.StringIO()
    call_command("trace", message, stdout=out, all=is_wide)
    return out.getvalue().splitlines()


def refused(message: str, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    with pytest.raises(SystemExit) as ended:
        shown(message)
    assert isinstance(ended.value.code, int)
    return ended.value.code, capsys.readouterr().err


def test_a_message_is_told_life_by_life() -> None:
    retried_and_delivered()
    lines = shown(f"{TOPIC}/3:7")
    assert [line for line in lines if line.startswith(f"{TOPIC}/3:7 in ")] == [
        f"{TOPIC}/3:7 in fast: waiting (filtered)",
        f"{TOPIC}/3:7 in main: completed (delivered)",
    ]
    lives = ("worker-1 (main)", "fast-1 (fast)", "worker-2 (main)")
    assert [line for line in lines if line in lives] == list(lives)
    (failed,) = (line for line in lines if "failed" in line and "timeout" in line)
    assert failed.lstrip().startswith("300.0 ms")
    (delivered,) = (line for line in lines if line.endswith(" sink results"))
    assert lines.index("worker-2 (main)") < lines.index(delivered)


def test_what_befell_the_partition_is_told_when_it_is_asked_for() -> None:
    retried_and_delivered()
    assert "partition and run" not in shown("3:7")
    assert shown("3:7")[-1] == "... left out: 1 of partition and runs meanwhile (--all)"
    wide = shown("3:7", is_wide=True)
    (told,) = wide[wide.index("partition and run") + 1 :]
    assert "revoked" in told


def test_a_task_s_id_and_a_label_lead_to_the_message() -> None:
    retried_and_delivered()
    assert shown("3:7:0") == shown(f"{TOPIC}/3:7")


@pytest.mark.parametrize(
    ("message", "code", "said"),
    [
        ("3:99", 1, "trace: no message of the history fits"),
        (f"{TOPIC}/3:99", 1, f"trace: {TOPIC}/3:99: no event tells of it"),
        ("3:99999999999999999999", 2, "trace: message: expected"),
        ("", 2, "trace: message: expected partition:offset"),
    ],
)
def test_what_is_not_there_is_said(
    message: str, code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert refused(message, capsys)[0] == code
    with pytest.raises(SystemExit):
        shown(message)
    assert said in capsys.readouterr().err


def test_of_several_messages_one_is_to_be_named(capsys: pytest.CaptureFixture[str]) -> None:
    retried_and_delivered()
    retried_and_delivered(8)
    code, said = refused("acme", capsys)
    assert code == 1
    assert f"{TOPIC}/3:7" in said
    assert f"{TOPIC}/3:8" in said


def test_postgres_away_is_said(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: str) -> None:
        raise DatabaseError("no server")

    monkeypatch.setattr(command, "find", fail)
    assert refused("3:7", capsys) == (1, "trace: Postgres: no server\n")
