"""Workers in a browser: their own page, and one colour wherever they are named."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import Locator, Page, expect

from domain.worker_hues import hues
from tests.browser.conftest import Reader
from tests.browser.sample import TOPIC

pytestmark = pytest.mark.django_db(transaction=True)
WAIT_MS = 20_000
NAMES = [
    *(("main", f"worker-{n}") for n in range(1, 40)),
    ("fast", "search-7f9c6d5b4-x2x8k"),
    ("größe", "Ж/鶴 🐟"),
]


def hue_of(name: Locator) -> str:
    """The class that colours a name."""
    found = re.search(r"w-\d+", name.get_attribute("class") or "")
    assert found
    return found[0]


def test_a_worker_has_one_colour_on_every_page(reader: Reader) -> None:
    page, found = reader.page, set()
    for path in ("/", "/workers", "/sinks", "/config", f"/partitions/main/{TOPIC}/3", "/live"):
        reader.open(path)
        name = page.locator("main .who", has_text=re.compile("^worker-1$")).first
        expect(name).to_be_visible(timeout=WAIT_MS)
        found.add(hue_of(name))
    reader.open("/workers?cluster=main&worker=worker-1")
    found.add(hue_of(page.locator("main .who").first))
    assert len(found) == 1


@pytest.mark.parametrize("count", [1, 3, 12, len(NAMES)])
def test_the_browser_and_the_server_choose_the_same_colours(reader: Reader, count: int) -> None:
    names = NAMES[-count:]
    chosen = reader.page.evaluate(
        """async (names) => {
            const { hues, nameOf } = await import("/static/drakkar/worker_hues.js");
            return Object.fromEntries(hues(names.map((name) => nameOf(...name))));
        }""",
        [list(name) for name in names],
    )
    assert chosen == {"/".join(name): hue for name, hue in hues(names).items()}


def test_a_worker_leads_to_its_page_and_that_to_its_parts(reader: Reader) -> None:
    page = reader.page
    reader.open("/")
    page.locator("#p-workers .who", has_text="worker-2").click()
    expect(page).to_have_url(re.compile(r"/workers/main/worker-2"))
    expect(page.locator("#p-now")).to_contain_text("busy")
    expect(page.locator("#p-parts tbody tr")).to_have_count(17)
    page.locator("#p-running tbody a").first.click()
    expect(page).to_have_url(re.compile(r"/task/main/"))


def test_the_page_fits_a_phone(reader: Reader) -> None:
    page: Page = reader.page
    page.set_viewport_size({"width": 390, "height": 844})
    reader.open("/workers/main/worker-1")
    expect(page.locator("h1")).to_contain_text("worker-1")
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
