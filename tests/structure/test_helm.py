"""The Helm chart: what the plain manifests say, by its own values, and errors that name the key."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import yaml

from drakkar_site.config import sources
from tests.support.deployments import INTEGRATION, manifest, manifests
from tests.support.services import require
from workers.version import VERSION

CHART = INTEGRATION / "helm"
DEFAULTS, TWO_CLUSTERS = CHART / "values.yaml", CHART / "two-clusters.yaml"
OF_OTHERS = {"keda.sh", "monitoring.coreos.com"}
"""Groups of the API whose schemas are not at hand."""

# One built from its source takes itself for a very old Kubernetes.
TEMPLATE = ("template", "drakkar", str(CHART), "--kube-version", "1.34.0")
SCALED = ("--set", "workerDefaults.scaling.enabled=true")


def helm(*words: str) -> subprocess.CompletedProcess[str]:
    require("helm")
    argv = ["helm", *words]
    return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


def rendered(*options: str) -> dict[str, dict[str, Any]]:
    """Return every document of the release ``drakkar`` as ``Kind/name``."""
    done = helm(*TEMPLATE, *options)
    assert done.returncode == 0, done.stderr
    documents = [each for each in yaml.safe_load_all(done.stdout) if each is not None]
    found = {f"{each['kind']}/{each['metadata']['name']}": each for each in documents}
    assert len(found) == len(documents)
    return found


def without_helm(document: dict[str, Any]) -> dict[str, Any]:
    """Return the document without the labels and annotations that only Helm has a use for."""
    metadata = document["metadata"]
    metadata["labels"] = bare(metadata.get("labels", {}))
    metadata["annotations"] = bare(metadata.get("annotations", {}))
    if "template" in document.get("spec", {}):
        inner = document["spec"]["template"]["metadata"]
        inner["annotations"] = bare(inner.get("annotations", {}))
    return document


def bare(pairs: dict[str, str]) -> dict[str, str]:
    ours = ("helm.sh/", "checksum/", "app.kubernetes.io/managed-by")
    return {name: value for name, value in pairs.items() if not name.startswith(ours)}


def pod_of(document: dict[str, Any]) -> dict[str, Any]:
    pod: dict[str, Any] = document["spec"]["template"]["spec"]
    return pod


def given(document: dict[str, Any]) -> dict[str, str]:
    """Return the variables that a pod's container has by value."""
    (container,) = pod_of(document)["containers"]
    return {one["name"]: one["value"] for one in container["env"] if "value" in one}


@pytest.mark.parametrize("values", [DEFAULTS, TWO_CLUSTERS], ids=lambda path: path.stem)
def test_the_schema_takes_the_values(values: Path) -> None:
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.Draft7Validator(schema).validate(yaml.safe_load(values.read_text()))


def test_each_key_of_the_schema_has_a_default() -> None:
    """So that ``helm show values`` tells all that can be said."""
    schema = json.loads((CHART / "values.schema.json").read_text())
    values = yaml.safe_load(DEFAULTS.read_text())
    assert set(schema["properties"]) - {"global"} == set(values)
    for key, value in values.items():
        known = schema["properties"][key].get("properties")
        if known is not None:
            assert set(known) == set(value), key
    entry = set(schema["properties"]["workers"]["items"]["properties"])
    assert entry == set(values["workerDefaults"]) | {"cluster", "secret", "standIns"}


def test_its_version_is_the_product_s() -> None:
    chart = yaml.safe_load((CHART / "Chart.yaml").read_text())
    assert (chart["version"], chart["appVersion"]) == (VERSION, VERSION)


@pytest.mark.parametrize("values", [DEFAULTS, TWO_CLUSTERS], ids=lambda path: path.stem)
def test_helm_finds_nothing_wrong(values: Path) -> None:
    done = helm("lint", "--strict", str(CHART), "--values", str(values))
    assert done.returncode == 0, done.stdout + done.stderr


def test_its_own_values_make_the_plain_manifests() -> None:
    made = {name: without_helm(document) for name, document in rendered(*SCALED).items()}
    wanted = {
        name.partition(":")[2]: without_helm(document)
        for name, document in manifests()
        if ":Secret/" not in name
    }
    own = made.pop("ConfigMap/drakkar-migrate")
    assert own["data"] == wanted["ConfigMap/drakkar"]["data"]
    (volume,) = [
        one for one in pod_of(wanted["Job/drakkar-migrate"])["volumes"] if "configMap" in one
    ]
    volume["configMap"]["name"] = "drakkar-migrate"
    for name, document in wanted.items():
        # The plain manifests label only what a selector asks for.
        if not document["metadata"]["labels"]:
            made[name]["metadata"]["labels"] = {}
    assert made == wanted


def test_it_makes_no_secret_and_scales_nothing_by_itself() -> None:
    kinds = {name.partition("/")[0] for name in rendered()}
    assert not kinds & {"Secret", "ScaledObject", "Ingress", "PodMonitor", "PodDisruptionBudget"}


@pytest.mark.parametrize("values", [DEFAULTS, TWO_CLUSTERS], ids=lambda path: path.stem)
def test_what_it_makes_is_valid(values: Path) -> None:
    for name, document in rendered("--values", str(values), *SCALED).items():
        if document["apiVersion"].split("/")[0] in OF_OTHERS:
            assert set(document) == {"apiVersion", "kind", "metadata", "spec"}, name
        else:
            kubernetes_validate.validate(document, "1.37", strict=True)


