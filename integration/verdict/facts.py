"""Gathers the facts of the verdict: topics, table, events, sampled offsets, faults."""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import psycopg
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from integration.corpus import SEARCHES, Search, match_count, symbol_count
from integration.demo.clusters import (
    HIGH_MATCHES_FILE,
    KAFKA,
    LETTERS_TOPIC,
    MAIN,
    SOURCE_TOPIC,
    SUMMARY_TTL_SECONDS,
    Cluster,
    is_in_order,
)
from integration.demo.kafka import retry_number
from integration.demo.plan import NOTICES_PATH
from integration.verdict.case import (
    LETTERS,
    Deferred,
    Facts,
    Fault,
    Output,
    Request,
    Sample,
)
from integration.verdict.events import Events, letter_rows
from integration.verdict.order import Source
from integration.verdict.owners import Silence
from integration.verdict.rollups import rolled, spans
from integration.verdict.stores import SUMMARIES, Stores

ASK_SECONDS = 10.0
IDLE_SECONDS = 20.0
T = TypeVar("T")
DELIVERY_ID = "drakkar-delivery-id"


class FactsMissing(Exception):
    """A file of the run is missing or broken: nothing can be judged without it."""


class Topics:
    """Reads whole topics, and a group's committed offsets."""

    def __init__(self, brokers: str, group: str) -> None:
        self._config = {
            "bootstrap.servers": brokers,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 50,
        }

    def ends(self, topic: str) -> dict[int, int]:
        """End offset of each partition. Raises KafkaException."""
        return {number: end for number, (_, end) in self.bounds(topic).items()}

    def bounds(self, topic: str) -> dict[int, tuple[int, int]]:
        """Lowest offset still there and end offset of each partition. Raises KafkaException."""
        consumer = Consumer(self._config)
        try:
            found = consumer.list_topics(topic, timeout=ASK_SECONDS).topics[topic].partitions
            return {
                number: consumer.get_watermark_offsets(
                    TopicPartition(topic, number), timeout=ASK_SECONDS
                )
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
        """Every record still there, to the end of now. Raises KafkaException."""
        bounds = {number: span for number, span in self.bounds(topic).items() if span[0] < span[1]}
        consumer = Consumer(self._config)
        try:
            consumer.assign(
                [TopicPartition(topic, number, low) for number, (low, _) in bounds.items()]
            )
            left = {number: end for number, (_, end) in bounds.items()}
            while left:
                message = consumer.poll(IDLE_SECONDS)
                if message is None:
                    raise KafkaException(f"{topic}: no record for {IDLE_SECONDS:g} s, left {left}")
                number, offset = message.partition() or 0, message.offset() or 0
                error = message.error()
                if error is None:
                    yield message
                    offset += 1
                elif error.code() != KafkaError._PARTITION_EOF:
                    raise KafkaException(error)
                if offset >= left.get(number, 0):
                    left.pop(number, None)
        finally:
            consumer.close()


def gather(cluster: Cluster, *, brokers: str, stores: Stores, run: Path) -> Facts:
    """All facts of one cluster; ``run`` is the folder of the demo's run. Raises FactsMissing."""
    samples = [
        Sample(at=row["at"], offsets={int(p): n for p, n in row["offsets"].items()})
        for row in lines_of(cluster.committed_path(run))
    ]
    topics = Topics(brokers, cluster.group)
    ends, committed = _offsets(topics, cluster)
    unreadable = Unreadable()
    read = (SOURCE_TOPIC, LETTERS_TOPIC, cluster.results_topic, cluster.retry_topic)
    for topic in filter(None, read):
        unreadable.note_missing(topic, topics.bounds(topic))
    retried = topics.read(cluster.retry_topic) if cluster.retry_topic else ()
    deferred = unreadable.sift(retried, deferred_of)
    letters = unreadable.sift(topics.read(LETTERS_TOPIC), letter_of)
    of_cluster = [letter for owner, letter in letters if owner == cluster.name]
    results = unreadable.sift(topics.read(cluster.results_topic), result_of)
    with psycopg.connect(stores.database_url, autocommit=True) as database:
        events = Events(database, SOURCE_TOPIC, cluster.name)
        _refuse_sampled(events, cluster)
        requests = list(_requests(topics.read(SOURCE_TOPIC), cluster))
        keys = _keys(requests) if events.is_ordered() else {}
        return Facts(
            requests=requests,
            results=results,
            deferred=deferred,
            letters=of_cluster,
            results_sink=cluster.results,
            stores=stores.read() if cluster is MAIN else {},
            gone_before={SUMMARIES: time.time() - SUMMARY_TTL_SECONDS},
            notices=_notices(run) if cluster is MAIN else {},
            thresholds=cluster.notices,
            end_offsets=ends,
            committed=committed,
            samples=samples,
            faults=[*faults_of(run / "faults.jsonl", cluster), *events.unclean_ends()],
            receiver_faults=receiver_faults_of(run / "faults.jsonl", cluster),
            consumed=events.times("consumed"),
            fates=events.fates(),
            runs=events.runs(),
            told=events.told(),
            steps=events.steps() if keys else (),
            keys=keys,
            silences=[*silences_of(run / "faults.jsonl"), *events.unclean_revokes()],
            letter_rows=letter_rows(database, cluster.name, len(of_cluster)),
            dead_lettered_events=events.count("dead_lettered"),
            rolled=rolled(database, cluster.name),
            spans=spans(database, cluster.name),
            retried_events=events.count("task_retried"),
            unreadable=unreadable.found,
        )


def _refuse_sampled(events: Events, cluster: Cluster) -> None:
    if events.count("sampled"):
        raise FactsMissing(
            f"the history of {cluster.name} is sampled (recorder.sample): of most messages no "
            "event is there to be judged; run it without"
        )


def _offsets(topics: Topics, cluster: Cluster) -> tuple[dict[int, int], dict[int, int]]:
    """End and committed offset of each partition, those of the retry topic by their numbers."""
    ends = topics.ends(SOURCE_TOPIC)
    committed = topics.committed(SOURCE_TOPIC, list(ends))
    if cluster.retry_topic:
        retries = topics.ends(cluster.retry_topic)
        done = topics.committed(cluster.retry_topic, list(retries))
        ends |= {retry_number(number): end for number, end in retries.items()}
        committed |= {retry_number(number): offset for number, offset in done.items()}
    return ends, committed


def _keys(requests: Iterable[Request]) -> dict[Source, str]:
    """Key of each message whose searches run in order: its file."""
    return {
        each.source: each.file_path
        for each in requests
        if each.file_path and is_in_order(each.file_path)
    }


class Unreadable:
    """Collects what keeps records from being judged: a failed rule, not a traceback."""

    def __init__(self) -> None:
        self.found: list[str] = []

    def note_missing(self, topic: str, bounds: Mapping[int, tuple[int, int]]) -> None:
        """A topic that no longer starts at 0 has lost records."""
        self.found += [
            f"{topic}/{number}: the records below {low} are gone"
            for number, (low, _) in sorted(bounds.items())
            if low > 0
        ]

    def sift(self, messages: Iterable[Message], read: Callable[[Message], T]) -> list[T]:
        """Return what ``read`` makes of each record; one that it cannot read is noted."""
        made = []
        for message in messages:
            try:
                made.append(read(message))
            except (KeyError, ValueError, IndexError, TypeError, AttributeError) as exc:
                where = f"{message.topic()}/{message.partition()}/{message.offset()}"
                self.found.append(f"{where}: {type(exc).__name__}: {exc}")
        return made


def _notices(run: Path) -> dict[str, list[Output]]:
    """Return what webhook and file got; the delivery id of each names its source."""
    received = [
        got for got in _lines(run / "webhook" / "received.jsonl") if got["path"] != NOTICES_PATH
    ]
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
    """The records of a file that appears with its first record."""
    if path.exists():
        yield from lines_of(path)


def lines_of(path: Path) -> Iterator[dict[str, Any]]:
    """The records of a file that must be there. Raises FactsMissing."""
    if not path.exists():
        raise FactsMissing(
            f"{path}: missing; only a demo started with --until-drained, --kill-worker-at or"
            " --stop-worker-at keeps what a verdict needs"
        )
    for number, line in enumerate(path.read_text().splitlines(), 1):
        try:
            yield json.loads(line)
        except ValueError as exc:
            raise FactsMissing(f"{path}, line {number}: not JSON: {line[:80]!r}") from exc


def faults_of(path: Path, cluster: Cluster) -> Iterator[Fault]:
    """Return what was done to this cluster's workers, by Kafka's absence too. Raises
    FactsMissing."""
    for row in lines_of(path):
        if row["worker"] in cluster.ports:
            yield Fault(
                at=row["at"], kind=row["kind"], worker=row["worker"], orphans=row["orphans"]
            )
    for began, until in receiver_faults_of(path, cluster).get(cluster.results, ()):
        yield Fault(at=began, kind="away", worker=KAFKA, until=until)


def receiver_faults_of(path: Path, cluster: Cluster) -> dict[str, list[tuple[float, float]]]:
    """By sink of this cluster, and of letters: from when until when its server was away.

    Raises FactsMissing.
    """
    found: defaultdict[str, list[tuple[float, float]]] = defaultdict(list)
    began: dict[str, float] = {}
    for row in lines_of(path):
        if row["worker"] not in cluster.servers:
            continue
        sink = cluster.servers[row["worker"]]
        if row["kind"] in ("stop", "freeze"):
            began[sink] = row["at"]
        elif row["kind"] in ("start", "thaw") and sink in began:
            found[sink].append((began.pop(sink), row["at"]))
    for sink, at in began.items():
        found[sink].append((at, float("inf")))
    if cluster.results in found:
        found[LETTERS] = found[cluster.results]
    return dict(found)


def silences_of(path: Path) -> list[Silence]:
    """When a worker, or Kafka for all of them (no name), was frozen. Raises FactsMissing."""
    found = []
    began: dict[str, float] = {}
    for row in lines_of(path):
        worker = "" if row["worker"] == KAFKA else row["worker"]
        if row["kind"] == "freeze" or (not worker and row["kind"] == "stop"):
            began[worker] = row["at"]
        elif row["kind"] in ("thaw", "start") and worker in began:
            found.append(Silence(worker=worker, began=began.pop(worker), until=row["at"]))
    left = [Silence(worker=name, began=at, until=float("inf")) for name, at in began.items()]
    return [*found, *left]


def _requests(messages: Iterator[Message], cluster: Cluster) -> Iterator[Request]:
    right = _right_counts(cluster)
    for message in messages:
        source = (message.partition() or 0, message.offset() or 0)
        try:
            body = json.loads(message.value() or b"")
            search = Search(body["pattern"], body["file_path"])
            expected, request_id = right.get(search), str(body["request_id"])
        except (ValueError, KeyError, TypeError):
            yield Request(source=source, request_id=f"no request at {source}", expected=None)
            continue
        yield Request(
            source=source, request_id=request_id, expected=expected, file_path=search.file_path
        )


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


def result_of(message: Message) -> Output:
    """A result; its delivery id names its source. Raises KeyError, ValueError or IndexError."""
    delivery_id = _headers(message)[DELIVERY_ID]
    value = json.loads(message.value() or b"{}")
    return Output(
        source=_source_of(delivery_id),
        delivery_id=delivery_id,
        at=message.timestamp()[1] / 1000.0,
        count=value.get("match_count", value.get("symbol_count")),
    )


def deferred_of(message: Message) -> Deferred:
    """A deferred message; a header names its first life. Raises KeyError, ValueError or
    IndexError."""
    place = (retry_number(message.partition() or 0), message.offset() or 0)
    source = _source_of(_headers(message)["drakkar-replay-of"])
    return Deferred(place=place, source=source, at=message.timestamp()[1] / 1000.0)


def letter_of(message: Message) -> tuple[str, Output]:
    """The cluster that wrote a letter, and the letter. Raises KeyError or ValueError."""
    headers = _headers(message)
    return headers["drakkar-cluster"], Output(
        source=(int(headers["drakkar-origin-partition"]), int(headers["drakkar-origin-offset"])),
        delivery_id=headers[DELIVERY_ID],
        at=message.timestamp()[1] / 1000.0,
        stage=headers["drakkar-stage"],
        failure=headers.get("drakkar-failure-kind", ""),
        sink=headers.get("drakkar-sink", ""),
    )
