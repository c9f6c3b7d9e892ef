"""Sink kind ``redis``: one pipeline a batch, on one connection a lane thread.

``set delete expire hset hdel sadd srem zadd`` leave the same state when delivered again. ``push``,
``trim`` and ``incr`` would not: they run inside a script that keeps a marker by the delivery id
(``sinks.redis_once``).
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, ClassVar

from pydantic import Field, field_validator
from redis import Redis
from redis.backoff import NoBackoff
from redis.connection import ConnectionPool, parse_url
from redis.exceptions import DataError, RedisError, ResponseError
from redis.retry import Retry

from domain.payload import RedisPayload
from sinks.base import (
    ConfigError,
    Delivery,
    PermanentError,
    SinkError,
    TransientError,
    UnknownError,
    raise_failures,
    refusal,
)
from sinks.config import SinkConfig
from sinks.json_form import encode_json
from sinks.redis_once import ONCE, TOGETHER, check_count, check_sizes, scope_of
from sinks.registry import SinkContext, SinkKind

# The first word of a server's error ('' is no answer at all); what stands in no table is unknown.
PERMANENT = frozenset({"ERR", "WRONGTYPE"})
CONFIG = frozenset({"NOAUTH", "WRONGPASS", "NOPERM", "NOPROTO", "MOVED", "ASK", "CROSSSLOT"})
TRANSIENT = frozenset(
    {
        "",
        "BUSY",
        "CLUSTERDOWN",
        "EXECABORT",
        "FAILOVER",
        "INPROG",
        "IOERR",
        "LOADING",
        "MASTERDOWN",
        "MISCONF",
        "NOGOODSLAVE",
        "NOREPLICAS",
        "NOSCRIPT",
        "OOM",
        "READONLY",
        "TRYAGAIN",
        "UNBLOCKED",
        "UNKILLABLE",
    }
)
# Of ERR, by the text that follows: what is no fault of the payload's data.
CONFIG_TEXTS = ("unknown command", "DB index", "invalid password", "AUTH", "SELECT is not allowed")
TRANSIENT_TEXTS = ("max number of clients",)

CODE = re.compile(r"[A-Z]{2,}\b")
MARKER_PREFIX = "drakkar:delivered:"
MAX_TTL_SECONDS = 10 * 365 * 86_400
SHOWN_KEY_CHARS = 100

Argument = bytes | str | int
Command = tuple[Argument, ...]


@dataclass(frozen=True, slots=True)
class Planned:
    """Command of one payload, and what to call it."""

    name: str
    command: Command


class RedisSinkConfig(SinkConfig):
    """Keys of a redis sink. ``dedup_ttl_seconds`` is how long a repetition is recognised."""

    url: str = Field(min_length=1, pattern=r"^(rediss?|unix)://")
    key_prefix: str = Field("", max_length=500)
    dedup_ttl_seconds: int = Field(86_400, ge=1, le=MAX_TTL_SECONDS)

    @field_validator("url")
    @classmethod
    def _can_be_used(cls, url: str) -> str:
        try:
            ConnectionPool.from_url(url).make_connection()  # connects nowhere
        except (TypeError, ValueError, RedisError) as exc:
            raise ValueError(f"expected redis://host:port/db with known options: {exc}") from None
        return url


def code_of(error: RedisError) -> str:
    """Return the first word of the server's answer; '' where the server did not answer."""
    if code := getattr(error, "status_code", None):
        return str(code)
    found = CODE.match(str(error)) if isinstance(error, ResponseError) else None
    return found.group() if found else "ERR" if isinstance(error, ResponseError) else ""


def translate(error: RedisError, command: str = "") -> SinkError:
    """Return the driver's error in our words, by the code of the server's answer."""
    code, text = code_of(error), str(error)
    detail = text if not code or text.startswith(code) else f"{code} {text}"
    detail = f"{command}: {detail}" if command else detail
    if code == "ERR" and any(known in text for known in TRANSIENT_TEXTS):
        return TransientError(detail)
    if code in CONFIG or (code == "ERR" and any(known in text for known in CONFIG_TEXTS)):
        return ConfigError(f"{detail}; check the sink's url, the user's rights and the server")
    if code in PERMANENT:
        return PermanentError(detail)
    is_known = code in TRANSIENT and not isinstance(error, DataError)
    return TransientError(detail) if is_known else UnknownError(detail)


