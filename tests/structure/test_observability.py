"""Alert rules, their own tests, and that every query asks for what is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from domain.block_cause import BlockCause
from domain.finding import FindingKind
from domain.lag_cause import LagCause
from integration.demo.clusters import WORKER_PORTS
from recorder.failures.news import Why
from tests.support.promql import GROUPED, SELECTOR, exported_labels, faults_of, variable_faults
from tests.support.services import require

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "integration" / "observability"
EXPORTED = exported_labels()


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


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    found: list[dict[str, Any]] = group["rules"]
    return found


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "grafana-dashboard.json").read_text())
    return found


def panel_queries() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel["targets"]]


def variables() -> list[dict[str, str]]:
    return [one for one in dashboard()["templating"]["list"] if one["type"] == "query"]


@pytest.mark.parametrize("name", ["prometheus.yml", "prometheus-compose.yml"])
def test_a_scrape_configuration_and_the_rules_are_valid(name: str) -> None:
    promtool("check", "config", name)


def test_each_rule_fires_on_its_case_and_not_on_the_healthy_one() -> None:
    promtool("test", "rules", "alerts_test.yml")
    cases = yaml.safe_load((FOLDER / "alerts_test.yml").read_text())["tests"]
    tested = {one["alertname"] for case in cases for one in case["alert_rule_test"]}
    assert tested == {rule["alert"] for rule in rules()}


@pytest.mark.parametrize("query", [rule["expr"] for rule in rules()] + panel_queries())
def test_a_query_names_metrics_that_are_exported_and_labels_they_have(query: str) -> None:
    assert SELECTOR.search(query)
    assert faults_of(query, EXPORTED) == []


@pytest.mark.parametrize("variable", variables(), ids=lambda variable: variable["name"])
def test_a_variable_of_the_dashboard_lists_a_label_that_its_metric_has(
    variable: dict[str, str],
) -> None:
    assert variable_faults(variable["query"], EXPORTED) == []


def test_the_dashboard_uses_no_variable_that_it_does_not_define() -> None:
    text = (FOLDER / "grafana-dashboard.json").read_text()
    defined = {one["name"] for one in json.loads(text)["templating"]["list"]}
    assert set(re.findall(r"\$\{?([a-z]\w*)", text)) == defined


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_an_alert_tells_only_labels_that_its_query_leaves(rule: dict[str, Any]) -> None:
    told = set(re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]))
    grouped = GROUPED.search(rule["expr"])
    name, _ = SELECTOR.findall(rule["expr"])[0]
    left = set(re.findall(r"\w+", grouped[1])) if grouped else EXPORTED[name]
    assert told <= left


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("drakkar_lag", "drakkar_lag"),
        ('drakkar_consumer_lag{clusters="a"}', "drakkar_consumer_lag has no clusters"),
        (
            "max(drakkar_queued_bytes) / sum by (le, stage) (rate(drakkar_dead_letters_total[5m]))",
            "drakkar_dead_letters_total has no le",
        ),
        (
            "drakkar_control_group_lag unless on (worker) drakkar_queued_bytes",
            "drakkar_control_group_lag has no worker",
        ),
    ],
)
def test_a_wrong_query_is_told(query: str, fault: str) -> None:
    assert faults_of(query, EXPORTED) == [fault]


@pytest.mark.parametrize(
    ("query", "fault"),
    [
        ("label_values(drakkar_worker_info, sink)", "drakkar_worker_info has no sink"),
        ("label_values(drakkar_workers, cluster)", "drakkar_workers"),
        (
            'label_values(drakkar_worker_info{group="a"}, worker)',
            "drakkar_worker_info has no group",
        ),
        ("label_values(worker)", "expected label_values(metric, label), got label_values(worker)"),
    ],
)
def test_a_wrong_variable_is_told(query: str, fault: str) -> None:
    assert variable_faults(query, EXPORTED) == [fault]


def test_every_worker_is_scraped() -> None:
    jobs = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["scrape_configs"]
    targets = {
        job["job_name"]: [t for static in job["static_configs"] for t in static["targets"]]
        for job in jobs
    }
    assert targets["drakkar-worker"] == [f"127.0.0.1:{port}" for port in WORKER_PORTS.values()]


def sections_of_findings() -> dict[str, str]:
    """What the runbook says under each kind of finding, and under each of its causes."""
    page = (ROOT / "docs" / "runbook.md").read_text()
    part = page.partition("\n## What is wrong now\n")[2].partition("\n## ")[0]
    pieces = re.split(r"^#{3,4} (.*)$", part, flags=re.MULTILINE)[1:]
    return dict(zip(pieces[::2], pieces[1::2], strict=True))


def test_each_finding_and_cause_has_its_place_in_the_runbook() -> None:
    causes = [f"{FindingKind.LAG_GROWS}: {cause}" for cause in LagCause]
    causes += [f"{FindingKind.COMMIT_BLOCKED}: {cause}" for cause in BlockCause]
    causes += [f"{FindingKind.FAILURE_GROUP}: {cause}" for cause in Why]
    assert sorted(sections_of_findings()) == sorted([*FindingKind, *causes])


@pytest.mark.parametrize("kind", FindingKind)
def test_the_runbook_tells_how_severe_each_finding_is(kind: FindingKind) -> None:
    assert sections_of_findings()[kind].strip().startswith(f"`{kind.severity}`. ")


@pytest.mark.parametrize("rule", rules(), ids=lambda rule: rule["alert"])
def test_each_alert_is_explained_to_the_person_it_wakes(rule: dict[str, Any]) -> None:
    page = (ROOT / "docs" / "runbook.md").read_text()
    (section,) = re.findall(rf"^### {rule['alert']}$\n\n`(\w+)`", page, re.MULTILINE)
    assert section == rule["labels"]["severity"]
