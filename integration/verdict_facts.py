"""Gathers the facts of the verdict: topics, table, events, sampled offsets, faults."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from confluent_kafka import Consumer, KafkaException, Message, TopicPartition

from integration.clusters import (
    HIGH_MATCHES_FILE,
    LETTERS_TOPIC,
    MAIN,
    SOURCE_TOPIC,
    SUMMARY_TTL_SECONDS,
    Cluster,
    cluster_of,
)
from integration.corpus import SEARCHES, Search, match_count, symbol_count
from integration.verdict_rules import Facts, Fault, Output, Request, RunEvents, Sample, Source
from integration.verdict_stores import SUMMARIES, Stores

ASK_SECONDS = 10.0
IDLE_SECONDS = 20.0


class Topics:
    """Reads whole topics, and a group's committed offsets."""

    def __init__(self, brokers: str, group: str) -> None:
        self._config = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": False,
            "fetch.wait.max.ms": 50,
        }

    def ends(self, topic: str) -> dict[int, int]:
        """End offset of each partition. Raises KafkaException."""
        consumer = Consumer(self._config)
        try:
            found = consumer.list_topics(topic, timeout=ASK_SECONDS).topics[topic].partitions
            return {
                number: consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=ASK_SECONDS
                )[1]
                for number in found
            }
        finally:
            consumer.close()

    def committed(self, topic: str, partitions: list[int]) -> dict[int, int]:
        """The group's next offsets; partitions never committed are left out."""
        consumer = Consumer(self._config)
        try:
            asked = [TopicPartition(topic, number) for number in partitions]
            answers = consumer.committed(asked, timeout=ASK_SECONDS)
            return {item.partition: item.offset for item in answers if item.offset >= 0}
        finally:
            consumer.close()

    def read(self, topic: str) -> Iterator[Message]:
        """Every record from the start to the end of now. Raises KafkaException."""
        ends = {number: end for number, end in self.ends(topic).items() if end > 0}
        consumer = Consumer(self._config)
        try:
            consumer.assign([TopicPartition(topic, number, 0) for number in ends])
            left = dict(ends)
            while left:
                message = consumer.poll(IDLE_SECONDS)
                if message is None:
                    raise KafkaException(f"{topic}: no record for {IDLE_SECONDS:g} s, left {left}")
                if message.error() is not None:
                    raise KafkaException(message.error())
                yield message
                if (message.offset() or 0) + 1 >= left.get(message.partition() or 0, 0):
                    left.pop(message.partition() or 0, None)
        finally:
            consumer.close()


def gather(cluster: Cluster, *, brokers: str, stores: Stores, run: Path) -> Facts:
    """All facts of one cluster; ``run`` is the folder of the demo's run."""
    topics = Topics(brokers, cluster.group)
    ends = topics.ends(SOURCE_TOPIC)
    own_letters = _of(topics.read(LETTERS_TOPIC), cluster.name)
    with psycopg.connect(stores.database_url, autocommit=True) as database:
        events = _Events(database, SOURCE_TOPIC, cluster.name)
        return Facts(
            requests=list(_requests(topics.read(SOURCE_TOPIC), cluster)),
            results=[_result(message) for message in topics.read(cluster.results_topic)],
            letters=[_letter(message) for message in own_letters],
            results_sink=cluster.results,
            stores=stores.read() if cluster is MAIN else {},
            gone_before={SUMMARIES: time.time() - SUMMARY_TTL_SECONDS},
            notices=_notices(run) if cluster is MAIN else {},
            thresholds=cluster.notices,
            end_offsets=ends,
            committed=topics.committed(SOURCE_TOPIC, list(ends)),
            samples=[
                Sample(at=row["at"], offsets={int(p): n for p, n in row["offsets"].items()})
                for row in _lines(cluster.committed_path(run))
            ],
            faults=[*_faults(run / "faults.jsonl", cluster), *events.unclean_stops()],
            consumed=events.times("consumed"),
            fates=events.times("message_completed"),
            runs=events.runs(),
            dead_lettered_events=events.count("dead_lettered"),
        )


def _notices(run: Path) -> dict[str, list[Output]]:
    """What webhook and file got; the delivery id of each names its source."""
    received = _lines(run / "webhook" / "received.jsonl")
    written = _lines(run / "files" / HIGH_MATCHES_FILE)
    return {
        "webhook": [_notice(got["idempotency_key"], got["body"], got["at"]) for got in received],
        "files": [_notice(line["_delivery_id"], line, float("inf")) for line in written],
    }


def _notice(delivery_id: str, body: dict[str, Any], at: float) -> Output:
    return Output(
        source=_source_of(delivery_id),
        delivery_id=delivery_id,
        at=at,
        count=body["match_count"],
    )


