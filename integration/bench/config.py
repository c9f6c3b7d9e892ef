"""The configuration of one measured worker."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from integration.handlers.bench import SINK

CLUSTER = "bench"
WORKER = "bench-1"
SLOTS = 4
PARTITIONS = 50
PROGRAM = "/bin/true"
PYTHON_PROGRAM = Path(__file__).with_name("program.py")


@dataclass(frozen=True, slots=True, kw_only=True)
class Topics:
    """Source, sink and group of one round; nothing is shared between rounds."""

    source: str
    results: str
    group: str

    @classmethod
    def of(cls, label: str) -> Topics:
        """Names made from a label that is unique in the run."""
        return cls(source=f"{label}-in", results=f"{label}-out", group=f"{label}-group")


def settings(topics: Topics, *, brokers: str, database_url: str, folder: Path) -> dict[str, Any]:
    """The content of ``drakkar.yaml``."""
    cluster = {
        "handler": "integration.handlers.bench:BenchHandler",
        "kafka": {"brokers": brokers, "topic": topics.source, "group": topics.group},
        "executor": {"binary": PROGRAM, "max_executors": SLOTS},
        "sinks": {SINK: {"kind": "kafka", "topic": topics.results}},
        "recorder": {"spool_dir": str(folder / "spool")},
        "metrics": {"port": 0},
        "logging": {"level": "INFO"},
    }
    site = {"database_url": database_url, "secret_key": "only-for-a-measurement-" + "x" * 32}
    return {"site": site, "clusters": {CLUSTER: cluster}}


def program_args(*words: str) -> list[str]:
    """The arguments with which the interpreter runs the Python program."""
    return ["-IS", str(PYTHON_PROGRAM), *words]


def persistent(*words: str) -> dict[str, Any]:
    """What the executor's section has where processes of the Python program stay."""
    return {
        "mode": "persistent",
        "binary": sys.executable,
        "persistent": {"args": program_args("--stay", *words), "await_ready": True},
    }


def write_config(path: Path, content: dict[str, Any]) -> None:
    """Write YAML."""
    path.write_text(yaml.safe_dump(content, sort_keys=False))


def worker_environment(environ: dict[str, str], config: Path) -> dict[str, str]:
    """The environment of a worker: nobody's DRAKKAR_ overrides, our configuration."""
    ours = ("DRAKKAR_", "DJANGO_SETTINGS_MODULE")
    kept = {name: value for name, value in environ.items() if not name.startswith(ours)}
    return {**kept, "DRAKKAR_CONFIG": str(config)}
