"""Each server of the demo stopped, then frozen, one after the other under load; what that did.

Meanwhile the other sinks go on; once it is back, what waited for it is stored in time.
"""

from __future__ import annotations

import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import psycopg
from prometheus_client.parser import text_string_to_metric_families

from integration.chaos_ground import Ground
from integration.chaos_plan import OPPOSITES, OUTAGE_SECONDS, Deed, outages
from integration.clusters import MAIN
from integration.services.base import ServiceFailed
from integration.stack_supervisor import until

DRAIN_SECONDS = 30.0
PAUSE_SECONDS = 5.0
POLL_SECONDS = 0.25
ASK_SECONDS = 5.0
START_FATES = 50
DELIVERED = "drakkar_sink_delivered_total"
WAITING = "drakkar_sink_queue_bytes"
REST_SHARE = 0.1
"""Under load something always waits: drained is as much as before, or a tenth of what waited."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """What one outage did. ``delivered`` is by sink, while the server was away."""

    server: str
    deed: Deed
    away_seconds: float
    delivered: Mapping[str, int]
    waiting_bytes: int
    """What waited for its sink when it came back."""
    drained_seconds: float | None
    """From the server's return; None: not within ``DRAIN_SECONDS``."""

    def breaches(self) -> list[str]:
        """What a claim does not hold for, in words."""
        lost = MAIN.servers[self.server]
        quiet = [sink for sink, count in self.delivered.items() if sink != lost and not count]
        found = [f"{sink} stored nothing meanwhile" for sink in quiet]
        if not self.waiting_bytes:
            found.append(f"nothing waited for {lost}: it was not away, or there was no load")
        if self.drained_seconds is None:
            found.append(f"not drained {DRAIN_SECONDS:g} s after its return")
        return found

    def text(self) -> str:
        """A line for people."""
        drained = "never" if self.drained_seconds is None else f"{self.drained_seconds:.1f} s"
        others = ", ".join(f"{sink} {count}" for sink, count in sorted(self.delivered.items()))
        return (
            f"{self.server} {self.deed.value} {self.away_seconds:.1f} s: {self.waiting_bytes} bytes"
            f" waited, drained after {drained};"
            f" stored meanwhile: {others}"
        )


class Outages(threading.Thread):
    """Runs them all. ``problem`` names the claims that did not hold, else empty."""

    def __init__(self, ground: Ground) -> None:
        super().__init__(name="outages", daemon=True)
        self.problem = ""
        self._ground = ground

    def give_up(self) -> None:
        """The backlog is drained; the outages are finished all the same."""

    def run(self) -> None:
        """One after the other, each with its line."""
        try:
            until(
                lambda: self._ground.count_fates() >= START_FATES,
                float("inf"),
                poll_seconds=POLL_SECONDS,
            )
            done = [self._run_one(deed, server) for deed, server in outages()]
        except (ServiceFailed, OSError, psutil.Error, psycopg.Error) as exc:
            self.problem = f"outages: {exc}"
            return
        found = [f"  {one.text()}: {what}" for one in done for what in one.breaches()]
        self.problem = "\n".join(["outages: a claim does not hold", *found]) if found else ""

    def _run_one(self, deed: Deed, server: str) -> Outage:
        sink = MAIN.servers[server]
        time.sleep(PAUSE_SECONDS)
        waited, before, began = self._sum(WAITING)[sink], self._sum(DELIVERED), time.monotonic()
        self._ground.act(deed, server)
        time.sleep(OUTAGE_SECONDS)
        stored, waiting = self._sum(DELIVERED), self._sum(WAITING)[sink]
        self._ground.act(OPPOSITES[deed], server)
        back = time.monotonic()
        rest = max(waited, waiting * REST_SHARE)
        is_drained = until(
            lambda: self._sum(WAITING)[sink] <= rest, DRAIN_SECONDS, poll_seconds=POLL_SECONDS
        )
        outage = Outage(
            server=server,
            deed=deed,
            away_seconds=back - began,
            delivered={sink: stored[sink] - before[sink] for sink in sorted(stored)},
            waiting_bytes=waiting,
            drained_seconds=time.monotonic() - back if is_drained else None,
        )
        print(f"  {time.strftime('%H:%M:%S')}  {outage.text()}", flush=True)
        return outage

    def _sum(self, metric: str) -> Counter[str]:
        """A metric by sink, over all workers of ``main``. Raises OSError."""
        found: Counter[str] = Counter()
        for port in self._ground.worker_ports.values():
            url = f"http://127.0.0.1:{port}/metrics"
            with urllib.request.urlopen(url, timeout=ASK_SECONDS) as answer:
                text = answer.read().decode()
            for family in text_string_to_metric_families(text):
                for sample in family.samples:
                    if sample.name == metric:
                        found[sample.labels["sink"]] += int(sample.value)
        return found
