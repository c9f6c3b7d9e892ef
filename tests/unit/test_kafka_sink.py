"""What the kafka sink decides before it talks to a broker."""

from __future__ import annotations

import pytest

from domain.payload import KafkaPayload
from sinks.backends.kafka import KafkaSink, KafkaSinkConfig
from sinks.base import Delivery, PermanentError
from sinks.registry import SinkContext


@pytest.mark.parametrize("value", [object(), "\ud800", {"k": {1, 2}}])
def test_a_value_that_cannot_be_encoded_is_a_data_error(value: object) -> None:
    config = KafkaSinkConfig(kind="kafka", topic="t")
    context = SinkContext(cluster="c", name="s", source_brokers="127.0.0.1:1", source_client={})
    delivery = Delivery(
        payload=KafkaPayload(sink="s", value=value),
        delivery_id="d",
        topic="t",
        partition=0,
        offset=0,
    )
    with pytest.raises(PermanentError, match="not encodable"):
        KafkaSink(config, context).deliver([delivery])
