"""Alert rules, their own tests, and that every query names a metric that is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from integration.clusters import WORKER_PORTS
from tests.structure.test_docs import exported
from tests.support.services import require

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integration" / "observability"
METRIC = re.compile(r"\bdrakkar_\w+")
SUFFIXES = re.compile(r"_(bucket|sum|count)$")


def promtool(*arguments: str) -> None:
    require("promtool")
    done = subprocess.run(
        [str(shutil.which("promtool")), *arguments],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def rules() -> list[dict[str, str]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, str]] = group["rules"]
    return found


def dashboard() -> list[str]:
    panels = json.loads((FOLDER / "grafana-dashboard.json").read_text())["panels"]
    return [target["expr"] for panel in panels for target in panel["targets"]]


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-compose.yml"])
def test_a_scrape_configuration_and_the_rules_are_valid(name: str) -> None:
    promtool("check", "config", name)


def test_each_rule_fires_on_its_case_and_not_on_the_healthy_one() -> None:
    promtool("test", "rules", "alerts_test.yml")
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    tested = {one["alertname"] for case in cases for one in case["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("query", [rule["expr"] for rule in rules()] + dashboard())
def test_a_query_names_metrics_that_are_exported(query: str) -> None:
    named = {SUFFIXES.sub("", name) for name in METRIC.findall(query)}
    assert named
    assert named <= exported()


def test_every_worker_is_scraped() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    targets = {
        job["job_name"]: [t for static in job["static_configs"] for t in static["targets"]]
        for job in jobs
    }
    assert targets["drakkar-worker"] == [f"127.0.0.1:{port}" for port in WORKER_PORTS.values()]


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_is_explained_to_the_person_it_wakes(rule: dict[str, str]) -> None:
    page = (ROOT / "docs" / "operations.md").read_text()
    assert f"| `{rule['alert']}` |" in page
