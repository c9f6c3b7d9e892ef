"""The compose file and the Kubernetes manifests: valid, complete, and equal to `make demo`."""

from __future__ import annotations

import re
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path, PurePosixPath
from typing import Any

import kubernetes_validate
import pytest
import yaml
from compose_spec.models import ComposeSpecification

from integration.demo import browsers
from integration.demo.clusters import CLUSTERS, PAGE_PORTS, TOPICS, WORKER_PORTS, cluster_of
from integration.demo.config import STOP_MARGIN_SECONDS, stop_seconds, worker_stop_seconds
from integration.demo.plan import (
    PARTITIONS,
    Addresses,
    Options,
    Secrets,
    own_programs,
    shared_environment,
)
from recorder.config import RecorderConfig
from tests.support.deployments import (
    COMPOSE,
    INTEGRATION,
    ROOT,
    SERVICES,
    compose_environment,
    compose_state,
    kubernetes_state,
    manifest,
    manifests,
    pod_environment,
    pods,
)
from workers.broker.named_topics import named_topics

PORTS = {
    "kafka": 9092, "postgres": 5432, "mongo": 27017, "redis": 6379, "webhook": 9000,
    "prometheus": 9099, "kafka-ui": 8088, "mongo-express": 8089, "redis-commander": 8087,
    "web": 8000, "controller": 9096, **WORKER_PORTS,
}  # fmt: skip
"""The published page's infrastructure and workers, and the control plane."""

ONCE = {"migrate", "kafka-init", "producer"}
OURS = ("migrate", "kafka-init", "web", "controller", *WORKER_PORTS)
"""The containers that read the configuration."""

SECRET_NAMES = {
    "web": {"DRAKKAR_SITE__SECRET_KEY", "DRAKKAR_SITE__AUTH_TOKEN"},
    "migrate": {"DRAKKAR_SITE__ADMIN_PASSWORD"},
}
"""What is given to these containers and to no other."""

ONLY_COMPOSE = {
    "DRAKKAR_SITE__PUBLIC_URL": "the address bound in a container is not the one people open",
    "DRAKKAR_SITE__ALLOWED_HOSTS": "Prometheus asks for the host web",
    "DRAKKAR_SITE__EXPORT_DIR": "the image's own folder is not writable",
    "DRAKKAR_SITE__CONTROLLER_METRICS_HOST": "Prometheus asks from another container",
    "DRAKKAR_CLUSTERS__MAIN__METRICS__HOST": "Prometheus asks from another container",
    "DRAKKAR_CLUSTERS__FAST__METRICS__HOST": "Prometheus asks from another container",
    "DRAKKAR_CLUSTERS__MAIN__KAFKA__BROKERS": "known to the demo late: given to each program",
    "DRAKKAR_CLUSTERS__FAST__KAFKA__BROKERS": "known to the demo late: given to each program",
}
ONLY_DEMO = {
    "DRAKKAR_SITE__CONTROLLER_METRICS_PORT": "compose gives it to the controller alone",
    "DRAKKAR_CLUSTERS__MAIN__EXECUTOR__ENV__RUN_RG_BROKEN_FILE": "only the demo breaks its program",
}
"""Names that one of the twins lacks, and why."""


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
    environment = {**compose_environment(worker), "DRAKKAR_CONFIG": str(ROOT / "drakkar.yaml")}
    assert service["stop_grace_period"] == f"{worker_stop_seconds(environment, worker)}s"


def test_a_worker_of_the_demo_has_the_time_that_its_configuration_gives_it() -> None:
    variable = "DRAKKAR_CLUSTERS__FAST__DRAIN_TIMEOUT_SECONDS"
    asked = Options(messages=1, env=(("fast-worker-2", variable, "90.5"),))
    given = {
        **twins_environment(), "DRAKKAR_CONFIG": str(ROOT / "drakkar.yaml"), variable: "12",
    }  # fmt: skip
    seconds = stop_seconds(given, asked)
    programs = {one.name: one for one in own_programs(twins_addresses(), asked, ROOT, seconds)}
    found = {name: programs[name].stop_seconds for name in WORKER_PORTS}
    assert found == {
        "worker-1": 40, "worker-2": 40, "worker-3": 40, "fast-worker-1": 22, "fast-worker-2": 101,
    }  # fmt: skip


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_ours_loads_its_configuration(name: str) -> None:
    assert compose_state(name).problems == ()


