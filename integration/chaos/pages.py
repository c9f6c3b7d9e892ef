"""Open pages, by themselves, while a worker is killed and Postgres goes away and returns.

One tab a page in a real Chromium, never reloaded; a line as soon as a page shows what it must, and
a picture of each at each stage in the run folder's ``pages``.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from playwright.sync_api import BrowserContext, Page

from integration.browser import chromium
from integration.chaos.plan import OUTAGE_SECONDS, Deed
from integration.demo.faults import problem_of
from integration.demo.folder import RUN
from integration.demo.running import RunningDemo
from integration.demo.supervisor import until

VICTIM = "worker-2"
PATHS = {
    "dashboard": "?cluster=main",
    "workers": "workers?cluster=main",
    "partitions": "partitions?cluster=main",
    "live": "live?cluster=main",
    "history": "history?kind=worker_lost",
}
SEEN_SECONDS = 10.0
HEALED_SECONDS = 60.0
STARTED_SECONDS = 90.0
LONGEST_SECONDS = 90.0
"""A page is waited for this long, whatever its bound, so that the table tells how late it was."""
POLL_SECONDS = 0.1
OPEN_MS = 60_000.0
START_FATES = 50
SIZE = (1280, 900)

VICTIMS_ROW = f"""[...document.querySelectorAll('#p-workers tbody')[0].rows]
  .find((row) => row.cells[0].innerText.trim() === '{VICTIM}')"""
OWNERS = "[...document.querySelectorAll('#p-rows tbody tr .who')].map((who) => who.innerText)"
CONNECTION = "document.getElementById('conn').innerText.trim()"
BADGES = "[...document.querySelectorAll('.age')].filter((age) => age.checkVisibility())"
IS_OLD = f"""/^(Disconnected|Stale)/.test({CONNECTION})
  && {BADGES}.every((age) => ['stale', 'lost'].includes(age.dataset.fresh))"""
SEEMS_LIVE = f"""{CONNECTION} === 'Live' || {BADGES}.some((age) => age.dataset.fresh === 'fresh')"""
IS_FRESH = f"""{CONNECTION} === 'Live' && {BADGES}.length > 0
  && {BADGES}.every((age) => age.dataset.fresh === 'fresh')"""
SHOWS_LOST = {
    "dashboard": f"document.getElementById('p-wrong').innerText.includes('{VICTIM}: lost')",
    "workers": f"{VICTIMS_ROW}.cells[2].innerText.includes('lost')",
    "partitions": f"{OWNERS}.length === PARTITIONS && !{OWNERS}.includes('{VICTIM}')",
    "live": f"document.getElementById('marks').innerText.includes('{VICTIM}: worker lost')",
    "history": "document.getElementById('news').checkVisibility()",
}
SHOWS_WORKING = {
    "dashboard": f"!document.getElementById('p-wrong').innerText.includes('{VICTIM}')",
    "workers": f"{VICTIMS_ROW}.cells[2].innerText.includes('ready')",
    "partitions": f"{OWNERS}.length === PARTITIONS && {OWNERS}.includes('{VICTIM}')",
    "live": f"document.getElementById('pool').innerText.includes('{VICTIM}')",
}
SHOWS_LOSS = f"document.getElementById('events')?.innerText.includes('worker {VICTIM}')"


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """Text that each page must show, as an expression of JavaScript, and within how many
    seconds."""

    name: str
    shows: Mapping[str, str]
    bounds: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sight:
    """After how many seconds a page showed what a stage wants; None: never."""

    stage: str
    page: str
    seconds: float | None
    bound_seconds: float

    @property
    def is_late(self) -> bool:
        """Whether the bound was missed."""
        return self.seconds is None or self.seconds > self.bound_seconds

    def text(self) -> str:
        """A line of the table."""
        took = "never" if self.seconds is None else f"{self.seconds:.1f} s"
        late = "  BREACH" if self.is_late else ""
        return f"{self.stage:<9} {self.page:<11} {took:>7} (at most {self.bound_seconds:g} s){late}"


class Pages(threading.Thread):
    """Runs it. ``problem`` tells why it could not go on; ``breaches`` what pages did not do."""

    def __init__(self, demo: RunningDemo, moved_seconds: float, breaches: list[str]) -> None:
        super().__init__(name="pages", daemon=True)
        self.problem = ""
        self._demo = demo
        self._moved_seconds = moved_seconds
        self._breaches = breaches
        self._tabs: dict[str, Page] = {}

    def give_up(self) -> None:
        """The backlog is drained; the pages are looked at all the same."""

    def run(self) -> None:
        """Every stage, each with its lines."""
        self.problem = problem_of(self._run_all, "pages")

    def _run_all(self) -> None:
        until(self._has_begun, float("inf"))
        with chromium() as browser:
            width, height = SIZE
            context = browser.new_context(viewport={"width": width, "height": height})
            self._open(context)
            self._run_stages()

    def _has_begun(self) -> bool:
        return self._demo.count_fates() >= START_FATES

    def _open(self, context: BrowserContext) -> None:
        context.set_default_timeout(OPEN_MS)
        context.add_init_script(f"globalThis.PARTITIONS = {self._demo.partitions}")
        entrance = context.new_page()
        entrance.goto(f"{self._demo.web_url}?token={self._demo.auth_token}")
        entrance.close()
        for name, path in PATHS.items():
            self._tabs[name] = context.new_page()
            self._tabs[name].goto(f"{self._demo.web_url}{path}")

    def _run_stages(self) -> None:
        lost = dict.fromkeys(PATHS, SEEN_SECONDS) | {"partitions": self._moved_seconds}
        healed = dict.fromkeys(PATHS, HEALED_SECONDS)
        working = dict.fromkeys(PATHS, STARTED_SECONDS)
        self._see(Stage(name="before", shows=dict.fromkeys(PATHS, IS_FRESH), bounds=healed))
        self._see(Stage(name="ready", shows=SHOWS_WORKING, bounds=working))
        self._see(Stage(name="killed", shows=SHOWS_LOST, bounds=lost), Deed.KILL, VICTIM)
        self._tabs["history"].click("#news")
        self._see(Stage(name="shown", shows={"history": SHOWS_LOSS}, bounds=healed))
        self._see(Stage(name="started", shows=SHOWS_WORKING, bounds=working), Deed.START, VICTIM)
        self._see(Stage(name="calm", shows=dict.fromkeys(PATHS, IS_FRESH), bounds=healed))
        away = time.monotonic()
        old = Stage(
            name="away",
            shows=dict.fromkeys(PATHS, IS_OLD),
            bounds=dict.fromkeys(PATHS, SEEN_SECONDS),
        )
        self._see(old, Deed.STOP, "postgres")
        self._stay_old(away + OUTAGE_SECONDS)
        fresh = Stage(name="healed", shows=dict.fromkeys(PATHS, IS_FRESH), bounds=healed)
        self._see(fresh, Deed.START, "postgres")

    def _see(self, stage: Stage, deed: Deed | None = None, target: str = "") -> None:
        """Do the deed; look at the pages from that moment until each shows it, or never does."""
        with ThreadPoolExecutor(1) as beside:
            began = time.monotonic()
            done = beside.submit(self._demo.act, deed, target) if deed else None
            for sight in self._sights(stage, began):
                self._say(sight.text())
                if sight.is_late:
                    self._breaches.append(sight.text())
            if done:
                self._say(f"{target}: {deed} done {done.result()}".rstrip())
        for name in stage.shows:
            self._picture(stage.name, name)

    def _sights(self, stage: Stage, began: float) -> Iterator[Sight]:
        """Each page as it happens; at last those that never showed it."""
        left = dict(stage.shows)
        while left and time.monotonic() - began < LONGEST_SECONDS:
            for name in [one for one, wanted in left.items() if self._holds(one, wanted)]:
                del left[name]
                yield _sight(stage, name, time.monotonic() - began)
            time.sleep(POLL_SECONDS)
        for name in left:
            yield _sight(stage, name, None)

    def _stay_old(self, end: float) -> None:
        """Nothing may seem live again while Postgres is away."""
        while time.monotonic() < end:
            for name in [one for one in PATHS if self._holds(one, SEEMS_LIVE)]:
                told = f"away      {name:<11} showed old figures as live  BREACH"
                if told not in self._breaches:
                    self._breaches.append(told)
                    self._say(told)
            time.sleep(POLL_SECONDS)

    def _holds(self, name: str, wanted: str) -> bool:
        found: Any = self._tabs[name].evaluate(wanted)
        return bool(found)

    def _picture(self, stage: str, name: str) -> None:
        path = RUN / "pages" / f"{stage}-{name}.png"
        path.parent.mkdir(exist_ok=True)
        self._tabs[name].screenshot(path=path)

    def _say(self, text: str) -> None:
        print(f"  {time.strftime('%H:%M:%S')}  {text}", flush=True)


def _sight(stage: Stage, page: str, seconds: float | None) -> Sight:
    return Sight(stage=stage.name, page=page, seconds=seconds, bound_seconds=stage.bounds[page])
