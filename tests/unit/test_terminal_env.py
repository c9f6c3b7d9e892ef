"""The file that another terminal sources."""

from __future__ import annotations

import stat
from pathlib import Path

from integration.demo.terminal_env import (
    remove_terminal_env,
    terminal_environment,
    write_terminal_env,
)

SHARED = {"PATH": "/bin", "PYTHONUNBUFFERED": "1", "DRAKKAR_SITE__AUTH_TOKEN": "it's $ecret"}


def variables() -> dict[str, str]:
    return terminal_environment(
        SHARED,
        brokers="127.0.0.1:41009",
        clusters=["main", "fast-one"],
        config=Path("drakkar.yaml"),
        url="http://127.0.0.1:8000",
    )


def test_it_names_what_the_configuration_reads_and_nothing_of_a_process() -> None:
    assert variables() == {
        "DRAKKAR_CONFIG": str(Path("drakkar.yaml").resolve()),
        "DRAKKAR_SITE__AUTH_TOKEN": "it's $ecret",
        "DRAKKAR_CLUSTERS__MAIN__KAFKA__BROKERS": "127.0.0.1:41009",
        "DRAKKAR_CLUSTERS__FAST_ONE__KAFKA__BROKERS": "127.0.0.1:41009",
        "DRAKKAR_BROKERS": "127.0.0.1:41009",
        "DRAKKAR_URL": "http://127.0.0.1:8000",
        "DRAKKAR_TOKEN": "it's $ecret",
    }


def test_it_is_lines_of_export_for_this_user_alone(tmp_path: Path) -> None:
    path = write_terminal_env(tmp_path, variables())
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    lines = path.read_text().splitlines()
    assert "export DRAKKAR_BROKERS='127.0.0.1:41009'" in lines
    assert all(line.startswith("export DRAKKAR_") for line in lines)
    write_terminal_env(tmp_path, variables())
    assert [each.name for each in tmp_path.iterdir()] == ["env"]
    remove_terminal_env(tmp_path)
    remove_terminal_env(tmp_path)
    assert not list(tmp_path.iterdir())
