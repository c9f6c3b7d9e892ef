"""``/notifications`` and the marks of findings: who may do what, and what is shown."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client
from django.utils import timezone
from pytest_django import Settings

from drakkar_site.accounts.models import AuditEntry
from drakkar_site.config.tree import NotifyConfig
from tests.web.conftest import MakeRun
from workers.control_plane.notify.episodes import observe
from workers.control_plane.notify.receivers import Notifying
from workers.control_plane.situation import situation
from workers.models import FindingMark, Notice, NoticeReceiver

pytestmark = pytest.mark.django_db
FLOOD = {"topic": "t", "partition": 3, "state": "parked", "parked": {"sink": "disk full"}}
KEY = "parked:main:t/3 sink"


def signed_in(client: Client, role: str) -> Client:
    user = User.objects.create_user(f"of-{role}", password="a-long-password")
    user.groups.add(Group.objects.get(name=role))
    client.force_login(user)
    return client


@pytest.fixture
def operator(client: Client, make_run: MakeRun) -> Client:
    make_run("controller", "_control")
    make_run(partitions=[FLOOD])
    return signed_in(client, "operator")


@pytest.fixture
def admin(client: Client) -> Client:
    return signed_in(client, "admin")


@pytest.fixture(autouse=True)
def _receivers(settings: Settings) -> None:
    """One that pages, with a secret in its address."""
    given = {"receivers": {"pager": {"apprise_url": "slack://token-a/token-b/token-c"}}}
    state = settings.DRAKKAR_STATE
    site = state.site.model_copy(update={"notify": NotifyConfig.model_validate(given)})
    settings.DRAKKAR_STATE = replace(state, site=site)


def mark(client: Client, **values: Any) -> Any:
    given = {"finding": KEY, "mark": "silenced", "hours": "4", "reason": "known: ticket 12"}
    return client.post("/findings/mark", given | values)


def test_an_operator_silences_a_finding_which_is_folded_away(operator: Client) -> None:
    form = operator.get("/findings/mark", {"finding": KEY}).content.decode()
    assert "Partition 3 of t: parked, sink" in form
    assert mark(operator)["Location"] == "/"
    row = FindingMark.objects.get()
    assert (row.owner, row.reason) == ("of-operator", "known: ticket 12")
    assert row.until - timezone.now() == pytest.approx(
        timedelta(hours=4), abs=timedelta(seconds=60)
    )
    page = operator.get("/")
    assert (len(page.context["marked"]), len(page.context["silenced"])) == (0, 1)
    assert "1 silenced" in page.content.decode()
    entry = AuditEntry.objects.filter(path="/findings/mark").latest("at")
    assert f"finding={KEY}" in entry.target
    assert "reason=known: ticket 12" in entry.target


def test_an_acknowledged_finding_stays_with_who_has_it_and_why(operator: Client) -> None:
    mark(operator, mark="acknowledged", reason="on it")
    page = operator.get("/")
    assert (len(page.context["marked"]), len(page.context["silenced"])) == (1, 0)
    assert "Acknowledged by of-operator until" in page.content.decode()
    assert "on it" in page.content.decode()
    listed = operator.get("/notifications").content.decode()
    assert "on it" in listed
    ended = operator.post("/findings/unmark", {"finding": KEY})
    assert ended["Location"] == "/notifications"
    assert not FindingMark.objects.exists()


def test_a_mark_that_has_ended_folds_nothing_away(operator: Client) -> None:
    mark(operator)
    FindingMark.objects.update(until=timezone.now() - timedelta(seconds=1))
    page = operator.get("/")
    assert (len(page.context["marked"]), len(page.context["silenced"])) == (1, 0)


@pytest.mark.parametrize(
    ("values", "status", "error"),
    [
        ({"reason": " "}, 400, "reason: expected 1 to 500 characters, got 0"),
        ({"reason": "x" * 501}, 400, "reason: expected 1 to 500 characters, got 501"),
        ({"hours": "5000"}, 400, "hours: expected one of 1, 4, 8, 24, 72, 168"),
        ({"mark": "deleted"}, 400, "mark: expected one of acknowledged, silenced"),
        ({"finding": "parked:main:t/4 sink"}, 404, "It is not wrong any more"),
    ],
)
def test_a_mark_that_is_wrong_is_refused_in_its_place(
    values: dict[str, str], status: int, error: str, operator: Client
) -> None:
    answer = mark(operator, **values)
    assert answer.status_code == status
    assert error in answer.content.decode()
    assert not FindingMark.objects.exists()


def test_a_viewer_sees_and_marks_nothing(client: Client, user: User, make_run: MakeRun) -> None:
    make_run(partitions=[FLOOD])
    client.force_login(user)
    assert client.get("/notifications").status_code == 200
    assert "/findings/mark" not in client.get("/").content.decode()
    assert client.get("/findings/mark", {"finding": KEY}).status_code == 403
    assert mark(client).status_code == 403
    assert client.post("/findings/unmark", {"finding": KEY}).status_code == 403
    assert client.post("/notifications/test", {"receiver": "pager"}).status_code == 403


def test_receivers_are_shown_without_their_addresses(admin: Client) -> None:
    NoticeReceiver.objects.create(
        name="pager",
        failures_in_a_row=3,
        error="503",
        error_at=timezone.now(),
        next_at=timezone.now(),
    )
    page = admin.get("/notifications").content.decode()
    assert "slack://***" in page
    assert "failed 3 times in a row" in page
    assert "token-a" not in page
    assert "token-a" not in admin.get("/config").content.decode()


def test_an_admin_sends_a_test_once_while_it_waits(admin: Client) -> None:
    for _ in range(2):
        answer = admin.post("/notifications/test", {"receiver": "pager"})
        assert answer["Location"] == "/notifications?receiver=pager"
    (notice,) = Notice.objects.all()
    assert (notice.change, notice.receiver, notice.state) == ("test", "pager", "queued")
    assert "Asked for by of-admin" in notice.detail
    assert admin.post("/notifications/test", {"receiver": "other"}).status_code == 400
    page = admin.get("/notifications?receiver=pager").content.decode()
    assert "Test message" in page


def test_a_test_needs_the_csrf_token(admin: Client) -> None:
    strict = Client(enforce_csrf_checks=True, headers={"origin": "https://elsewhere.example"})
    strict.cookies = admin.cookies
    assert strict.post("/notifications/test", {"receiver": "pager"}).status_code == 403
    assert not Notice.objects.exists()


def test_what_the_controller_sees_is_what_the_page_shows(operator: Client) -> None:
    observe(situation().findings, Notifying())
    page = operator.get("/notifications")
    assert [each.key for each, _ in page.context["episodes"]] == [KEY]
    assert "Partition 3 of t: parked, sink" in page.content.decode()
