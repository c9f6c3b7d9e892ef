"""Notifications on a real PostgreSQL, by apprise, to a real webhook that fails too."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from typing import Any

import pytest
from django.db import connection

from domain.episode import EpisodeRules
from domain.finding import FindingKind, Severity
from tests.support.http_server import Server, answer, serving
from workers.control_plane.findings import Finding
from workers.control_plane.leftovers import prune
from workers.control_plane.notify import apprise_client
from workers.control_plane.notify.episodes import observe
from workers.control_plane.notify.outbox import send_waiting
from workers.control_plane.notify.receivers import Message, Notifying, QuietHours, Receiver
from workers.models import FindingEpisode, FindingMark, MarkKind, Notice, NoticeReceiver

pytestmark = pytest.mark.django_db(transaction=True)
START = datetime(2026, 3, 14, 3, 0, tzinfo=UTC)
LAG = Finding(
    kind=FindingKind.LAG_GROWS,
    cluster="main",
    cause="pool_full",
    status="running",
    title="Cluster main: lag grows",
    detail="Every slot is busy: 8 of 8 slots busy, 412 tasks wait.",
    magnitude=500,
    url="/partitions?cluster=main&sort=lag",
    action="Open partitions",
)
BREAKER = replace(
    LAG, kind=FindingKind.BREAKER_OPEN, cause="", subject="w/out", title="Sink out: breaker open"
)


@pytest.fixture
def webhook() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def notifying(webhook: Server) -> Notifying:
    return Notifying(
        receivers=[receiver(webhook)],
        rules=EpisodeRules(settle_seconds=30.0, gone_seconds=60.0),
        site_url="https://drakkar.example",
        send=apprise_client.send,
    )


def receiver(webhook: Server, **values: Any) -> Receiver:
    url = f"json://127.0.0.1:{webhook.port}/a-secret-path"
    given: dict[str, Any] = {"name": "ops", "url": url, "interval_seconds": 0.0}
    return Receiver(**given | values)


def at(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def look(notifying: Notifying, seconds: float, *found: Finding) -> None:
    """What the controller does at a time: look, and send what waits."""
    observe(found, notifying, at(seconds))
    send_waiting(notifying, at(seconds))


def bodies(webhook: Server) -> list[dict[str, Any]]:
    return [json.loads(each.body) for each in webhook.requests]


def titles(webhook: Server) -> list[str]:
    return [each["title"] for each in bodies(webhook)]


def test_a_finding_is_told_once_when_it_has_settled_and_once_when_it_ends(
    notifying: Notifying, webhook: Server
) -> None:
    for seconds in range(0, 120, 5):
        look(notifying, seconds, LAG)
    for seconds in range(120, 240, 5):
        look(notifying, seconds)
    assert titles(webhook) == [
        "Drakkar: Cluster main: lag grows, started",
        "Drakkar: Cluster main: lag grows, ended",
    ]
    start, end = bodies(webhook)
    assert start["type"] == "warning"
    assert start["message"].splitlines() == [
        "STARTED (warn): Cluster main: lag grows",
        "Every slot is busy: 8 of 8 slots busy, 412 tasks wait.",
        "https://drakkar.example/partitions?cluster=main&sort=lag",
        "Runbook: docs/runbook.md#lag_grows-pool_full",
    ]
    assert "It was listed from 2026-03-14 03:00:00 to 03:02:00 UTC." in end["message"]
    assert end["type"] == "success"
    assert FindingEpisode.objects.get().ended_at == at(180)


def test_what_flaps_is_not_told_before_it_settles_and_once_after(
    notifying: Notifying, webhook: Server
) -> None:
    for seconds in range(0, 300, 20):
        look(notifying, seconds, *([LAG] if seconds % 40 else []))
    assert webhook.requests == []
    for seconds in range(300, 600, 5):
        look(notifying, seconds, *([LAG] if seconds % 50 < 40 else []))
    assert titles(webhook) == ["Drakkar: Cluster main: lag grows, started"]


def test_tenfold_growth_is_told_again(notifying: Notifying, webhook: Server) -> None:
    for seconds, lag in ((0, 500), (30, 500), (60, 4999), (90, 5000), (120, 6000)):
        look(notifying, seconds, replace(LAG, magnitude=lag))
    assert [each["title"].rpartition(", ")[2] for each in bodies(webhook)] == ["started", "grew"]


def test_many_at_once_are_one_message_the_worst_first(
    notifying: Notifying, webhook: Server
) -> None:
    many = [replace(BREAKER, subject=f"w/{n}", title=f"Sink {n}: breaker open") for n in range(30)]
    look(notifying, 0, LAG, *many)
    look(notifying, 30, LAG, *many)
    (body,) = bodies(webhook)
    assert body["title"] == "Drakkar: 31 started (main)"
    assert body["message"].startswith("STARTED (page): Sink 0: breaker open")
    assert body["message"].endswith("and 11 more: https://drakkar.example/notifications")
    assert body["type"] == "failure"


def test_messages_keep_their_interval(notifying: Notifying, webhook: Server) -> None:
    slow = replace(notifying, receivers=[receiver(webhook, interval_seconds=300.0)])
    for seconds in range(0, 330, 5):
        look(slow, seconds, LAG, *([BREAKER] if seconds >= 60 else []))
    assert len(webhook.requests) == 1
    look(slow, 330, LAG, BREAKER)
    assert titles(webhook)[1:] == ["Drakkar: Sink out: breaker open, started"]


def test_an_outage_of_the_receiver_is_retried_with_longer_waits_and_shown(
    notifying: Notifying, webhook: Server
) -> None:
    webhook.reply(answer(503), answer(503), answer(503))
    sent_at = []
    for seconds in range(90):
        before = len(webhook.requests)
        look(notifying, seconds, LAG)
        sent_at += [seconds] * (len(webhook.requests) - before)
    assert sent_at == [30, 35, 45, 65]
    row = NoticeReceiver.objects.get()
    assert (row.failures_in_a_row, row.sent_at, row.error_at) == (0, at(65), at(45))
    assert "503" in row.error
    assert "secret" not in row.error
    notice = Notice.objects.get()
    assert (notice.state, notice.attempts) == ("sent", 4)
    assert "may be a repeat" not in bodies(webhook)[-1]["message"]


def test_a_restart_tells_nothing_again_and_forgets_nothing(
    notifying: Notifying, webhook: Server
) -> None:
    look(notifying, 0, LAG)
    look(notifying, 30, LAG)
    connection.close()
    for seconds in range(100, 200, 5):
        look(replace(notifying), seconds, LAG)
    for seconds in range(200, 300, 5):
        look(replace(notifying), seconds)
    assert [each.rpartition(", ")[2] for each in titles(webhook)] == ["started", "ended"]


class Killed(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("has_arrived", [False, True])
def test_a_sender_that_is_killed_leaves_its_notice_to_the_next(
    has_arrived: bool, notifying: Notifying, webhook: Server
) -> None:
    def killed(receiver: Receiver, message: Message) -> None:
        if has_arrived:
            apprise_client.send(receiver, message)
        raise Killed

    observe([LAG], notifying, at(0))
    observe([LAG], notifying, at(30))
    with pytest.raises(Killed):
        send_waiting(replace(notifying, send=killed), at(30))
    for seconds in range(31, 200, 5):
        look(notifying, seconds, LAG)
    assert len(webhook.requests) == 1 + has_arrived
    assert "This may be a repeat" in bodies(webhook)[-1]["message"]
    assert Notice.objects.get().state == "sent"


def test_two_controllers_send_one_message(notifying: Notifying, webhook: Server) -> None:
    barrier = threading.Barrier(2, timeout=20)

    def control() -> None:
        try:
            for seconds in range(0, 60, 10):
                barrier.wait()
                look(notifying, seconds, LAG)
        finally:
            connection.close()

    threads = [threading.Thread(target=control) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert titles(webhook) == ["Drakkar: Cluster main: lag grows, started"]
    assert FindingEpisode.objects.count() == 1


def test_who_is_told_of_what(notifying: Notifying, webhook: Server) -> None:
    given = [
        receiver(webhook, name="all", min_severity=Severity.NOTICE),
        receiver(webhook, name="pager", min_severity=Severity.PAGE),
        receiver(webhook, name="other", clusters=["other"]),
        receiver(webhook, name="mine", clusters=["main"]),
    ]
    late = replace(LAG, kind=FindingKind.HEARTBEAT_LATE, subject="w")
    for seconds in (0, 30):
        observe([LAG, BREAKER, late], replace(notifying, receivers=given), at(seconds))
    told: dict[str, set[str]] = {each.name: set() for each in given}
    for notice in Notice.objects.all():
        told[notice.receiver].add(notice.severity)
    assert told == {
        "all": {"notice", "warn", "page"},
        "pager": {"page"},
        "other": set(),
        "mine": {"warn", "page"},
    }


def test_quiet_hours_hold_back_until_they_end(notifying: Notifying, webhook: Server) -> None:
    hours = QuietHours(since=time(22, 0), until=time(4, 2), zone="Europe/Berlin")
    quiet = replace(notifying, receivers=[receiver(webhook, quiet_hours=hours)])
    for seconds in range(0, 120, 5):  # from 04:00 in Berlin on
        look(quiet, seconds, *([LAG] if seconds < 60 else []))
    assert webhook.requests == []
    look(quiet, 120)
    (body,) = bodies(webhook)
    assert body["title"] == "Drakkar: 1 started, 1 ended (main)"


def marked(kind: MarkKind, seconds: float) -> None:
    FindingMark.objects.create(
        key=LAG.key, cluster="main", title=LAG.title, kind=kind, owner="mara", reason="known",
        until=at(seconds), seen_at=START,
    )  # fmt: skip


def test_a_silenced_finding_is_not_told_until_its_silence_ends(
    notifying: Notifying, webhook: Server
) -> None:
    marked(MarkKind.SILENCED, 100)
    for seconds in range(0, 100, 5):
        look(notifying, seconds, LAG)
    assert webhook.requests == []
    look(notifying, 100, LAG)
    assert titles(webhook) == ["Drakkar: Cluster main: lag grows, started"]
    assert not FindingMark.objects.exists()


def test_what_somebody_has_taken_on_does_not_grow_but_its_end_is_told(
    notifying: Notifying, webhook: Server
) -> None:
    look(notifying, 0, LAG)
    look(notifying, 30, LAG)
    marked(MarkKind.ACKNOWLEDGED, 3600)
    look(notifying, 60, replace(LAG, magnitude=50_000))
    for seconds in range(65, 200, 5):
        look(notifying, seconds)
    assert [each.rpartition(", ")[2] for each in titles(webhook)] == ["started", "ended"]
    assert not FindingMark.objects.exists()  # it ends with the finding


@pytest.mark.parametrize("url", ["json://127.0.0.1:1/a-secret-path", "nothing://a-secret-path"])
def test_an_address_that_does_not_work_is_told_without_it(url: str, notifying: Notifying) -> None:
    wrong = replace(notifying, receivers=[Receiver(name="ops", url=url)])
    look(wrong, 0, LAG)
    look(wrong, 30, LAG)
    row = NoticeReceiver.objects.get()
    assert row.failures_in_a_row == 1
    assert row.error
    assert "secret" not in row.error


def test_what_is_over_goes_after_its_days_and_what_waits_stays(
    notifying: Notifying, webhook: Server
) -> None:
    webhook.reply(answer(503))
    look(notifying, 0, LAG)
    look(notifying, 30, LAG)
    waiting = Notice.objects.get()
    Notice.objects.create(receiver="ops", change="ended", severity="warn", title="t", state="sent")
    Notice.objects.create(receiver="former", change="ended", severity="warn", title="t")
    NoticeReceiver.objects.create(name="former")
    observe([], replace(notifying, receivers=[]), at(60))
    observe([], replace(notifying, receivers=[]), at(120))
    now = Notice.objects.latest("created_at").created_at
    prune(30, 7, ["ops"], now + timedelta(days=29))
    assert Notice.objects.count() == 3
    prune(30, 7, ["ops"], now + timedelta(days=31))
    assert list(Notice.objects.all()) == [waiting]
    assert list(NoticeReceiver.objects.values_list("name", flat=True)) == ["ops"]
    FindingEpisode.objects.update(ended_at=now)
    prune(30, 7, ["ops"], now + timedelta(days=31))
    assert not FindingEpisode.objects.exists()