def twins_addresses() -> Addresses:
    """Of ``make demo ARGS=--full`` when every port is the usual one."""
    browsers = {"topics": "kafka-ui", "mongo-browser": "mongo-express"}
    named = {"prometheus": "prometheus", "redis-browser": "redis-commander", **browsers}
    return Addresses(
        web_port=PORTS["web"],
        postgres_port=PORTS["postgres"],
        controller_port=PORTS["controller"],
        webhook_port=PORTS["webhook"],
        redis_port=PORTS["redis"],
        mongo_port=PORTS["mongo"],
        worker_ports=WORKER_PORTS,
        database_url="postgresql://drakkar@127.0.0.1:5432/drakkar",
        full_ports={name: PORTS[service] for name, service in named.items()},
    )


def twins_environment() -> dict[str, str]:
    """What the demo gives its programs there."""
    secrets = Secrets(secret_key="s" * 50, auth_token="t" * 24, admin_password="p" * 12)
    return shared_environment(twins_addresses(), secrets, 1.0, {}, ROOT / ".run")


def test_the_environment_is_that_of_the_demo_without_docker() -> None:
    demo = {name for name in twins_environment() if name.startswith("DRAKKAR_")}
    compose = set(COMPOSE["x-environment"]).union(*SECRET_NAMES.values())
    assert compose - demo == set(ONLY_COMPOSE)
    assert demo - compose == set(ONLY_DEMO)


def test_the_links_lead_where_those_of_the_demo_without_docker_lead() -> None:
    demo, compose = twins_environment(), COMPOSE["x-environment"]
    links = [name for name in compose if name.startswith("DRAKKAR_SITE__LINKS__")]
    assert len(links) == 4
    assert [compose[name] for name in links] == [demo[name] for name in links]


def test_the_ports_of_pages_lead_where_they_say() -> None:
    addresses = replace(twins_addresses(), page_ports=PAGE_PORTS, brokers="127.0.0.1:9092")
    stops = dict.fromkeys(WORKER_PORTS, 1)
    programs = own_programs(addresses, Options(messages=1), ROOT / ".run", stops)
    (argv,) = (program.argv for program in programs if program.name == "browsers")
    given = browsers.parser().parse_args(argv[argv.index("integration.demo.browsers") + 1 :])
    assert dict(given.lead) == {
        PORTS["kafka-ui"]: "http://127.0.0.1:8000/topics",
        **{
            PAGE_PORTS[
                name
            ]: f"http://127.0.0.1:8000/?cluster={cluster_of(name).name}&worker={name}"
            for name in WORKER_PORTS
        },
    }
    assert set(map(str, PAGE_PORTS.values())) < set(
        str(addresses.shown_full_ports["browsers"]).split(",")
    )


def test_prometheus_of_compose_scrapes_every_process_and_may() -> None:
    text = (INTEGRATION / "observability" / "prometheus-compose.yml").read_text()
    targets = {
        job["job_name"]: [t for static in job["static_configs"] for t in static["targets"]]
        for job in yaml.safe_load(text)["scrape_configs"]
    }
    assert targets == {
        "drakkar-worker": [f"{name}:{port}" for name, port in WORKER_PORTS.items()],
        "drakkar-controller": [f"controller:{PORTS['controller']}"],
        "drakkar-web": [f"web:{PORTS['web']}"],
    }
    site = compose_state("web").site
    assert "web" in site.allowed_hosts
    networks = [ip_network(network) for network in site.metrics_allow]
    assert any(ip_address("172.18.0.9") in network for network in networks)


