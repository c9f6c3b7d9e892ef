"""The demo's clusters: what launcher and verdict both have to know of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from zlib import crc32

KAFKA = "kafka"
"""Its name among the demo's programs; its faults are of every worker of both clusters."""
SOURCE_TOPIC = "search-requests"
LETTERS_TOPIC = "search-requests_dlq"
RETRY_TOPIC = "search-requests_retry"
WEBHOOK_OVER = 20
FILE_OVER = 50
HIGH_MATCHES_FILE = "high-match-results.jsonl"
DATABASE = "drakkar"
ARCHIVE_COLLECTION = "search_archive"
SUMMARY_PREFIX = "drakkar:search:"
SUMMARY_TTL_SECONDS = 3600


def is_in_order(file_path: str) -> bool:
    """Whether the searches of a file are run one after the other where the chaos test asks for
    order: of every other file; the others' failed ones may be deferred."""
    return crc32(file_path.encode()) % 2 == 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """``ports`` are the metrics ports of its workers; ``results`` names the Kafka sink;
    ``retry_topic`` holds its deferred messages, empty: it has none."""

    name: str
    group: str
    results: str
    results_topic: str
    ports: Mapping[str, int]
    thresholds_ms: float
    retry_topic: str = ""
    notices: Mapping[str, int] = field(default_factory=dict)
    """Sinks that get results of more matches than this only."""
    servers: Mapping[str, str] = field(default_factory=dict)
    """The sink of each server of the demo that the chaos test stops and freezes."""

    @property
    def prefix(self) -> str:
        """Prefix of its environment variables."""
        return f"DRAKKAR_CLUSTERS__{self.name.upper()}__"

    def committed_path(self, run: Path) -> Path:
        """Return the file of its committed offsets, sampled every 100 ms."""
        return run / f"committed-{self.name}.jsonl"


MAIN = Cluster(
    name="main",
    group="drakkar-integration",
    results="results",
    results_topic="search-results",
    ports={"worker-1": 9090, "worker-2": 9091, "worker-3": 9093},
    thresholds_ms=500.0,
    retry_topic=RETRY_TOPIC,
    notices={"webhook": WEBHOOK_OVER, "files": FILE_OVER},
    servers={
        "postgres": "metrics",
        "redis": "summaries",
        "mongo": "archive",
        "webhook": "webhook",
        KAFKA: "results",
    },
)
FAST = Cluster(
    name="fast",
    group="drakkar-fast",
    results="counts",
    results_topic="symbol-counts",
    ports={"fast-worker-1": 9094, "fast-worker-2": 9095},
    thresholds_ms=100.0,
    servers={KAFKA: "counts"},
)
CLUSTERS = (MAIN, FAST)
TOPICS = (
    SOURCE_TOPIC,
    LETTERS_TOPIC,
    *(cluster.results_topic for cluster in CLUSTERS),
    *(cluster.retry_topic for cluster in CLUSTERS if cluster.retry_topic),
)
WORKER_PORTS = {name: port for cluster in CLUSTERS for name, port in cluster.ports.items()}

PAGE_PORTS = {name: 8081 + place for place, name in enumerate(WORKER_PORTS)}
"""Where each worker's page is opened with ``--full``, as the compose file publishes it."""


def cluster_of(worker: str) -> Cluster:
    """The cluster of a worker. Raises KeyError for an unknown one."""
    return {name: cluster for cluster in CLUSTERS for name in cluster.ports}[worker]
