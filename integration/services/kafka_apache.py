"""Apache Kafka from Maven: one loopback broker that is its own KRaft controller.

The jars are fetched once by ``mvn`` into a cache that several checkouts share.
"""

from __future__ import annotations

import base64
import os
import re
import shutil
import subprocess
import tempfile
import uuid
from contextlib import AbstractContextManager
from pathlib import Path

from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from integration.services.base import (
    Launch,
    Running,
    ServiceFailed,
    ServiceUnavailable,
    dying,
    started,
)
from integration.services.ports import LOOPBACK, free_port, free_ports, is_open

HERE = Path(__file__).resolve().parent / "kafka"
CHECKOUT = Path(__file__).resolve().parents[2]
QUICK_START = ("-XX:TieredStopAtLevel=1",)
"""The first compiler only: up in half the time; once warm, twenty times the CPU a message."""
JVM_FLAGS = (
    "-Xms64m",
    "-Xmx512m",
    "-XX:+UseSerialGC",
    "-Xshare:auto",
    f"-Dlog4j2.configurationFile={HERE / 'log4j2.properties'}",
)
MIN_JAVA = 17
FETCH_SECONDS = 300
FORMAT_SECONDS = 60


class RunningKafka(Running):
    """A live Apache Kafka broker."""

    def __init__(self, launch: Launch, port: int) -> None:
        super().__init__(launch)
        self.port = port

    @property
    def brokers(self) -> str:
        """Bootstrap servers."""
        return f"{LOOPBACK}:{self.port}"


def version() -> str:
    """The Kafka version that pom.xml pins."""
    found = re.search(r"<kafka\.version>([^<]+)<", (HERE / "pom.xml").read_text())
    if found is None:
        raise ServiceFailed(f"{HERE / 'pom.xml'}: no <kafka.version>")
    return found.group(1)


def missing() -> str | None:
    """Return what this machine lacks to run Apache Kafka, with its cure; None when nothing."""
    java = shutil.which("java")
    if java is None:
        return "Apache Kafka needs Java 17 or newer (Debian: openjdk-17-jre-headless)"
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    major = re.search(r'version "(\d+)', said)
    if major is None or int(major.group(1)) < MIN_JAVA:
        return f"Apache Kafka needs Java 17 or newer, found: {said.splitlines()[:1]}"
    if not is_fetched(cache_folder()) and shutil.which("mvn") is None:
        return "Apache Kafka's jars are fetched by mvn (Debian: maven)"
    return None


def cache_folder() -> Path:
    """Return where the jars are kept: the user's cache, or ``.run/cache`` where that is not
    writable."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "drakkar"
    try:
        cache.mkdir(parents=True, exist_ok=True)
    except OSError:
        cache = CHECKOUT / ".run" / "cache"
    if not os.access(cache, os.W_OK):
        cache = CHECKOUT / ".run" / "cache"
    return cache / f"kafka-{version()}"


def is_fetched(folder: Path) -> bool:
    """Whether the broker's jars are there (the folder appears whole or not at all)."""
    return any(folder.glob("kafka_2.13-*.jar"))


def fetch() -> Path:
    """The folder of jars, filled by Maven at the first call. Raises ServiceUnavailable."""
    reason = missing()
    if reason is not None:
        raise ServiceUnavailable(reason)
    folder = cache_folder()
    if is_fetched(folder):
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix="kafka-", dir=folder.parent))
    _copy_jars(partial)
    try:
        partial.rename(folder)
    except OSError:
        # Another checkout was faster: its folder is whole.
        shutil.rmtree(partial)
    return folder


def _copy_jars(folder: Path) -> None:
    argv = ["mvn", "--batch-mode", "--quiet", "-f", str(HERE / "pom.xml")]
    argv += ["dependency:copy-dependencies", f"-DoutputDirectory={folder}"]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=FETCH_SECONDS, check=False)
    if done.returncode != 0 or not is_fetched(folder):
        shutil.rmtree(folder, ignore_errors=True)
        raise ServiceUnavailable(f"mvn could not fetch Apache Kafka:\n{done.stdout[-2000:]}")


def prepare(folder: Path, port: int | None = None, *, is_measured: bool = False) -> Launch:
    """Return how to start the broker on ``port`` (None: a free one), data under ``folder``.

    ``is_measured``: with both compilers, for a measurement beside a warm broker. Fetches the jars
    and formats the data folder where needed. Raises ServiceUnavailable.
    """
    port = port or free_port()
    folder.mkdir(parents=True, exist_ok=True)
    classpath = f"{fetch()}/*"
    properties = _write_properties(folder, port)
    if not (folder / "data" / "meta.properties").exists():
        _format(classpath, properties)
    flags = JVM_FLAGS if is_measured else (*QUICK_START, *JVM_FLAGS)
    argv = ["java", *flags, "-cp", classpath, "kafka.Kafka", str(properties)]
    return Launch(
        name="kafka (apache)",
        argv=dying(argv),
        log_path=folder / "kafka.log",
        is_ready=lambda: answers(f"{LOOPBACK}:{port}"),
        version=version(),
    )


def _write_properties(folder: Path, port: int) -> Path:
    text = (HERE / "server.properties").read_text()
    controller_port = next(one for one in free_ports(2) if one != port)
    for mark, value in {"PORT": port, "CPORT": controller_port, "DATA": folder / "data"}.items():
        text = text.replace(f"@{mark}@", str(value))
    path = folder / "server.properties"
    path.write_text(text)
    return path


def _format(classpath: str, properties: Path) -> None:
    cluster = base64.urlsafe_b64encode(uuid.uuid4().bytes).decode().rstrip("=")
    argv = ["java", *QUICK_START, *JVM_FLAGS, "-cp", classpath, "kafka.tools.StorageTool", "format"]
    argv += ["--standalone", f"--cluster-id={cluster}", "--config", str(properties)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=FORMAT_SECONDS, check=False)
    if done.returncode != 0:
        raise ServiceFailed(f"kafka (apache): format failed:\n{done.stdout}{done.stderr}")


def answers(brokers: str) -> bool:
    """Whether a broker answers a metadata request at ``host:port`` within 2 s."""
    port = int(brokers.rpartition(":")[2])
    if brokers.startswith(LOOPBACK) and not is_open(port):
        return False
    client = AdminClient({"bootstrap.servers": brokers, "log_level": 0})
    try:
        return len(client.list_topics(timeout=2.0).brokers) > 0
    except KafkaException:
        return False


def running(
    folder: Path, port: int | None = None, *, is_measured: bool = False
) -> AbstractContextManager[RunningKafka]:
    """The broker as a context manager. Raises ServiceUnavailable or ServiceFailed."""
    port = port or free_port()
    return started(RunningKafka(prepare(folder, port, is_measured=is_measured), port))
