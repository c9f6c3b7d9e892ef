"""The units of systemd: sound, with commands that are there, and time to drain."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from configparser import RawConfigParser
from pathlib import Path

import pytest
from django.core.management import get_commands, load_command_class

from integration.demo.config import STOP_MARGIN_SECONDS
from workers.config import ClusterConfig

ROOT = Path(__file__).resolve().parents[2]
UNITS = sorted((ROOT / "integration" / "systemd").glob("*.service"))
INSTALLED = "/opt/drakkar"
WORKER = "drakkar-worker@.service"
CLOSED = {
    "NoNewPrivileges": "yes",
    "PrivateTmp": "yes",
    "ProtectSystem": "strict",
    "User": "drakkar",
}


def service(name: str) -> dict[str, str]:
    parsed = RawConfigParser(strict=True)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read_string((ROOT / "integration" / "systemd" / name).read_text())
    return dict(parsed["Service"])


def names(units: list[Path]) -> list[str]:
    return [unit.name for unit in units]


def test_each_part_has_its_unit() -> None:
    parts = {"migrate", "controller", "web", "worker@"}
    assert set(names(UNITS)) == {f"drakkar-{part}.service" for part in parts}


@pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="systemd-analyze is not here")
@pytest.mark.parametrize("name", names(UNITS))
def test_systemd_finds_nothing_wrong(name: str, tmp_path: Path) -> None:
    for unit in UNITS:
        text = unit.read_text().replace(f"{INSTALLED}/.venv/bin", str(Path(sys.executable).parent))
        (tmp_path / unit.name).write_text(text.replace(INSTALLED, str(ROOT)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(tmp_path / name)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("name", names(UNITS))
def test_it_runs_a_command_that_is_there(name: str) -> None:
    words = shlex.split(service(name)["ExecStart"].replace("%l-%i", "host-1"))
    program = Path(words[0]).relative_to(f"{INSTALLED}/.venv/bin").name
    if program == "daphne":
        assert words[-1] == "drakkar_site.asgi:application"
        return
    assert [program, words[1]] == ["python", "manage.py"]
    command = load_command_class(get_commands()[words[2]], words[2])
    command.create_parser("manage.py", words[2]).parse_args(words[3:])


@pytest.mark.parametrize("name", names(UNITS))
def test_it_is_locked_down(name: str) -> None:
    assert CLOSED.items() <= service(name).items()


def test_a_worker_drains_has_cgroups_and_may_make_namespaces() -> None:
    found = service(WORKER)
    budget = ClusterConfig.model_fields["drain_timeout_seconds"].default
    assert float(found["TimeoutStopSec"]) == budget + STOP_MARGIN_SECONDS
    assert found["KillMode"] == "mixed"
    assert set(found["Delegate"].split()) == {"cpu", "memory", "pids"}
    assert not {"RestrictNamespaces", "ProtectProc", "ProtectKernelTunables"} & found.keys()
