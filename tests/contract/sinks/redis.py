"""Sink kind ``redis`` on the embedded server: plain keys, lists pushed to once, and counters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from uuid import uuid4

from redis import Redis

from domain.payload import Payload, RedisPayload
from integration.services import redis
from integration.services.ports import LOOPBACK
from sinks.backends.redis import RedisSink, RedisSinkConfig
from sinks.base import ConfigError, PermanentError, Sink, TransientError
from sinks.registry import SinkContext
from tests.contract.sinks.subject import SINK, TIMEOUT_SECONDS, Case, Row, delivery, new_ids
from tests.support.lanes import deliver
from tests.support.proxy import Proxy

PREFIX = "demo:"
WRONG = "a hash"


class RedisSubject:
    """A key a payload; ``op`` says how it is written."""

    def __init__(self, server: redis.RunningRedis, op: Any) -> None:
        self._server = server
        self._op = op
        self.reply_mark = b"+OK\r\n" if op == "set" else b":1\r\n"
        self.freeze, self.thaw, self.stop = server.freeze, server.thaw, server.stop
        self.client = Redis.from_url(server.url)
        self.client.hset(PREFIX + WRONG, "a", "b")

    def start(self) -> None:
        self._server.start()

    def build(self, proxy: Proxy | None = None, **keys: Any) -> Sink:
        url = self._server.url if proxy is None else redis.url(proxy.port)
        section: dict[str, Any] = {"kind": "redis", "url": url, "key_prefix": PREFIX}
        section |= {"timeout_seconds": TIMEOUT_SECONDS, **keys}
        context = SinkContext(cluster="c", name=SINK, source_brokers="", source_client={})
        return RedisSink(RedisSinkConfig.model_validate(section), context)

    def payload(self, key: str, value: Any, op: Any = None, **more: Any) -> RedisPayload:
        return RedisPayload(sink=SINK, key=key, value=value, op=op or self._op, **more)

    def good(self, delivery_id: str) -> Payload:
        return self.payload(delivery_id, 1)

    def bad(self, delivery_id: str) -> Payload:
        if self._op == "set":
            return self.payload(delivery_id, {1, 2})
        return self.payload(WRONG, 1)

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        return self.payload(delivery_id, {"x": value})

    def stored(self) -> Counter[str]:
        found: Counter[str] = Counter()
        for key in self.client.scan_iter(PREFIX + "*:*"):
            name = key.decode().removeprefix(PREFIX)
            if not name.startswith("drakkar:"):
                found[name] = self._times(key)
        return found

    def _times(self, key: bytes) -> int:
        if self._op == "set":
            return 1
        return self.client.llen(key) if self._op == "push" else int(self.client.get(key) or 0)

    def url(self, user: str = "", database: int = 0) -> str:
        """URL for another user or database."""
        return f"redis://{user}{LOOPBACK}:{self._server.port}/{database}"

    def proxy(self) -> Proxy:
        return Proxy(LOOPBACK, self._server.port)

    def deliver(self, *payloads: Payload, **keys: Any) -> None:
        """By a sink of its own. Raises SinkError."""
        sink = self.build(**keys)
        try:
            ids = new_ids(len(payloads))
            deliver(sink, [delivery(*pair) for pair in zip(payloads, ids, strict=True)])
        finally:
            sink.close()


def _delivered(key: str, value: Any, op: str, subject: RedisSubject, **keys: Any) -> None:
    subject.deliver(subject.payload(key, value, op), **keys)


def _with_ttl(ttl: Any, op: str, subject: RedisSubject) -> None:
    subject.deliver(subject.payload("x:limited", 1, op, ttl_seconds=ttl))


def _opened(subject: RedisSubject, **keys: Any) -> None:
    sink = subject.build(**keys)
    try:
        sink.open()
    finally:
        sink.close()


@contextmanager
def _set(subject: RedisSubject, name: str, value: Any) -> Iterator[None]:
    before: Any = subject.client.config_get(name)[name]
    subject.client.config_set(name, value)
    try:
        yield
    finally:
        subject.client.config_set(name, before)


def _while_set(name: str, value: Any, op: str, subject: RedisSubject) -> None:
    with _set(subject, name, value):
        _delivered("x:limited", 1, op, subject)


def _on_a_replica(stale: str, op: str, subject: RedisSubject) -> None:
    """Of a primary that is not there."""
    with _set(subject, "replica-serve-stale-data", stale):
        subject.client.replicaof(LOOPBACK, 1)
        try:
            _delivered("x:limited", 1, op, subject)
        finally:
            subject.client.replicaof("NO", "ONE")


def _as_user(rights: list[str], keys: list[str], op: str, subject: RedisSubject) -> None:
    user = f"u{uuid4().hex}"
    subject.client.acl_setuser(
        user, enabled=True, passwords=["+right"], keys=keys, commands=["+ping", *rights]
    )
    _delivered("x:limited", 1, op, subject, url=subject.url(f"{user}:right@"))


BY_OP: dict[str, tuple[str, Any]] = {
    "incr of a text": ("incr", "no number"),
    "trim to nothing": ("trim", 0),
    "trim by a triple": ("trim", (1, 2, 3)),
    "hset without fields": ("hset", {}),
    "hset of a text": ("hset", "x"),
    "zadd with a text for a score": ("zadd", {"a": "b"}),
    "zadd with no number": ("zadd", {"a": float("nan")}),
    "sadd of nothing": ("sadd", []),
    "set of nothing": ("set", None),
    "set of an object": ("set", object()),
    "set of a lone surrogate": ("set", "\ud800"),
    "expire without a time": ("expire", None),
    "set of no number": ("set", float("nan")),
    "hset of no number": ("hset", {"a": {"b": float("inf")}}),
    "zadd past a float": ("zadd", {"a": 10**400}),
    "zadd with True": ("zadd", {"a": True}),
    "incr by no number": ("incr", float("inf")),
    "incr past 64 bits": ("incr", 2**63),
}

ROWS = (
    *(
        Row(name, PermanentError, partial(_delivered, "x:new", value, op))
        for name, (op, value) in BY_OP.items()
    ),
    Row("lone surrogate in a key", PermanentError, partial(_delivered, "\ud800", 1, "set")),
    Row("a time past all bounds", PermanentError, partial(_with_ttl, 10**12, "push")),
    *(
        Row(f"WRONGTYPE of {op}", PermanentError, partial(_delivered, WRONG, value, op))
        for op, value in {"sadd": 1, "zadd": {"a": 1}, "push": 1, "incr": 1, "trim": 1}.items()
    ),
    *(
        Row(f"{name} of {op}", expected, partial(provoke, op))
        for op in ("set", "push")
        for name, expected, provoke in (
            ("OOM", TransientError, partial(_while_set, "maxmemory", 1)),
            ("NOREPLICAS", TransientError, partial(_while_set, "min-replicas-to-write", 1)),
            ("READONLY", TransientError, partial(_on_a_replica, "yes")),
            ("MASTERDOWN", TransientError, partial(_on_a_replica, "no")),
            ("NOPERM to the key", ConfigError, partial(_as_user, ["+@all"], ["none:*"])),
            ("NOPERM to the command", ConfigError, partial(_as_user, [], ["*"])),
        )
    ),
    Row(
        "NOPERM to the marker", ConfigError, partial(_as_user, ["+@all"], [PREFIX + "x:*"], "push")
    ),
    Row(
        "WRONGPASS",
        ConfigError,
        lambda subject: _opened(subject, url=subject.url("nobody:wrong@")),
    ),
    Row(
        "no such database",
        ConfigError,
        lambda subject: _opened(subject, url=subject.url(database=99)),
    ),
)


@contextmanager
def _start(folder: Path, *, op: str) -> Iterator[RedisSubject]:
    with redis.running(folder) as server:
        subject = RedisSubject(server, op)
        yield subject
        subject.client.close()


CASES = [
    Case(name="redis-set", service="redis", start=partial(_start, op="set"), rows=ROWS),
    Case(name="redis-push", service="redis", start=partial(_start, op="push")),
    Case(name="redis-incr", service="redis", start=partial(_start, op="incr")),
]
