"""The example of docs/production.md is a configuration, and one that the real client takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import certifi
import confluent_kafka as ck
import pytest
import yaml

from drakkar_site.config.report import effective
from drakkar_site.config.sources import State, load
from sinks.registry import find
from workers.broker.base import GroupConfig
from workers.broker.kafka import client_config
from workers.broker.named_topics import named_topics
from workers.config import ClusterConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "production.md"
SITE = {"database_url": "postgresql://u@127.0.0.1/d", "secret_key": "s" * 50}
PEM = "unseen-pem"


@pytest.fixture(scope="module")
def state(tmp_path_factory: pytest.TempPathFactory) -> State:
    """The page's example, with secrets where it names them."""
    folder = tmp_path_factory.mktemp("secrets")
    (block,) = re.findall(r"```yaml\n(clusters:.*?)```", PAGE.read_text(), re.DOTALL)
    for name in set(re.findall(r"\$\{file:([^}]+)\}", block)):
        kept = folder / Path(name).name
        kept.write_text(PEM)
        block = block.replace(name, str(kept))
    path = folder / "drakkar.yaml"
    path.write_text(yaml.safe_dump({"site": SITE, **yaml.safe_load(block)}))
    return load({"DRAKKAR_CONFIG": str(path), "KAFKA_PASSWORD": "unseen-password"})


@pytest.fixture
def main(state: State) -> ClusterConfig:
    assert state.problems == ()
    assert state.config is not None
    return state.config.clusters["main"]


@pytest.mark.parametrize("protocol", ["classic", "consumer"])
def test_the_client_takes_it(main: ClusterConfig, protocol: str) -> None:
    given = client_config(GroupConfig.from_config(main.kafka), protocol)
    assert given["sasl.password"] == "unseen-password"
    # Not the machine's certificates, which may lie elsewhere, and no name to look up.
    here = given | {"ssl.ca.location": certifi.where(), "bootstrap.servers": "127.0.0.1:1"}
    ck.Consumer(here).close()
    assigned = client_config(GroupConfig.from_config(main.kafka, "retries"), protocol)
    assert (assigned.get("group.remote.assignor") == "range") is (protocol == "consumer")
    ck.Consumer(
        {**here, **assigned, "bootstrap.servers": "127.0.0.1:1"}
        | {"ssl.ca.location": certifi.where()}
    ).close()
    with pytest.raises(ck.KafkaException, match="Unsupported SASL mechanism"):
        ck.Consumer(here | {"sasl.mechanisms": "NONE-SUCH"})


def test_the_source_s_keys_go_to_no_other_brokers(main: ClusterConfig) -> None:
    places: dict[str, Any] = {each.topic: each for each in named_topics(main)}
    own = {"search-requests", "search-requests_dlq", "search-results"}
    assert {name for name, at in places.items() if "sasl.password" in at.client} == own
    assert places["copies"].client["ssl.key.pem"] == PEM
    assert find("kafka").config is type(main.sinks["elsewhere"])


def test_its_secrets_are_masked(state: State, main: ClusterConfig) -> None:
    assert state.config is not None
    shown = {each.key: each.value for each in effective(state.config, state.origins, state.secrets)}
    prefix = "clusters.main.kafka.client"
    assert shown[f"{prefix}.sasl.password"] == "***"
    assert shown[f"{prefix}.sasl.username"] == "drakkar"
    assert PEM not in str(shown)
