"""The compose file, the Kubernetes manifests, and the configurations that their processes load."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml

from drakkar_site.config import sources

ROOT = Path(__file__).resolve().parents[2]
INTEGRATION = ROOT / "integration"
COMPOSE: dict[str, Any] = yaml.safe_load((INTEGRATION / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
DEFAULTED = re.compile(r"\$\{\w+:-([^}]*)\}")


def interpolated(value: object) -> str:
    """A value as compose gives it to a container when nothing is set outside."""
    return DEFAULTED.sub(lambda found: found[1], str(value))


def compose_environment(service: str) -> dict[str, str]:
    """The environment of one container."""
    given: dict[str, object] = SERVICES[service].get("environment", {})
    return {name: interpolated(value) for name, value in given.items()}


def compose_state(service: str) -> sources.State:
    """What the container's process loads; its working folder holds ``drakkar.yaml``."""
    path = {"DRAKKAR_CONFIG": str(ROOT / "drakkar.yaml")}
    return sources.load({**compose_environment(service), **path})


def manifests() -> list[tuple[str, dict[str, Any]]]:
    """Every document of the manifests as ``file:Kind/name``."""
    return [
        (f"{path.name}:{document['kind']}/{document['metadata']['name']}", document)
        for path in sorted((INTEGRATION / "kubernetes").glob("*.yaml"))
        for document in yaml.safe_load_all(path.read_text())
    ]


def manifest(name: str) -> dict[str, Any]:
    """The document of that name. Raises KeyError."""
    return dict(manifests())[name]


def pods() -> dict[str, dict[str, Any]]:
    """The pod's ``spec`` of every manifest that makes pods, by the manifest's name."""
    return {
        name: document["spec"]["template"]["spec"]
        for name, document in manifests()
        if "template" in document.get("spec", {})
    }


def pod_environment(name: str) -> dict[str, str]:
    """What its container is given: its own variables over those of the Secrets it refers to."""
    (container,) = pods()[name]["containers"]
    found: dict[str, str] = {}
    for source in container.get("envFrom", ()):
        found |= manifest(f"config.yaml:Secret/{source['secretRef']['name']}")["stringData"]
    return found | {each["name"]: each.get("value", "from-the-pod") for each in container["env"]}


def kubernetes_state(folder: Path, name: str = "web.yaml:Deployment/drakkar-web") -> sources.State:
    """What a pod's process loads from the ConfigMap, written to ``folder``, and its environment."""
    path = folder / "drakkar.yaml"
    path.write_text(manifest("config.yaml:ConfigMap/drakkar")["data"]["drakkar.yaml"])
    return sources.load({**pod_environment(name), "DRAKKAR_CONFIG": str(path)})