def test_the_topics_that_compose_makes_are_those_of_the_demo() -> None:
    (script,) = SERVICES["kafka-init"]["command"]
    made = set(re.findall(r"--cluster (\w+)", script))
    assert made == {cluster.name for cluster in CLUSTERS}
    config = compose_state("kafka-init").config
    assert config is not None
    topics = {one.topic for own in config.clusters.values() for one in named_topics(own)}
    assert topics == set(TOPICS)


SCALE_KEYS = {
    "scaleTargetRef", "minReplicaCount", "maxReplicaCount", "cooldownPeriod", "triggers",
}  # fmt: skip
"""KEDA's own schema is not at hand: the keys of ``spec`` that the manifest uses."""


@pytest.mark.parametrize(("name", "document"), manifests(), ids=[name for name, _ in manifests()])
def test_a_manifest_is_valid(name: str, document: dict[str, Any]) -> None:
    if document["apiVersion"].startswith("keda.sh/"):
        assert set(document) == {"apiVersion", "kind", "metadata", "spec"}
        assert set(document["spec"]) == SCALE_KEYS
        return
    kubernetes_validate.validate(document, "1.37", strict=True)


PODS = sorted(pods())
SECRETS_OF = {
    "migrate.yaml:Job/drakkar-migrate": {"drakkar-database", "drakkar-migrate"},
    "web.yaml:Deployment/drakkar-controller": {"drakkar-database"},
    "web.yaml:Deployment/drakkar-web": {"drakkar-database", "drakkar-web"},
    "workers.yaml:StatefulSet/drakkar-worker-main": {"drakkar-database", "drakkar-worker-main"},
}  # fmt: skip
"""Which Secret a pod gets: each of them has its reason in ``config.yaml``."""


