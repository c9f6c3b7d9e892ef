"""Each server of the demo stopped, then frozen, one after the other under load; what that did.

Meanwhile the other sinks go on; once it is back, what waited for it is stored in time.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

from integration.chaos.plan import OPPOSITES, OUTAGE_SECONDS, Deed, outages
from integration.demo.clusters import MAIN
from integration.demo.faults import problem_of
from integration.demo.running import RunningDemo
from integration.demo.supervisor import until

DRAIN_SECONDS = 30.0
LOAD_PER_SECOND = 12.0
"""Below what two cores work off, whatever else they do."""
PAUSE_SECONDS = 5.0
POLL_SECONDS = 0.25
ASK_SECONDS = 5.0
START_FATES = 50
DELIVERED = "drakkar_sink_delivered_total"
WAITING = "drakkar_sink_queue_bytes"
LAG = "drakkar_consumer_lag"
LAG_SECONDS = 3.0
"""So much of the load may be without a commit at any time: what runs, and the commit interval."""
REST_SHARE = 0.1
"""Under load something always waits: drained is as much as before, or a tenth of what waited."""


class ClaimBroken(Exception):
    """An outage did what it must not do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Effect of one outage. ``delivered`` is by sink, while the server was away."""

    server: str
    deed: Deed
    away_seconds: float
    delivered: Mapping[str, int]
    waiting_bytes: int
    """Bytes that waited for their sink when it came back."""
    lag_messages: int
    """Without a commit when it came back."""
    drained_seconds: float | None
    """From the server's return until its lane was empty; None: not within ``DRAIN_SECONDS``."""
    committed_seconds: float | None
    """Seconds until the lag was what it was before."""

    def breaches(self) -> list[str]:
        """Return what a claim does not hold for, in words."""
        lost = MAIN.servers[self.server]
        quiet = [sink for sink, count in self.delivered.items() if sink != lost and not count]
        found = [f"{sink} stored nothing meanwhile" for sink in quiet]
        if not self.waiting_bytes:
            found.append(f"nothing waited for {lost}: it was not away, or there was no load")
        if self.drained_seconds is None:
            found.append(f"not drained {DRAIN_SECONDS:g} s after its return")
        if self.committed_seconds is None:
            found.append(f"its messages not committed {DRAIN_SECONDS:g} s after its return")
        return found

    def text(self) -> str:
        """A line for people."""
        others = ", ".join(f"{sink} {count}" for sink, count in sorted(self.delivered.items()))
        return (
            f"{self.server} {self.deed.value} {self.away_seconds:.1f} s: {self.waiting_bytes} bytes"
            f" waited, drained after {_seconds(self.drained_seconds)};"
            f" {self.lag_messages} messages without a commit, committed after"
            f" {_seconds(self.committed_seconds)};"
            f" stored meanwhile: {others}"
        )


def _seconds(value: float | None) -> str:
    return "never" if value is None else f"{value:.1f} s"


class Outages(threading.Thread):
    """Runs them all. ``problem`` names the claims that broke or what ended it, else empty."""

    def __init__(self, demo: RunningDemo) -> None:
        super().__init__(name="outages", daemon=True)
        self.problem = ""
        self._demo = demo

    def give_up(self) -> None:
        """The backlog is drained; the outages are finished all the same."""

    def run(self) -> None:
        """One after the other, each with its line."""
        self.problem = problem_of(self._run_all, "outages")

    def _run_all(self) -> None:
        until(
            lambda: self._demo.count_fates() >= START_FATES,
            float("inf"),
            poll_seconds=POLL_SECONDS,
        )
        done = [self._run_one(deed, server) for deed, server in outages()]
        found = [f"  {one.text()}: {what}" for one in done for what in one.breaches()]
        if found:
            raise ClaimBroken("\n".join(["a claim does not hold", *found]))

    def _run_one(self, deed: Deed, server: str) -> Outage:
        sink = MAIN.servers[server]
        time.sleep(PAUSE_SECONDS)
        waited, before, lag = self._sum(WAITING)[sink], self._sum(DELIVERED), self._lag()
        began = time.monotonic()
        self._demo.act(deed, server)
        time.sleep(OUTAGE_SECONDS)
        stored, waiting, lag_then = self._sum(DELIVERED), self._sum(WAITING)[sink], self._lag()
        self._demo.act(OPPOSITES[deed], server)
        back = time.monotonic()
        rest = max(waited, waiting * REST_SHARE)
        drained = self._seconds_until(lambda: self._sum(WAITING)[sink] <= rest, back)
        usual = max(lag, int(LOAD_PER_SECOND * LAG_SECONDS))
        committed = self._seconds_until(lambda: self._lag() <= usual, back)
        outage = Outage(
            server=server,
            deed=deed,
            away_seconds=back - began,
            delivered={sink: stored[sink] - before[sink] for sink in sorted(stored)},
            waiting_bytes=waiting,
            lag_messages=lag_then,
            drained_seconds=drained,
            committed_seconds=committed,
        )
        print(f"  {time.strftime('%H:%M:%S')}  {outage.text()}", flush=True)
        return outage

    def _seconds_until(self, holds: Callable[[], bool], began: float) -> float | None:
        left = max(0.0, began + DRAIN_SECONDS - time.monotonic())
        is_so = until(holds, left, poll_seconds=POLL_SECONDS)
        return time.monotonic() - began if is_so else None

    def _lag(self) -> int:
        return self._sum(LAG, "partition").total()

    def _sum(self, metric: str, label: str = "sink") -> Counter[str]:
        """A metric by a label, over all workers of ``main``. Raises OSError."""
        found: Counter[str] = Counter()
        for port in self._demo.worker_ports.values():
            url = f"http://127.0.0.1:{port}/metrics"
            with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == metric:
                        found[sample.labels[label]] += int(sample.value)
        return found
