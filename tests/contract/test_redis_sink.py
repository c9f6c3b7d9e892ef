"""What each op of the redis sink leaves on a real server, delivered once and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import pytest
from redis import Redis
from redis.exceptions import ResponseError

from domain.payload import RedisPayload
from integration.services.redis import RunningRedis
from sinks.backends.redis import RedisSink, RedisSinkConfig
from sinks.base import Delivery, PermanentError, TransientError
from sinks.redis_once import ONCE
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, delivery, new_ids
from tests.support.lanes import deliver


@dataclass(frozen=True)
class Place:
    """A sink with a prefix of its own, and the driver to look with."""

    sink: RedisSink
    client: Redis
    prefix: str

    def deliver(self, *payloads: RedisPayload) -> list[Delivery]:
        ids = new_ids(len(payloads))
        batch = [delivery(*pair) for pair in zip(payloads, ids, strict=True)]
        deliver(self.sink, batch)
        return batch


@pytest.fixture
def place(redis_server: RunningRedis) -> Iterator[Place]:
    prefix = f"{uuid4().hex}:"
    config = RedisSinkConfig(
        kind="redis", url=redis_server.url, key_prefix=prefix, dedup_ttl_seconds=60
    )
    context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
    sink = RedisSink(config, context)
    with Redis.from_url(redis_server.url, decode_responses=True) as client:
        yield Place(sink, client, prefix)
    sink.close()


def payload(op: Any, value: Any = None, ttl_seconds: int | None = None) -> RedisPayload:
    return RedisPayload(sink=SINK, key="k", value=value, op=op, ttl_seconds=ttl_seconds)


Look = Callable[[Any, str], Any]


def text(client: Any, key: str) -> Any:
    return client.get(key)


def items(client: Any, key: str) -> Any:
    return client.lrange(key, 0, -1)


def fields(client: Any, key: str) -> Any:
    return client.hgetall(key)


def members(client: Any, key: str) -> Any:
    return client.smembers(key)


def scores(client: Any, key: str) -> Any:
    return {member: client.zscore(key, member) for member in client.zrange(key, 0, -1)}


CASES: dict[str, tuple[list[RedisPayload], Look, Any]] = {
    "set text": ([payload("set", "é")], text, "é"),
    "set bytes": ([payload("set", b"b")], text, "b"),
    "set JSON": ([payload("set", {"a": [1]})], text, '{"a":[1]}'),
    "set true": ([payload("set", True)], text, "true"),
    "delete": ([payload("set", 1), payload("delete")], text, None),
    "hset, hdel": (
        [payload("hset", {"a": 1, "b": 2}), payload("hdel", ["b", "c"])],
        fields,
        {"a": "1"},
    ),
    "sadd, srem": (
        [payload("sadd", ["a", "b"]), payload("srem", "b")],
        members,
        {"a"},
    ),
    "zadd": (
        [payload("zadd", {"a": 1.5, "b": 2})],
        scores,
        {"a": 1.5, "b": 2.0},
    ),
    "push": ([payload("push", [1, "b"]), payload("push", {"c": 1})], items, ["1", "b", '{"c":1}']),
    "trim to the newest": ([payload("push", list("abc")), payload("trim", 2)], items, ["b", "c"]),
    "trim by a pair": ([payload("push", list("abc")), payload("trim", (0, 0))], items, ["a"]),
    "incr": ([payload("incr"), payload("incr", 4)], text, "5"),
    "incr by a part": ([payload("incr", 0.5), payload("incr", 1.0)], text, "1.5"),
}


@pytest.mark.parametrize(("payloads", "look", "expected"), CASES.values(), ids=CASES.keys())
def test_an_op_delivered_twice(
    place: Place, payloads: list[RedisPayload], look: Look, expected: Any
) -> None:
    batch = place.deliver(*payloads)
    assert look(place.client, place.prefix + "k") == expected
    deliver(place.sink, batch)
    assert look(place.client, place.prefix + "k") == expected


@pytest.mark.parametrize(
    ("op", "value"),
    [("set", 1), ("hset", {"a": 1}), ("sadd", 1), ("zadd", {"a": 1}), ("push", 1), ("incr", 1)],
)
def test_a_time_to_live_goes_with_it(place: Place, op: str, value: Any) -> None:
    place.deliver(payload(op, value, ttl_seconds=100))
    assert 0 < _ttl(place, "k") <= 100


def test_expire_and_set_change_the_time_to_live(place: Place) -> None:
    place.deliver(payload("set", 1), payload("expire", ttl_seconds=50))
    assert 0 < _ttl(place, "k") <= 50
    place.deliver(payload("set", 1))
    assert _ttl(place, "k") == -1


def _ttl(place: Place, key: str) -> int:
    found: Any = place.client.ttl(place.prefix + key)
    return int(found)


def test_a_marker_lives_as_long_as_configured(place: Place) -> None:
    (pushed,) = place.deliver(payload("push", 1))
    assert 0 < _ttl(place, f"drakkar:delivered:{pushed.delivery_id}") <= 60


def test_a_refused_push_leaves_no_marker(place: Place) -> None:
    place.deliver(payload("hset", {"a": 1}))
    (one,) = new_ids(1)
    with pytest.raises(PermanentError, match="push 'k': WRONGTYPE"):
        deliver(place.sink, [delivery(payload("push", 1), one)])
    place.deliver(payload("delete"))
    deliver(place.sink, [delivery(payload("push", 1), one)])
    assert items(place.client, place.prefix + "k") == ["1"]


def test_each_refused_payload_of_a_batch_is_named(place: Place) -> None:
    other = RedisPayload(sink=SINK, key="other", value=1)
    with pytest.raises(PermanentError, match=r"sadd 'k': WRONGTYPE.*; hset 'k': value: ") as caught:
        place.deliver(payload("set", "x"), payload("sadd", 1), other, payload("hset", {}))
    assert caught.value.bad_indices == (1, 3)
    assert text(place.client, place.prefix + "other") == "1"


def test_what_was_stored_before_a_full_memory_is_told(place: Place) -> None:
    place.client.config_set("maxmemory", 1)
    try:
        with pytest.raises(TransientError, match="set 'k': OOM") as caught:
            place.deliver(payload("delete"), payload("set", 1), payload("hset", {}))
    finally:
        place.client.config_set("maxmemory", 0)
    assert caught.value.stored_indices == (0,)


MANY = [f"{n:05}" for n in range(20_001)]
"""More than Lua's stack takes, and no multiple of what one command of a script gets."""

