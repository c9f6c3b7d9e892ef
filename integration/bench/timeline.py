"""``python -m integration.bench.timeline``: what drawing 10,000 bars costs in a real Chromium.

The page's own modules, fed with tasks as the socket tells them, 160 a second. A figure that misses
its target is said; the exit code is 1 only without a browser.
"""

from __future__ import annotations

import mimetypes
import sys
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, Route

from integration.bench.figures import percentile
from integration.browser import chromium

HERE = Path(__file__).resolve().parent
STATIC = HERE.parents[1] / "drakkar_site" / "static"
ORIGIN = "http://bench.invalid"
DRAW_P95_MS = 8.0
LONG_TASK_MS = 50.0
STEPS = 120
STEP_MS = 16
# Of fewer the 95th percentile is the slowest, that of a path the browser has yet to compile.
DRAWS = 60
SIZE = (1280, 900)


def main() -> int:
    """Measure following, panning and zooming; print a line each."""
    try:
        with chromium() as browser:
            page = browser.new_page(viewport={"width": SIZE[0], "height": SIZE[1]})
            page.route(f"{ORIGIN}/**", _answer)
            page.goto(f"{ORIGIN}/")
            page.wait_for_function("window.bench?.timeline.times.length > 0")
            print(f"{page.evaluate('bench.bars()'):,} bars in 80 rows, 1280 px wide")
            for zoom in (1, 0.25, 8):
                page.evaluate(f"bench.timeline.zoomBy({zoom} / bench.timeline.zoom)")
                _measured(page, f"following at {zoom}x", _wait)
                _measured(page, f"panning at {zoom}x", _pan)
            _measured(page, "zooming by wheel", _zoom)
            _measured(page, "scrolling the page", _scroll)
    except LookupError as exc:
        sys.stderr.write(f"timeline: {exc}\n")
        return 1
    return 0


def _answer(route: Route) -> None:
    path = route.request.url.removeprefix(ORIGIN).lstrip("/")
    file = (STATIC / path) if path else HERE / "timeline.html"
    if not file.is_file():
        route.fulfill(status=404)
        return
    kind = mimetypes.guess_type(file.name)[0] or "application/octet-stream"
    route.fulfill(body=file.read_bytes(), content_type=kind)


def _measured(page: Page, name: str, action: Any) -> None:
    page.evaluate("bench.begin()")
    action(page)
    found = page.evaluate("bench.end()")
    draws, longest = found["draws"], max(found["long"], default=0.0)
    p95 = percentile(draws, 95) if draws else 0.0
    is_met = p95 <= DRAW_P95_MS and longest <= LONG_TASK_MS
    figures = "nothing drawn"
    if draws:
        figures = f"p50 {percentile(draws, 50):.2f} ms, p95 {p95:.2f} ms, most {max(draws):.2f} ms"
    verdict = "met" if is_met else "MISSED"
    print(f"{name:<22} {len(draws):>4} draws: {figures}; longest task {longest:.0f} ms: {verdict}")


def _wait(page: Page) -> None:
    page.wait_for_function(f"bench.timeline.times.length >= {DRAWS}")


def _pan(page: Page) -> None:
    page.mouse.move(1000, 400)
    page.mouse.down()
    for step in range(STEPS):
        page.mouse.move(1000 - abs(step - STEPS // 2) * 10, 400)
        page.wait_for_timeout(STEP_MS)
    page.mouse.up()


def _zoom(page: Page) -> None:
    page.mouse.move(800, 400)
    for step in range(STEPS):
        page.mouse.wheel(0, 40 if step < STEPS // 2 else -40)
        page.wait_for_timeout(STEP_MS)


def _scroll(page: Page) -> None:
    page.mouse.move(40, 400)
    for step in range(STEPS):
        page.mouse.wheel(0, 20 if step < STEPS // 2 else -20)
        page.wait_for_timeout(STEP_MS)


if __name__ == "__main__":
    raise SystemExit(main())
