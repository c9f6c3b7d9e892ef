"""Prometheus, where the machine has it (Debian: ``prometheus``), with the demo's own rules."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from integration.services.base import Launch, ServiceUnavailable, dying
from integration.services.ports import LOOPBACK, is_open

OBSERVABILITY = Path(__file__).resolve().parents[1] / "observability"


def prepare(folder: Path, port: int, targets: Mapping[int, int]) -> Launch:
    """How to start it; ``targets`` are the ports that stand in the scrape configuration, by the
    ports in use. Raises ServiceUnavailable."""
    program = shutil.which("prometheus")
    if program is None:
        raise ServiceUnavailable("Prometheus: not installed (Debian: prometheus)")
    folder.mkdir(parents=True, exist_ok=True)
    config: dict[str, Any] = yaml.safe_load((OBSERVABILITY / "prometheus.yml").read_text())
    config["rule_files"] = [str(OBSERVABILITY / "alerts.yml")]
    for job in config["scrape_configs"]:
        for static in job["static_configs"]:
            static["targets"] = [_moved(target, targets) for target in static["targets"]]
    path = folder / "prometheus.yml"
    path.write_text(yaml.safe_dump(config))
    argv = [program, f"--config.file={path}", f"--storage.tsdb.path={folder / 'data'}"]
    argv += [f"--web.listen-address={LOOPBACK}:{port}", "--storage.tsdb.retention.time=1d"]
    return Launch(
        name="prometheus",
        argv=dying(argv),
        log_path=folder / "prometheus.log",
        is_ready=lambda: is_open(port),
        version=version_of(program),
        ready_seconds=30.0,
        stop_seconds=10.0,
    )


def version_of(program: str) -> str:
    """Return what the program calls its version, for people; empty when it does not say."""
    done = subprocess.run(
        [program, "--version"], capture_output=True, text=True, timeout=10, check=False
    )
    found = re.search(r"version (\S+)", done.stdout + done.stderr)
    return found[1] if found else ""


def _moved(target: str, targets: Mapping[int, int]) -> str:
    host, _, port = target.rpartition(":")
    return f"{host}:{targets.get(int(port), int(port))}"