LARGE: dict[str, tuple[list[RedisPayload], str, int]] = {
    "hset": ([payload("hset", dict.fromkeys(MANY, 1))], "hlen", 20_001),
    "hset for a time": ([payload("hset", dict.fromkeys(MANY, 1), 100)], "hlen", 20_001),
    "hdel": ([payload("hset", {"x": 1, "00000": 1}), payload("hdel", MANY)], "hlen", 1),
    "sadd": ([payload("sadd", MANY)], "scard", 20_001),
    "sadd for a time": ([payload("sadd", MANY, 100)], "scard", 20_001),
    "srem": ([payload("sadd", ["x", "00000"]), payload("srem", MANY)], "scard", 1),
    "zadd": ([payload("zadd", dict.fromkeys(MANY, 1))], "zcard", 20_001),
    "zadd for a time": ([payload("zadd", dict.fromkeys(MANY, 1), 100)], "zcard", 20_001),
    "push": ([payload("push", MANY)], "llen", 20_001),
    "push for a time": ([payload("push", MANY, 100)], "llen", 20_001),
    "push of a large text": ([payload("push", "x" * 8_000_000)], "llen", 1),
    "trim": ([payload("push", MANY), payload("trim", 7, 100)], "llen", 7),
}


@pytest.mark.parametrize(("payloads", "count", "expected"), LARGE.values(), ids=LARGE.keys())
def test_an_op_of_any_size_delivered_twice(
    place: Place, payloads: list[RedisPayload], count: str, expected: int
) -> None:
    batch = place.deliver(*payloads)
    deliver(place.sink, batch)
    assert getattr(place.client, count)(f"{place.prefix}k") == expected
    assert (_ttl(place, "k") > 0) is (payloads[-1].ttl_seconds is not None)


@pytest.mark.parametrize(
    ("start", "step", "expected"),
    [
        (0, 2**63 - 1, 2**63 - 1),
        (0, -(2**63), -(2**63)),
        (0, 1e300, 1e300),
        (0, 5e-17, 5e-17),
    ],
)
def test_incr_by_the_most_there_is(place: Place, start: int, step: float, expected: float) -> None:
    batch = place.deliver(payload("set", start), payload("incr", step))
    deliver(place.sink, batch[1:])
    assert type(expected)(str(text(place.client, f"{place.prefix}k"))) == expected


@pytest.mark.parametrize(("start", "step"), [(2**63 - 1, 1), (-(2**63), -1)])
def test_incr_past_the_end_changes_nothing(place: Place, start: int, step: int) -> None:
    place.deliver(payload("set", start))
    with pytest.raises(PermanentError, match="overflow"):
        place.deliver(payload("incr", step))
    assert text(place.client, f"{place.prefix}k") == str(start)
    assert not place.client.keys(f"{place.prefix}drakkar:*")


def test_a_command_that_the_server_would_hang_up_on_is_refused(place: Place) -> None:
    with pytest.raises(PermanentError, match="expected at most 1000000 arguments"):
        place.deliver(payload("hset", dict.fromkeys(range(500_001), 1)))


@pytest.mark.parametrize("before", [[], ["a", "b"]])
def test_a_script_that_breaks_takes_back_what_it_pushed(place: Place, before: list[str]) -> None:
    """No known input breaks it; a time to live that is no number stands for what nobody knows."""
    key, marker = f"{place.prefix}k", f"{place.prefix}marker"
    if before:
        place.client.rpush(key, *before)
    with pytest.raises(ResponseError, match="in the script"):
        place.client.eval(ONCE, 2, key, marker, 60, "s/push/k", "never", "RPUSH", *MANY)
    assert items(place.client, key) == before
    assert not place.client.exists(marker)


def test_one_scope_of_a_marker_is_taken_back_and_the_others_stay(place: Place) -> None:
    (one,) = new_ids(1)
    other = RedisPayload(sink=SINK, key="other", value=1, op="push")
    deliver(place.sink, [delivery(other, one)])
    place.deliver(payload("set", "text"))
    with pytest.raises(PermanentError, match="WRONGTYPE"):
        deliver(place.sink, [delivery(payload("push", 1), one)])
    place.deliver(payload("delete"))
    deliver(place.sink, [delivery(other, one), delivery(payload("push", 1), one)])
    for key in ("other", "k"):
        assert items(place.client, place.prefix + key) == ["1"]