def test_the_migration_comes_first_with_its_own_configuration() -> None:
    made = rendered()
    weights = {
        name: int(document["metadata"]["annotations"].get("helm.sh/hook-weight", 0))
        for name, document in made.items()
        if document["metadata"].get("annotations", {}).get("helm.sh/hook")
        == "pre-install,pre-upgrade"
    }
    assert weights == {"ConfigMap/drakkar-migrate": -1, "Job/drakkar-migrate": 0}


def test_workers_of_two_clusters_have_what_is_theirs() -> None:
    made = rendered("--values", str(TWO_CLUSTERS))
    search = made["StatefulSet/drakkar-worker-search"]
    index = made["StatefulSet/drakkar-worker-index-fast"]
    # drain_timeout_seconds 90.5, rounded up, and 10; of the other the default.
    assert pod_of(search)["terminationGracePeriodSeconds"] == 101
    assert pod_of(index)["terminationGracePeriodSeconds"] == 40
    assert "replicas" not in search["spec"]
    assert index["spec"]["replicas"] == 3
    assert made["Service/drakkar-worker-index-fast"]["spec"]["ports"][0]["port"] == 9191
    assert made["ScaledObject/drakkar-worker-search"]["spec"]["maxReplicaCount"] == 12
    assert "ScaledObject/drakkar-worker-index-fast" not in made
    assert pod_of(search)["nodeSelector"] == {"disk": "local"}
    (container,) = pod_of(search)["containers"]
    assert container["resources"]["requests"] == {"cpu": "8", "memory": "1Gi"}
    assert container["image"] == "registry.example.com/search:2026.12.1"
    assert pod_of(index)["containers"][0]["image"] == "registry.example.com/index:7"


def test_only_its_own_workers_know_the_logins_of_a_cluster() -> None:
    made = rendered("--values", str(TWO_CLUSTERS))
    pods = {name: each for name, each in made.items() if "template" in each.get("spec", {})}
    assert len(pods) == 5
    for name, document in pods.items():
        (container,) = pod_of(document)["containers"]
        secrets = {one["secretRef"]["name"] for one in container["envFrom"]}
        is_own = name == "StatefulSet/drakkar-worker-search"
        assert ("search-logins" in secrets) == is_own
        assert ("RESULTS_DSN" in given(document)) == (not is_own)
        assert ("drakkar-web" in secrets) == (name == "Deployment/drakkar-web")
        assert ("drakkar-migrate" in secrets) == (name == "Job/drakkar-migrate")


def test_pods_of_two_clusters_load_their_configuration(tmp_path: Path) -> None:
    made = rendered("--values", str(TWO_CLUSTERS))
    path = tmp_path / "drakkar.yaml"
    path.write_text(made["ConfigMap/drakkar"]["data"]["drakkar.yaml"])
    secrets = {
        "DATABASE_URL": "postgresql://drakkar@postgres/drakkar",
        "SECRET_KEY": "s" * 50,
        "RESULTS_DSN": "postgresql://results",
    }
    for name, document in made.items():
        if "template" in document.get("spec", {}):
            environment = {**secrets, **given(document), "DRAKKAR_CONFIG": str(path)}
            assert sources.load(environment).problems == (), name


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ("image.tagg=x", "tagg"),
        ("web.replicas=two", "web"),
        ("web.service.port=70000", "port"),
        ("secrets.database=", "database"),
        ("controller.env.N=1", "env"),
        ("exports.storage=much", "storage"),
        ("workers[0].name=main", "name"),
        ("workers[0].cluster=other", "workers: cluster: expected one of config's (main), got"),
        ("workers[0].cluster=main,workers[0].terminationGracePeriodSeconds=5", "terminationGrace"),
        ("workers[0].cluster=main,workers[1].cluster=main", "expected each cluster once"),
        ("ingress.enabled=true", "host"),
        ("config=site", "config: expected the text of drakkar.yaml"),
        ("config=clusters: {}", "config: expected a section site, got none"),
    ],
)  # fmt: skip
def test_a_bad_value_is_named(setting: str, said: str) -> None:
    done = helm(*TEMPLATE, "--set", setting)
    assert done.returncode != 0
    assert said in done.stderr


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        (
            "spool_dir: /var/lib/drakkar/spool",
            "spool_dir: .spool",
            "config: clusters.main.recorder.spool_dir: expected a folder below /var/lib/drakkar/",
        ),
        (
            "export_dir: /var/lib/drakkar/exports",
            "debug: false",
            "config: site.export_dir: expected /var/lib/drakkar/exports, where web and controller",
        ),
        (
            "    metrics:\n",
            "    drain_timeout_seconds: ${DRAIN}\n    metrics:\n",
            "config: clusters.main.drain_timeout_seconds: expected a number",
        ),
    ],
)  # fmt: skip
def test_a_configuration_that_no_pod_can_run_with_is_refused(
    before: str, after: str, said: str, tmp_path: Path
) -> None:
    text = manifest("config.yaml:ConfigMap/drakkar")["data"]["drakkar.yaml"]
    assert before in text
    file = tmp_path / "drakkar.yaml"
    file.write_text(text.replace(before, after))
    done = helm(*TEMPLATE, "--set-file", f"config={file}")
    assert done.returncode != 0
    assert said in done.stderr
