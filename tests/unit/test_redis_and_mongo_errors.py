"""Errors of the redis and mongo sinks by code: those no server of a test can be brought to."""

from __future__ import annotations

import pytest
from pydantic import ValidationError
from pymongo.errors import OperationFailure, ServerSelectionTimeoutError
from redis._parsers.base import BaseParser
from redis.exceptions import ConnectionError as RedisConnectionError
from redis.exceptions import TimeoutError as RedisTimeoutError

from sinks.backends import mongo, redis
from sinks.base import (
    ConfigError,
    PermanentError,
    SinkError,
    TransientError,
    UnknownError,
    raise_failures,
)

ANSWERS: dict[str, type[SinkError]] = {
    "WRONGTYPE Operation against a key holding the wrong kind of value": PermanentError,
    "ERR value is not an integer or out of range": PermanentError,
    "ERR increment or decrement would overflow": PermanentError,
    "ERR unknown command 'HEXPIRE', with args beginning with: ": ConfigError,
    "ERR DB index is out of range": ConfigError,
    "ERR invalid password": ConfigError,
    "ERR max number of clients reached": TransientError,
    "NOAUTH Authentication required.": ConfigError,
    "WRONGPASS invalid username-password pair or user is disabled.": ConfigError,
    "NOPERM User u has no permissions to run the 'set' command": ConfigError,
    "MOVED 3999 127.0.0.1:6381": ConfigError,
    "ASK 3999 127.0.0.1:6381": ConfigError,
    "CROSSSLOT Keys in request don't hash to the same slot": ConfigError,
    "LOADING Redis is loading the dataset in memory": TransientError,
    "READONLY You can't write against a read only replica.": TransientError,
    "OOM command not allowed when used memory > 'maxmemory'.": TransientError,
    "BUSY Redis is busy running a script.": TransientError,
    "MISCONF Redis is configured to save RDB snapshots": TransientError,
    "CLUSTERDOWN The cluster is down": TransientError,
    "TRYAGAIN Multiple keys request during rehashing of slot": TransientError,
    "NOSUCHCODE of a server to come": UnknownError,
}


@pytest.mark.parametrize(("answer", "expected"), ANSWERS.items())
def test_a_redis_answer_by_its_code(answer: str, expected: type[SinkError]) -> None:
    parsed = BaseParser.parse_error(answer)  # type: ignore[no-untyped-call]
    error = redis.translate(parsed, "set 'k'")
    assert type(error) is expected
    assert str(error).startswith("set 'k': ")


@pytest.mark.parametrize("error", [RedisConnectionError("gone"), RedisTimeoutError("late")])
def test_no_redis_answer_is_transient(error: RedisConnectionError | RedisTimeoutError) -> None:
    assert type(redis.translate(error)) is TransientError


@pytest.mark.parametrize(
    "url", ["http://h", "redis://h:port", "redis://h/0?no_such_option=1", "redis://h/0?db=x"]
)
def test_a_redis_url_that_cannot_be_used_is_told(url: str) -> None:
    with pytest.raises(ValidationError, match="url"):
        redis.RedisSinkConfig(kind="redis", url=url)


@pytest.mark.parametrize("code", sorted(mongo.PERMANENT))
def test_a_mongo_code_of_the_data(code: int) -> None:
    assert type(mongo.classify(code, "why")) is PermanentError
    assert type(mongo.translate(OperationFailure("why", code))) is UnknownError


@pytest.mark.parametrize("code", sorted(mongo.CONFIG))
def test_a_mongo_code_of_the_configuration(code: int) -> None:
    assert type(mongo.classify(code, "why")) is ConfigError
    assert type(mongo.translate(OperationFailure("why", code))) is ConfigError


@pytest.mark.parametrize("code", [None, 1, 8, 99999])
def test_a_mongo_code_in_no_table_is_unknown(code: int | None) -> None:
    assert type(mongo.classify(code, "why")) is UnknownError
    assert type(mongo.translate(OperationFailure("why", code))) is UnknownError


@pytest.mark.parametrize("code", [50, 89, 91, 112, 189, 10107, 11600, 13435])
def test_a_mongo_code_of_the_server_is_transient(code: int) -> None:
    assert type(mongo.classify(code, "why")) is TransientError
    assert type(mongo.translate(OperationFailure("why", code))) is TransientError


def test_no_mongo_server_is_transient() -> None:
    assert type(mongo.translate(ServerSelectionTimeoutError("none"))) is TransientError


@pytest.mark.parametrize("key", ["uri", "database", "collection"])
def test_a_mongo_key_that_cannot_be_used_is_told(key: str) -> None:
    section = {"kind": "mongo", "uri": "mongodb://h/", "database": "d", "collection": "c"}
    with pytest.raises(ValidationError, match=key):
        mongo.MongoSinkConfig.model_validate(section | {key: "$x"})


def test_what_waits_goes_before_what_is_refused() -> None:
    refused, late, denied = PermanentError("bad"), TransientError("late"), ConfigError("denied")
    with pytest.raises(PermanentError, match="bad") as permanent:
        raise_failures({2: refused}, [0, 1])
    assert permanent.value.bad_indices == (2,)
    with pytest.raises(TransientError, match="late") as transient:
        raise_failures({1: late, 2: refused}, [0])
    assert transient.value.stored_indices == (0,)
    with pytest.raises(ConfigError, match="denied") as config:
        raise_failures({0: denied, 1: late, 2: refused}, [])
    assert config.value.stored_indices == ()
    raise_failures({}, [0])


def test_many_errors_are_named_in_part() -> None:
    errors = {index: PermanentError(f"e{index}") for index in range(5)}
    with pytest.raises(PermanentError, match=r"^e0; e1; e2; and 2 more$"):
        raise_failures(errors, [])