class RedisSink:
    """Sink that writes payloads to Redis (module's docstring)."""

    kind: ClassVar[str] = "redis"

    def __init__(self, config: RedisSinkConfig, context: SinkContext) -> None:
        self._config = config
        self._name = context.name
        self._client: Redis | None = None

    def open(self) -> None:
        """Connect and ask for an answer. Raises TransientError or ConfigError."""
        try:
            self._connected().ping()
        except RedisError as exc:
            self.close()
            raise _as_infrastructure(translate(exc, "PING")) from exc

    def encode(self, delivery: Delivery) -> Planned:
        """Return what one payload becomes. Raises PermanentError for a value the op cannot take."""
        name = _named(delivery)
        try:
            return Planned(name, self._command(delivery))
        except Exception as exc:  # whatever a handler's own objects raise
            raise PermanentError(f"{name}: {exc}") from exc

    def send(self, batch: Sequence[Planned]) -> None:
        """Store the batch in one pipeline; see ``Sink.send``."""
        failures: dict[int, SinkError] = {}
        for index, answer in enumerate(self._answers([one.command for one in batch])):
            if isinstance(answer, RedisError):
                failures[index] = translate(answer, batch[index].name)
        if not all(isinstance(error, PermanentError) for error in failures.values()):
            self.close()  # a primary that became a replica keeps its connections: look anew
        raise_failures(failures, [i for i in range(len(batch)) if i not in failures])

    def close(self) -> None:
        """Close the connection."""
        if self._client is not None:
            self._client.connection_pool.disconnect()
            self._client = None

    def _connected(self) -> Redis:
        if self._client is None:
            options: dict[str, Any] = parse_url(self._config.url)  # type: ignore[no-untyped-call]
            options |= {
                "socket_timeout": self._config.timeout_seconds,
                "socket_connect_timeout": self._config.timeout_seconds,
                "retry": Retry(NoBackoff(), 0),
                "max_connections": 1,
                "client_name": "drakkar-sink",
                "decode_responses": False,
            }
            self._client = Redis(connection_pool=ConnectionPool(**options))
        return self._client

    def _answers(self, commands: Sequence[Command]) -> list[Any]:
        """Return the server's answer to each command, errors as values. Raises what no payload
        caused."""
        try:
            client = self._connected()
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)  # type: ignore[no-untyped-call]
            return pipeline.execute(raise_on_error=False)
        except RedisError as exc:
            self.close()
            raise _as_infrastructure(translate(exc, f"a pipeline of {len(commands)}")) from exc

    def _command(self, delivery: Delivery) -> Command:
        payload = _payload(delivery)
        if payload.op not in ENCODERS:
            raise ValueError(f"op: expected one of {', '.join(ENCODERS)}, got {payload.op!r:.100}")
        name, arguments = ENCODERS[payload.op](payload)
        try:
            key = (self._config.key_prefix + payload.key).encode()
        except (TypeError, UnicodeError) as exc:
            raise refusal("key", exc) from exc
        check_sizes(arguments)
        ttl = _ttl_seconds(payload)
        if payload.op in ONCE_OPS:
            marker = f"{self._config.key_prefix}{MARKER_PREFIX}{delivery.delivery_id}".encode()
            held = (self._config.dedup_ttl_seconds, scope_of(self._name, payload.op, key))
            return "EVAL", ONCE, 2, key, marker, *held, ttl or 0, name, *arguments
        if payload.op in EXPIRING_OPS and ttl is not None:
            return "EVAL", TOGETHER, 1, key, ttl, name, *arguments
        return name, key, *arguments


def _as_infrastructure(error: SinkError) -> SinkError:
    """An error of the connection is never one of the data."""
    return ConfigError(str(error)) if isinstance(error, PermanentError) else error


def _payload(delivery: Delivery) -> RedisPayload:
    assert isinstance(delivery.payload, RedisPayload)
    return delivery.payload


def _named(delivery: Delivery) -> str:
    payload = _payload(delivery)
    return _shown(payload.op, payload.key)


def _shown(name: object, key: object) -> str:
    return f"{name} {str(key)[:SHOWN_KEY_CHARS]!r}"


def _ttl_seconds(payload: RedisPayload) -> int | None:
    ttl: Any = payload.ttl_seconds
    if ttl is None:
        return None
    if isinstance(ttl, bool) or not isinstance(ttl, int) or not 1 <= ttl <= MAX_TTL_SECONDS:
        raise ValueError(f"ttl_seconds: expected 1 to {MAX_TTL_SECONDS}, got {ttl!r:.100}")
    return ttl


