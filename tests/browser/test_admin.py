"""The admin in the site's frame: its navigation, its theme, axe's rules, the width of a phone."""

from __future__ import annotations

import pytest
from django.contrib.auth.models import User
from playwright.sync_api import expect

from recorder.models import Event, Run
from tests.browser.conftest import Reader
from tests.browser.test_accessibility import in_both_themes, sideways

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.timeout(300)]
BACKGROUND = "getComputedStyle(document.body).backgroundColor"


def pages() -> list[str]:
    """A page of each kind: start, lists, rows that are only shown, forms, a question."""
    user = User.objects.create_user("kim", password="a-long-password")
    failed = Event.objects.filter(kind="task_failed").latest("ts")
    return [
        "/admin/",
        "/admin/recorder/event/",
        "/admin/recorder/run/",
        f"/admin/recorder/event/{failed.pk}/change/",
        f"/admin/recorder/run/{Run.objects.latest('started_at').pk}/change/",
        "/admin/accounts/token/",
        "/admin/auth/user/",
        "/admin/auth/user/add/",
        f"/admin/auth/user/{user.pk}/change/",
        f"/admin/auth/user/{user.pk}/history/",
        f"/admin/auth/user/{user.pk}/delete/",
        "/admin/auth/group/add/",
        "/admin/password_change/",
    ]


def test_the_admin_stands_in_the_frame_and_theme_of_the_site(reader: Reader) -> None:
    page = reader.page
    found: list[str] = []
    for path in pages():
        reader.open(path)
        navigation = page.get_by_role("navigation", name="Pages")
        expect(navigation.get_by_role("link", name="Partitions")).to_be_visible()
        expect(page.locator("h1")).to_have_count(1)
        found += in_both_themes(page, path)
        found += sideways(page, path)
    assert found == [], "\n".join(found)


@pytest.mark.parametrize("theme", ["light", "dark"])
def test_the_chosen_theme_is_the_admin_s_too(reader: Reader, theme: str) -> None:
    reader.page.evaluate(f"localStorage.setItem('theme', '{theme}')")
    colours = set()
    for path in ("/", "/admin/auth/user/"):
        reader.open(path)
        colours.add(reader.page.evaluate(BACKGROUND))
    assert len(colours) == 1


def test_a_user_is_changed_and_the_page_says_so(reader: Reader) -> None:
    page = reader.page
    reader.open("/admin/auth/user/add/")
    page.get_by_label("Username").fill("kim")
    page.locator("#id_password1").fill("a-long-password")
    page.locator("#id_password2").fill("a-long-password")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="was added successfully")).to_be_visible()
    page.get_by_label("First name").fill("Kim")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.get_by_role("status").filter(has_text="was changed successfully")).to_be_visible()
    assert User.objects.get(username="kim").first_name == "Kim"
