"""Saved views of the history: whose they are, who may do what, and what is refused."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import Group, User
from django.test import Client

from drakkar_site.accounts.models import AuditEntry, SavedView

pytestmark = pytest.mark.django_db
VIEWS = "/history/views"
FAILED = "kind=task_failed&since=6h&cluster=main"


@pytest.fixture
def reader(client: Client, user: User) -> Client:
    """A client of mara, who reads."""
    client.force_login(user)
    return client


@pytest.fixture
def of_theo() -> SavedView:
    theo = User.objects.create_user("theo")
    return SavedView.objects.create(owner=theo, name="theirs", query="label=a%3D1", is_shared=True)


def test_who_reads_saves_renames_and_deletes_a_view(reader: Client) -> None:
    form = {"name": " what  failed ", "query": f"{FAILED}&topic="}
    for _ in range(2):
        answer = reader.post(VIEWS, form)
        assert (answer.status_code, answer["Location"]) == (302, f"/history?{FAILED}")
    view = SavedView.objects.get()
    assert (view.name, view.query, view.is_shared) == ("what failed", FAILED, False)
    target = AuditEntry.objects.order_by("id")[0].target
    assert target == f"name= what  failed  query={FAILED}&topic="
    reader.post(VIEWS, {"name": "what failed", "query": "noise=1"})
    view.refresh_from_db()
    assert view.query == "noise=1"
    reader.post(f"{VIEWS}/{view.pk}", {"action": "change", "name": "noise"})
    page = reader.get(VIEWS)
    assert [each.name for each in page.context["views"].own] == ["noise"]
    assert 'href="/history?noise=1"' in page.content.decode()
    reader.post(f"{VIEWS}/{view.pk}", {"action": "delete"})
    assert not SavedView.objects.exists()


def test_a_reader_shares_nothing(reader: Client) -> None:
    assert reader.post(VIEWS, {"name": "a", "query": "", "shared": "1"}).status_code == 403
    assert not SavedView.objects.exists()
    assert reader.post(VIEWS, {"name": "a", "query": ""}).status_code == 302
    own = f"{VIEWS}/{SavedView.objects.get().pk}"
    form = {"action": "change", "name": "a", "shared": "1"}
    assert reader.post(own, form).status_code == 403
    assert not SavedView.objects.get().is_shared
    assert 'name="shared"' not in reader.get(VIEWS).content.decode()


def test_who_operates_shares_what_all_see_and_only_the_owner_changes(
    operator: Client, of_theo: SavedView
) -> None:
    operator.post(VIEWS, {"name": "mine", "query": FAILED, "shared": "1"})
    found = operator.get(VIEWS).context["views"]
    assert [each.name for each in found.own] == ["mine"]
    assert [(each.name, each.owner.username) for each in found.of_others] == [("theirs", "theo")]
    other = Client()
    other.force_login(of_theo.owner)
    assert [each.name for each in other.get(VIEWS).context["views"].of_others] == ["mine"]
    theirs = f"{VIEWS}/{of_theo.pk}"
    assert operator.post(theirs, {"action": "change", "name": "taken"}).status_code == 403
    assert operator.post(theirs, {"action": "delete"}).status_code == 403
    of_theo.is_shared = False
    of_theo.save()
    assert operator.post(theirs, {"action": "delete"}).status_code == 404
    assert not operator.get(VIEWS).context["views"].of_others


def test_an_admin_deletes_what_another_shares(
    client: Client, user: User, of_theo: SavedView
) -> None:
    user.groups.add(Group.objects.get_or_create(name="admin")[0])
    client.force_login(user)
    form = {"action": "change", "name": "x"}
    assert client.post(f"{VIEWS}/{of_theo.pk}", form).status_code == 403
    assert client.post(f"{VIEWS}/{of_theo.pk}", {"action": "delete"}).status_code == 302
    assert not SavedView.objects.exists()


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        ({"name": ""}, "name: expected 1 to 60 characters, got 0"),
        ({"name": "x" * 61}, "name: expected 1 to 60 characters, got 61"),
        ({"query": "older=x"}, "query: expected cluster, worker, kind"),
        ({"query": "kind=nothing"}, "query: expected a known kind, got nothing"),
        ({"query": "column=x"}, "query: expected a known column, got x"),
        ({"query": "since=yesterday"}, "since: expected"),
        ({"query": "partition=x"}, "partition: expected a number"),
        ({"query": "text=%00"}, "query: expected no NUL"),
        ({"query": "text=" + "x" * 2_000}, "query: expected at most 2000 characters, got 2005"),
        ({"query": "text=" + "\u00e9" * 500}, "query: expected at most 2000 characters, got 3005"),
    ],
)
def test_what_is_no_view_is_named(reader: Client, sent: dict[str, str], said: str) -> None:
    page = reader.post(VIEWS, {"name": "a", "query": FAILED, **sent})
    assert page.status_code == 400
    assert said in page.context["error"]
    assert not SavedView.objects.exists()


def test_fifty_views_are_kept_and_a_name_is_of_one(reader: Client, user: User) -> None:
    SavedView.objects.bulk_create(SavedView(owner=user, name=f"v{n}") for n in range(50))
    page = reader.post(VIEWS, {"name": "more", "query": ""})
    assert page.status_code == 400
    assert "name: expected at most 50 views" in page.context["error"]
    assert reader.post(VIEWS, {"name": "v7", "query": FAILED}).status_code == 302
    assert SavedView.objects.get(name="v7").query == FAILED
    first = SavedView.objects.get(name="v0")
    page = reader.post(f"{VIEWS}/{first.pk}", {"action": "change", "name": "v1"})
    assert "name: expected one that no view of yours has, got v1" in page.context["error"]
    page = reader.post(f"{VIEWS}/{first.pk}", {"action": "burn"})
    assert "action: expected change or delete, got burn" in page.context["error"]


def test_the_history_lists_views_and_offers_what_it_shows(
    operator: Client, of_theo: SavedView
) -> None:
    operator.post(VIEWS, {"name": "failed", "query": FAILED})
    page = operator.get(f"/history?{FAILED}&older=").content.decode()
    bar = page[page.index('aria-label="Saved views"') :].partition("</nav>")[0]
    assert 'href="/history?kind=task_failed&amp;since=6h&amp;cluster=main"' in bar
    assert bar.count('aria-current="true"') == 1
    assert 'title="Shared by theo"' in bar
    assert 'name="query" value="kind=task_failed&amp;since=6h&amp;cluster=main"' in bar
    assert 'name="csrfmiddlewaretoken"' in bar
    assert 'name="shared"' in bar
    other = Client()
    other.force_login(of_theo.owner)
    page = other.get("/history").content.decode()
    bar = page[page.index('aria-label="Saved views"') :].partition("</nav>")[0]
    assert ">failed</a>" not in bar
    assert 'name="shared"' not in bar


def test_a_form_of_another_site_saves_nothing(user: User) -> None:
    client = Client(enforce_csrf_checks=True)
    client.force_login(user)
    assert client.post(VIEWS, {"name": "a", "query": ""}).status_code == 403
    assert not SavedView.objects.exists()