def _bytes(value: Any, field: str = "value") -> bytes:
    """Bytes and text as they are; anything else as JSON."""
    if isinstance(value, bytes):
        return value
    if value is None:
        raise ValueError(f"{field}: expected one, got None")
    if not isinstance(value, str):
        return encode_json(value, field)
    try:
        return value.encode()
    except UnicodeEncodeError as exc:
        raise refusal(field, exc) from exc


def _whole(name: str, value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name}: expected a whole number, got {value!r:.100}")
    if not -(2**63) <= value < 2**63:
        raise ValueError(f"{name}: expected at most 64 bits, got {value.bit_length()}")
    return int(value)


def _several(value: Any) -> list[bytes]:
    """A list's items, or the one value."""
    items = list(value) if isinstance(value, (list, tuple, set, frozenset)) else [value]
    if not items:
        raise ValueError("value: expected at least one item, got none")
    check_count(len(items))
    return [_bytes(item, f"value[{index}]") for index, item in enumerate(items)]


def _mapping(value: Any) -> Mapping[Any, Any]:
    if not isinstance(value, Mapping) or not value:
        raise TypeError(f"value: expected a mapping with at least one item, got {value!r:.100}")
    check_count(2 * len(value))
    return value


Encoded = tuple[str, list[Argument]]


def _set(payload: RedisPayload) -> Encoded:
    ttl = _ttl_seconds(payload)
    value = _bytes(payload.value)
    return "SET", [value] if ttl is None else [value, "EX", ttl]


def _delete(payload: RedisPayload) -> Encoded:
    return "DEL", []


def _expire(payload: RedisPayload) -> Encoded:
    ttl = _ttl_seconds(payload)
    if ttl is None:
        raise ValueError("ttl_seconds: expected a number, got None")
    return "EXPIRE", [ttl]


def _hset(payload: RedisPayload) -> Encoded:
    arguments: list[Argument] = []
    for name, value in _mapping(payload.value).items():
        arguments += [_bytes(name, "value (a field's name)"), _bytes(value, f"value.{name}")]
    return "HSET", arguments


def _zadd(payload: RedisPayload) -> Encoded:
    arguments: list[Argument] = []
    for member, score in _mapping(payload.value).items():
        arguments += [_score(member, score), _bytes(member, "value (a member)")]
    return "ZADD", arguments


def _score(member: Any, score: Any) -> str:
    if isinstance(score, bool) or not isinstance(score, (int, float, Decimal)):
        raise TypeError(f"value.{member}: expected a number as score, got {score!r:.100}")
    try:
        number = float(score)
    except OverflowError:
        raise ValueError(f"value.{member}: expected a score within a float's range") from None
    if math.isnan(number):
        raise ValueError(f"value.{member}: expected a score, got NaN")
    return repr(number)


def _trim(payload: RedisPayload) -> Encoded:
    """A number keeps so many of the newest; a pair is what LTRIM takes."""
    if isinstance(payload.value, (list, tuple)):
        first, last = payload.value
        return "LTRIM", [_whole("value", first), _whole("value", last)]
    kept = _whole("value", payload.value)
    if kept < 1:
        raise ValueError(f"value: expected 1 or more to keep, got {kept}")
    return "LTRIM", [-kept, -1]


def _incr(payload: RedisPayload) -> Encoded:
    step = 1 if payload.value is None else payload.value
    if not isinstance(step, float):
        return "INCRBY", [_whole("value", step)]
    if not math.isfinite(step):
        raise ValueError(f"value: expected a finite number, got {step}")
    return "INCRBYFLOAT", [repr(float(step))]


def _items(name: str) -> Callable[[RedisPayload], Encoded]:
    def encode(payload: RedisPayload) -> Encoded:
        return name, list(_several(payload.value))

    return encode


ENCODERS: Mapping[str, Callable[[RedisPayload], Encoded]] = {
    "set": _set,
    "delete": _delete,
    "expire": _expire,
    "hset": _hset,
    "hdel": _items("HDEL"),
    "sadd": _items("SADD"),
    "srem": _items("SREM"),
    "zadd": _zadd,
    "push": _items("RPUSH"),
    "trim": _trim,
    "incr": _incr,
}
EXPIRING_OPS = frozenset({"hset", "sadd", "zadd"})
ONCE_OPS = frozenset({"push", "trim", "incr"})

KIND = SinkKind(name="redis", config=RedisSinkConfig, payload=RedisPayload, build=RedisSink)