@pytest.mark.parametrize("name", PODS)
def test_a_pod_is_locked_down(name: str) -> None:
    pod = pods()[name]
    assert pod["automountServiceAccountToken"] is False
    # A Service named drakkar-site would give each pod a DRAKKAR_SITE_PORT, which is refused.
    assert pod["enableServiceLinks"] is False
    given = pod["securityContext"]
    assert given["runAsNonRoot"] is True
    assert given["runAsUser"] > 0
    assert given["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in pod["containers"]:
        assert container["securityContext"] == {
            "allowPrivilegeEscalation": False,
            "readOnlyRootFilesystem": True,
            "capabilities": {"drop": ["ALL"]},
        }


@pytest.mark.parametrize("name", PODS)
def test_a_pod_can_write_where_its_process_writes(name: str, tmp_path: Path) -> None:
    """The root file system is read-only: each folder is one that something is mounted at."""
    pod = pods()[name]
    (container,) = pod["containers"]
    volumes = {each["name"] for each in pod["volumes"]}
    document = dict(manifests())[name]
    volumes |= {
        each["metadata"]["name"] for each in document["spec"].get("volumeClaimTemplates", ())
    }
    mounts = container["volumeMounts"]
    assert {each["name"] for each in mounts} <= volumes
    writable = [PurePosixPath(one["mountPath"]) for one in mounts if not one.get("readOnly")]
    state = kubernetes_state(tmp_path, name)
    assert state.config is not None
    wanted = [PurePosixPath("/tmp")]
    if "worker" in name:
        wanted.append(PurePosixPath(state.config.clusters["main"].recorder.spool_dir))
    if "web.yaml" in name:
        wanted.append(PurePosixPath(state.site.export_dir))
    if "controller" in name:
        wanted.append("/app" / PurePosixPath(RecorderConfig().spool_dir))
    for folder in wanted:
        assert any(folder.is_relative_to(mount) for mount in writable), folder


@pytest.mark.parametrize("name", PODS)
def test_a_pod_of_kubernetes_loads_its_configuration(name: str, tmp_path: Path) -> None:
    assert kubernetes_state(tmp_path, name).problems == ()


def test_a_pod_gets_its_own_secrets_only() -> None:
    given = {
        name: {
            each["secretRef"]["name"]
            for container in pod["containers"]
            for each in container["envFrom"]
        }
        for name, pod in pods().items()
    }
    assert given == SECRETS_OF
    named = [secret for secrets in given.values() for secret in secrets]
    made = {name for name, _ in manifests() if ":Secret/" in name}
    assert made == {f"config.yaml:Secret/{secret}" for secret in named}
    signing = manifest("config.yaml:Secret/drakkar-web")["stringData"]["SECRET_KEY"]
    for name in PODS:
        holds = signing in pod_environment(name).values()
        assert holds == (name == "web.yaml:Deployment/drakkar-web"), name


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_compose_is_locked_down(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["tmpfs"] == ["/tmp"]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


@pytest.mark.parametrize("name", OURS)
def test_a_container_of_compose_gets_its_own_secrets_only(name: str) -> None:
    all_of_them: set[str] = set().union(*SECRET_NAMES.values())
    assert all_of_them & set(compose_environment(name)) == SECRET_NAMES.get(name, set())


def test_workers_of_kubernetes_have_time_to_drain(tmp_path: Path) -> None:
    workers = manifest("workers.yaml:StatefulSet/drakkar-worker-main")
    spec = workers["spec"]["template"]["spec"]
    config = kubernetes_state(tmp_path).config
    assert config is not None
    budget = config.clusters["main"].drain_timeout_seconds
    assert spec["terminationGracePeriodSeconds"] == budget + STOP_MARGIN_SECONDS


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


def test_the_workers_of_kubernetes_are_scaled_by_the_lag_of_their_own_group(
    tmp_path: Path,
) -> None:
    config = kubernetes_state(tmp_path).config
    assert config is not None
    kafka = config.clusters["main"].kafka
    scale = manifest("scaling.yaml:ScaledObject/drakkar-worker-main")["spec"]
    assert scale["scaleTargetRef"] == {"kind": "StatefulSet", "name": "drakkar-worker-main"}
    assert scale["maxReplicaCount"] == PARTITIONS
    (trigger,) = scale["triggers"]
    assert trigger == {
        "type": "kafka",
        "metadata": {
            "bootstrapServers": kafka.brokers,
            "consumerGroup": kafka.group,
            "topic": kafka.topic,
            "lagThreshold": "200",
            "allowIdleConsumers": "false",
        },
    }


def test_the_number_of_scaled_workers_is_left_to_what_scales_them() -> None:
    """What a manifest names is set back at each apply."""
    scaled = manifest("scaling.yaml:ScaledObject/drakkar-worker-main")["spec"]["scaleTargetRef"]
    workers = manifest(f"workers.yaml:{scaled['kind']}/{scaled['name']}")
    assert "replicas" not in workers["spec"]


def test_kafka_of_compose_votes_for_itself() -> None:
    """Without voters the storage has to be formatted as ``--standalone``, which images may not."""
    given = SERVICES["kafka"]["environment"]
    listeners = dict(one.split("://") for one in given["KAFKA_LISTENERS"].split(","))
    port = listeners[given["KAFKA_CONTROLLER_LISTENER_NAMES"]].rpartition(":")[2]
    assert given["KAFKA_CONTROLLER_QUORUM_VOTERS"] == f"{given['KAFKA_NODE_ID']}@kafka:{port}"
    assert "KAFKA_CONTROLLER_QUORUM_BOOTSTRAP_SERVERS" not in given


def test_the_mongo_browser_of_compose_asks_for_its_login() -> None:
    given = SERVICES["mongo-express"]["environment"]
    assert (given["ME_CONFIG_BASICAUTH"], given["ME_CONFIG_OPTIONS_READONLY"]) == ("true", "true")
    assert given["ME_CONFIG_BASICAUTH_USERNAME"]
    assert given["ME_CONFIG_BASICAUTH_PASSWORD"]


def test_postgres_of_compose_is_asked_over_tcp() -> None:
    """The server that initialises the image's database listens on its Unix socket only."""
    assert SERVICES["postgres"]["healthcheck"]["test"][:4] == [
        "CMD",
        "pg_isready",
        "-h",
        "127.0.0.1",
    ]
