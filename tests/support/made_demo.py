"""A demo by ``make demo``, and what a person sees of it."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from integration.demo.supervisor import until
from integration.services.base import dying, last_lines
from tests.support.demo import CHECKOUT, are_gone, started_for
from tests.support.reading import read

WEB = "http://127.0.0.1:8000"
START_SECONDS = 180.0
STOP_SECONDS = 90.0
POLL_SECONDS = 0.25
MAKE = ("make", "-o", ".venv/.ready-demo", f"BIN={Path(sys.executable).parent}")
"""What is installed stays as it is."""

MADE = ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "MAKEOVERRIDES")


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """What every recipe for ``make demo`` asks for, together."""

    environment: dict[str, str]
    options: dict[str, str]


class Demo:
    """The running demo, asked as a person would."""

    def __init__(self, run: Path, asked: Asked, log: Path) -> None:
        self.run = run
        self.asked = asked
        self.token = asked.environment["DRAKKAR_SITE__AUTH_TOKEN"]
        options = [word for pair in asked.options.items() for word in pair if word]
        self._log = log
        with log.open("wb") as out:
            self.process = self._make("demo", f"ARGS={shlex.join(options)}", out=out)

    def _make(self, *words: str, out: Any) -> subprocess.Popen[bytes]:
        # What a `make test` above was given (MAKEFLAGS holds its ARGS) is not for this make.
        outside = {name: value for name, value in os.environ.items() if name not in MADE}
        return subprocess.Popen(
            dying([*MAKE, *words]),
            cwd=CHECKOUT,
            env={**outside, **self.asked.environment, "DRAKKAR_RUN_DIR": str(self.run)},
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
        )

    def wait_until_up(self) -> None:
        """The table is printed."""
        assert until(self._is_up, START_SECONDS, poll_seconds=POLL_SECONDS), last_lines(self._log)
        assert not self._has_ended(), last_lines(self._log)

    def _is_up(self) -> bool:
        return self._has_ended() or b"Ctrl-C ends" in self._log.read_bytes()

    def _has_ended(self) -> bool:
        return self.process.poll() is not None

    def table(self) -> list[tuple[str, str]]:
        """The rows of the printed table with an address for browsers: it, and what is there."""
        return re.findall(r"^  (http\S+)  +(.+)$", self._log.read_text(), re.MULTILINE)

    def status(self) -> dict[str, str]:
        """The lines of ``make demo-status``, by process."""
        said, _ = self._make("demo-status", out=subprocess.PIPE).communicate(timeout=STOP_SECONDS)
        return {line.split()[0]: line for line in said.decode().splitlines()}

    def stop(self) -> None:
        """By ``make demo-stop``."""
        said, _ = self._make("demo-stop", out=subprocess.PIPE).communicate(timeout=STOP_SECONDS)
        assert self.process.wait(STOP_SECONDS) == 0, said
        assert are_gone(self.run), started_for(self.run)

    def port(self, name: str) -> int:
        """Where a process listens."""
        return int(json.loads((self.run / "stack.json").read_text())["ports"][name])

    @property
    def brokers(self) -> str:
        """Kafka's address."""
        return f"127.0.0.1:{self.port('kafka')}"

    def page(self, path: str) -> str:
        """A page or document of the control plane, as the token's holder sees it."""
        return self.fetch(f"{WEB}{path}", Authorization=f"Bearer {self.token}")

    def fetch(self, url: str, **headers: str) -> str:
        """An address as the page of recipes writes it. Raises HTTPError."""
        here = url.replace(WEB, f"http://127.0.0.1:{self.port('web')}")
        with urllib.request.urlopen(
            urllib.request.Request(here, headers=headers), timeout=30
        ) as it:
            return str(it.read().decode())

    def dashboard(self, cluster: str) -> Any:
        """The figures of a cluster."""
        return json.loads(self.page(f"/api/v1/dashboard?cluster={cluster}"))

    def setting(self, key: str) -> tuple[str, str]:
        """Value and source of a key of ``main`` on ``/config``."""
        rows = re.findall(
            r'<th scope="row" class="mono nowrap">clusters\.main\.([^<]*)</th>'
            r'<td class="mono clip" title="([^"]*)">.*?<td class="nowrap[^"]*">([^<]*)</td>',
            read(self.page(f"/config?cluster=main&text={key}")),
        )
        return {name: (value, source) for name, value, source in rows}[key]

    def metric(self, worker: str, name: str) -> float:
        """The sum of a metric's samples at a worker's own port."""
        with urllib.request.urlopen(
            f"http://127.0.0.1:{self.port(worker)}/metrics", timeout=30
        ) as it:
            text = it.read().decode()
        found = re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", text, re.MULTILINE)
        return sum(map(float, found))
