"""What the kafka sink decides before it talks to a broker."""

from __future__ import annotations

import pytest
from confluent_kafka import KafkaError

from domain.payload import KafkaPayload
from sinks.backends.kafka import CONFIG, PERMANENT, KafkaSink, KafkaSinkConfig, translate
from sinks.base import ConfigError, Delivery, PermanentError, TransientError
from sinks.registry import SinkContext
from tests.support.lanes import deliver


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
    with pytest.raises(PermanentError, match=r"^value"):
        deliver(KafkaSink(config, context), [delivery])


@pytest.mark.parametrize("name", ["a\0b", "\ud800"])
def test_a_headers_name_is_sent_whole_or_refused(name: str) -> None:
    context = SinkContext(cluster="c", name="s", source_brokers="127.0.0.1:1", source_client={})
    payload = KafkaPayload(sink="s", headers={name: b"v"})
    delivery = Delivery(payload=payload, delivery_id="d", topic="t", partition=0, offset=0)
    with pytest.raises(PermanentError, match=r"^headers"):
        deliver(KafkaSink(KafkaSinkConfig(kind="kafka", topic="t"), context), [delivery])


@pytest.mark.parametrize("code", sorted(PERMANENT))
def test_what_the_data_is_to_blame_for(code: int) -> None:
    error = translate(KafkaError(code), "t")
    assert type(error) is PermanentError
    assert "topic t" in str(error)


@pytest.mark.parametrize("code", sorted(CONFIG))
def test_what_the_operator_has_to_mend(code: int) -> None:
    assert type(translate(KafkaError(code), "t")) is ConfigError


@pytest.mark.parametrize(
    "code", [KafkaError._FATAL, KafkaError._TRANSPORT, KafkaError._PURGE_QUEUE]
)
def test_all_else_is_waited_for(code: int) -> None:
    assert type(translate(KafkaError(code), "t")) is TransientError


def test_a_fatal_error_is_the_clients_even_when_its_code_blames_the_data() -> None:
    fatal = KafkaError(KafkaError.INVALID_RECORD, "broken", True)
    assert fatal.fatal()
    assert type(translate(fatal, "t")) is TransientError