def _source_of(delivery_id: str) -> Source:
    """A delivery id is ``cluster/topic/partition/offset/...``."""
    parts = delivery_id.split("/")
    return int(parts[2]), int(parts[3])


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    if path.exists():
        for line in path.read_text().splitlines():
            yield json.loads(line)


def _faults(path: Path, cluster: Cluster) -> Iterator[Fault]:
    for row in _lines(path):
        if cluster_of(row["worker"]) is cluster:
            yield Fault(at=row["at"], kind=row["kind"], orphans=row["orphans"])


def _requests(messages: Iterator[Message], cluster: Cluster) -> Iterator[Request]:
    right = _right_counts(cluster)
    for message in messages:
        source = (message.partition() or 0, message.offset() or 0)
        try:
            body = json.loads(message.value() or b"")
            search = Search(body["pattern"], body["file_path"])
            expected, request_id = right.get(search), str(body["request_id"])
        except (ValueError, KeyError, TypeError):
            expected, request_id = None, f"no request at {source}"
        yield Request(source=source, request_id=request_id, expected=expected)


def _right_counts(cluster: Cluster) -> dict[Search, int]:
    if cluster is MAIN:
        return {search: match_count(search) for search in SEARCHES}
    return {search: symbol_count(search.file_path) for search in SEARCHES}


def _headers(message: Message) -> dict[str, str]:
    found = message.headers() or []
    headers: dict[str, str] = {}
    pairs: Any = found
    for name, value in pairs:
        text = value if isinstance(value, str) else (value or b"").decode("utf-8", "replace")
        headers[name] = text
    return headers


def _result(message: Message) -> Output:
    delivery_id = _headers(message)["drakkar-delivery-id"]
    value = json.loads(message.value() or b"{}")
    return Output(
        source=_source_of(delivery_id),
        delivery_id=delivery_id,
        at=message.timestamp()[1] / 1000.0,
        count=value.get("match_count", value.get("symbol_count")),
    )


def _of(messages: Iterator[Message], cluster: str) -> Iterator[Message]:
    return (m for m in messages if _headers(m).get("drakkar-cluster") == cluster)


def _letter(message: Message) -> Output:
    headers = _headers(message)
    return Output(
        source=(int(headers["drakkar-origin-partition"]), int(headers["drakkar-origin-offset"])),
        delivery_id=headers["drakkar-delivery-id"],
        at=message.timestamp()[1] / 1000.0,
        stage=headers["drakkar-stage"],
        sink=headers.get("drakkar-sink", ""),
    )


class _Events:
    """Plain SQL over the recorder's tables: the verdict does not use the product's own reading."""

    def __init__(self, database: psycopg.Connection[Any], topic: str, cluster: str) -> None:
        self._database = database
        self._topic = topic
        self._cluster = cluster

    def _rows(self, columns: str, where: str, tail: str = "") -> list[tuple[Any, ...]]:
        query = (
            f"SELECT {columns} FROM recorder_event e JOIN recorder_run r ON r.id = e.run "  # noqa: S608
            f"WHERE r.cluster = %s AND {where} {tail}"
        )
        return self._database.execute(query.encode(), [self._cluster]).fetchall()

    def times(self, kind: str) -> dict[Source, list[float]]:
        """When events of a kind happened, by message."""
        found: defaultdict[Source, list[float]] = defaultdict(list)
        columns = 'e.partition, e."offset", extract(epoch FROM e.ts)::float8'
        for partition, offset, at in self._rows(columns, f"e.kind = '{kind}'"):
            found[(partition, offset)].append(at)
        return dict(found)

    def count(self, kind: str) -> int:
        """How many events of a kind."""
        return int(self._rows("count(*)", f"e.kind = '{kind}'")[0][0])

    def unclean_stops(self) -> list[Fault]:
        """Drains past their budget: duplicates may follow."""
        where = "e.kind = 'worker_stopped' AND NOT (e.data->>'clean')::bool"
        rows = self._rows("extract(epoch FROM e.ts)::float8", where)
        return [Fault(at=at, kind="unclean", orphans=0) for (at,) in rows]

    def runs(self) -> list[RunEvents]:
        """Rows, seqs and shed counts of each run."""
        shed = {
            str(run): sum(sum(data["shed"].values()) for data in found)
            for run, found in self._rows(
                "e.run, jsonb_agg(e.data)", "e.kind = 'recorder_shed'", "GROUP BY e.run"
            )
        }
        columns = "e.run::text, count(*), min(e.seq), max(e.seq)"
        return [
            RunEvents(run=run, rows=rows, first_seq=first, last_seq=last, shed=shed.get(run, 0))
            for run, rows, first, last in self._rows(columns, "true", "GROUP BY e.run")
        ]
