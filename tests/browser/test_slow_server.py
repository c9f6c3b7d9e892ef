"""What a page says and does while the live socket tells nothing yet."""

from __future__ import annotations

import pytest
from playwright.sync_api import WebSocketRoute, expect

from tests.browser.conftest import Reader
from tests.browser.test_pages import WAIT_MS

pytestmark = pytest.mark.django_db(transaction=True)
SOCKET = "**/ws/live*"
NOON_SECONDS = 1_773_489_600


def test_live_tells_no_figure_before_the_first_is_known(reader: Reader) -> None:
    page = reader.page
    page.route_web_socket(SOCKET, lambda socket: None)
    reader.open("/live")
    expect(page.locator("#sentence")).to_have_text("Waiting for the first figures")
    expect(page.locator("#n-run")).to_have_text("unknown")
    said = page.inner_text("main")
    assert not [text for text in ("0 of 0", "Nothing runs", "No worker lives") if text in said]
    for tab, text in (("arrange", "No call of arrange"), ("collect", "No completion")):
        page.click(f"#tab-{tab}")
        expect(page.locator(f"#{tab} table")).to_be_visible()
        assert text not in page.inner_text("main")


def test_a_server_slow_to_answer_is_waited_for_longer_each_time(reader: Reader) -> None:
    page, opened = reader.page, list[WebSocketRoute]()
    page.goto("about:blank")  # the page signed in to opens no socket any more
    page.route_web_socket(SOCKET, lambda socket: opened.append(socket))
    # Before the page has a timer: from its first instant time is what the test says.
    page.clock.install(time=NOON_SECONDS)
    page.clock.pause_at(NOON_SECONDS + 1)
    reader.open("/workers")
    page.clock.run_for(8_000)
    expect(page.locator("#conn")).to_contain_text("Disconnected", timeout=WAIT_MS)
    page.clock.run_for(2_000)
    assert len(opened) == 2
    page.clock.run_for(17_000)
    assert len(opened) == 2, "given up before it could answer"
    page.clock.run_for(2_000)
    assert len(opened) == 3
