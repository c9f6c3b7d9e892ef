"""The compose file and the Kubernetes manifests: valid, complete, and equal to `make demo`."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec.models import ComposeSpecification

from drakkar_site.config.tree import SiteConfig
from integration.clusters import CLUSTERS, TOPICS, WORKER_PORTS
from integration.stack_plan import WORKER_STOP_SECONDS
from tests.support.deployments import (
    COMPOSE,
    INTEGRATION,
    ROOT,
    SERVICES,
    compose_state,
    kubernetes_state,
    manifest,
    manifests,
)

PORTS = {
    "kafka": 9092, "postgres": 5432, "mongo": 27017, "redis": 6379, "webhook": 9000,
    "prometheus": 9099, "kafka-ui": 8088, "mongo-express": 8089, "redis-commander": 8087,
    "web": 8000, "controller": 9096, **WORKER_PORTS,
}  # fmt: skip
"""The published page's infrastructure and workers, and the control plane."""

ONCE = {"migrate", "kafka-init", "producer"}
PAGE_PORTS = dict(zip(WORKER_PORTS, range(8081, 8086), strict=True))


def published(service: dict[str, Any]) -> list[tuple[str, int]]:
    pairs = [port.rsplit(":", 2) for port in service.get("ports", ())]
    return [(host, int(outside)) for host, outside, _ in pairs]


def test_the_compose_file_is_valid() -> None:
    ComposeSpecification.model_validate(
        {key: value for key, value in COMPOSE.items() if not key.startswith("x-")}
    )


def test_its_services_are_those_of_the_page_and_of_the_control_plane() -> None:
    assert set(SERVICES) == set(PORTS) | ONCE


@pytest.mark.parametrize("name", sorted(PORTS))
def test_a_service_is_published_on_its_port_and_on_loopback_only(name: str) -> None:
    wanted = [PORTS[name]] + ([PAGE_PORTS[name]] if name in PAGE_PORTS else [])
    assert published(SERVICES[name]) == [("127.0.0.1", port) for port in wanted]


@pytest.mark.parametrize("name", sorted(SERVICES))
def test_what_a_service_refers_to_exists(name: str) -> None:
    service = SERVICES[name]
    assert set(service.get("depends_on", ())) <= set(SERVICES)
    for volume in service.get("volumes", ()):
        source = volume.split(":")[0]
        is_there = (INTEGRATION / source).exists() if source.startswith(".") else None
        assert is_there if is_there is not None else source in COMPOSE["volumes"]


@pytest.mark.parametrize("worker", WORKER_PORTS)
def test_a_worker_runs_its_cluster_and_has_time_to_drain(worker: str) -> None:
    service = SERVICES[worker]
    (cluster,) = [one for one in CLUSTERS if worker in one.ports]
    assert service["command"] == ["runworker", "--cluster", cluster.name, "--name", worker]
    assert service["environment"][f"{cluster.prefix}METRICS__PORT"] == WORKER_PORTS[worker]
    assert service["stop_grace_period"] == f"{WORKER_STOP_SECONDS}s"


def keys(model: Any, prefix: str) -> Iterator[str]:
    for name, field in model.model_fields.items():
        inner = getattr(field.annotation, "model_fields", None)
        yield f"{prefix}__{name.upper()}"
        if inner is not None:
            yield from keys(field.annotation, f"{prefix}__{name.upper()}")


def test_every_environment_variable_is_a_key_of_the_configuration() -> None:
    site = set(keys(SiteConfig, "DRAKKAR_SITE"))
    given = {
        name
        for service in SERVICES.values()
        for name in service.get("environment", {})
        if name.startswith("DRAKKAR_")
    }
    demo = yaml.safe_load((ROOT / "drakkar.yaml").read_text())["clusters"]
    for name in sorted(given):
        if name.startswith("DRAKKAR_SITE__"):
            assert name in site
            continue
        _, cluster, section, *rest = name.split("__")
        assert cluster.lower() in demo
        if section == "SINKS":
            assert rest[0].lower() in demo[cluster.lower()]["sinks"]


def test_the_topics_that_compose_makes_are_those_of_the_demo() -> None:
    (script,) = SERVICES["kafka-init"]["command"]
    made = set(re.findall(r"--cluster (\w+)", script))
    assert made == {cluster.name for cluster in CLUSTERS}
    assert len(TOPICS) == 4


@pytest.mark.parametrize(("name", "document"), manifests(), ids=[name for name, _ in manifests()])
def test_a_manifest_is_valid(name: str, document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith("keda.sh/"):
        scale = document["spec"]
        assert scale["maxReplicaCount"] == 50
        assert scale["scaleTargetRef"]["name"] == "drakkar-worker-main"
        return
    kubernetes_validate.validate(document, "1.37", strict=True)


def test_workers_of_kubernetes_have_time_to_drain() -> None:
    workers = manifest("workers.yaml:StatefulSet/drakkar-worker-main")
    spec = workers["spec"]["template"]["spec"]
    assert spec["terminationGracePeriodSeconds"] == WORKER_STOP_SECONDS


EXPORTERS = ("web", "controller")


def test_web_and_controller_of_compose_share_the_folder_of_exports() -> None:
    for name in EXPORTERS:
        mounts = dict(volume.split(":")[:2] for volume in SERVICES[name]["volumes"])
        folder = PurePosixPath(compose_state(name).site.export_dir)
        assert folder.is_relative_to(mounts["data"])


def test_web_and_controller_of_kubernetes_share_the_folder_of_exports(tmp_path: Path) -> None:
    folder = PurePosixPath(kubernetes_state(tmp_path).site.export_dir)
    claim = manifest("web.yaml:PersistentVolumeClaim/drakkar-exports")
    assert claim["spec"]["accessModes"] == ["ReadWriteMany"]
    for name in EXPORTERS:
        spec = manifest(f"web.yaml:Deployment/drakkar-{name}")["spec"]["template"]["spec"]
        (mount,) = [
            one for one in spec["containers"][0]["volumeMounts"] if one["name"] == "exports"
        ]
        (volume,) = [one for one in spec["volumes"] if one["name"] == "exports"]
        assert folder.is_relative_to(mount["mountPath"])
        assert not mount.get("readOnly", False)
        assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]
