"""The recipes of docs/tuning.md, read from there, together in one demo; each effect is looked at.

A recipe that names an option or a variable without a check here fails.
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any
from urllib.parse import urlencode, urlsplit

import pytest
import requests
import yaml
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    ConfigResource,
    ResourceType,
)
from websockets.sync.client import connect

from drakkar_site.config.sources import load
from integration.demo.clusters import CLUSTERS, MAIN, SOURCE_TOPIC, TOPICS, WORKER_PORTS, cluster_of
from integration.demo.plan import FAULTY_WORKER, SESSION_TIMEOUT_MS, TASK_TIMEOUT_SECONDS
from integration.demo.supervisor import until
from integration.demo.up import NO_KAFKA_UI
from integration.services import kafka_apache
from integration.verdict.facts import Topics
from tests.support.demo import CHECKOUT, run_folder, started_for
from tests.support.made_demo import POLL_SECONDS, START_SECONDS, STOP_SECONDS, Asked, Demo
from tests.support.reading import read
from tests.support.services import require

TEXT = (CHECKOUT / "docs" / "tuning.md").read_text()
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)
FATES_SECONDS = 180.0
FLUSH_SECONDS = 30.0
SCRAPE_SECONDS = 30.0
ASK_SECONDS = 30.0
THRESHOLDS = ("LOG", "WS", "EVENT", "OUTPUT")
WAS_SLOW = 150


def commands(word: str) -> list[list[str]]:
    """Every command of the page with this word, split as a shell would."""
    blocks = [block for language, block in BLOCK.findall(TEXT) if not language]
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    spans = re.findall(r"`([^`\n]+)`", BLOCK.sub("", TEXT))
    return [shlex.split(text) for text in (*lines, *spans) if word in text]


def asked() -> Asked:
    """All recipes in one. Two of them never name the same thing otherwise."""
    environment: dict[str, str] = {}
    options: dict[str, str] = {}
    for words in commands("make demo"):
        at = words.index("make")
        given = dict(word.split("=", 1) for word in words[:at])
        (args, *rest) = [*words[at + 2 :], "ARGS="]
        assert words[at + 1] == "demo"
        assert rest in ([], ["ARGS="])
        pairs = shlex.split(args.removeprefix("ARGS="))
        for target, named in ((environment, given), (options, _pairs(pairs))):
            assert not target.keys() & named.keys()
            target.update(named)
    return Asked(environment=environment, options=options)


def _pairs(words: list[str]) -> dict[str, str]:
    """An option and its value; a flag has an empty one."""
    return {
        word: "" if value.startswith("--") else value
        for word, value in pairwise([*words, "--"])
        if word.startswith("--")
    }


def fates(demo: Demo) -> dict[str, int]:
    """Messages with a fate, by cluster."""
    return {
        cluster.name: sum(
            count or 0
            for worker in demo.dashboard(cluster.name)["workers"]
            for count in worker["fates"].values()
        )
        for cluster in CLUSTERS
    }


def are_done(demo: Demo, total: int) -> bool:
    """Whether nothing is left over. A starved worker's message may have two fates."""
    lags = [
        row["lag"] for cluster in CLUSTERS for row in demo.dashboard(cluster.name)["partitions"]
    ]
    return min(fates(demo).values()) >= total and not any(lag != 0 for lag in lags)


def all_fates(demo: Demo, total: str) -> None:
    """The producer stores so many; each has its fate in both clusters."""
    have = until(lambda: are_done(demo, int(total)), FATES_SECONDS, poll_seconds=0.5)
    assert have, fates(demo)
    assert f"stored {total}, refused 0" in (demo.run / "logs" / "producer.log").read_text()


def partitions(demo: Demo, count: str) -> None:
    """So many on every topic and for each cluster."""
    for cluster in CLUSTERS:
        named = [row["topic"] for row in demo.dashboard(cluster.name)["partitions"]]
        assert Counter(named) == dict.fromkeys(
            filter(None, (SOURCE_TOPIC, cluster.retry_topic)), int(count)
        )
    reader = Topics(demo.brokers, "recipes")
    assert {len(reader.ends(topic)) for topic in TOPICS} == {int(count)}


def slow_messages(demo: Demo, percent: str) -> None:
    """About every fifth of the messages asks for long; one of them at least times out."""
    values = [
        json.loads(one.value() or b"") for one in Topics(demo.brokers, "r").read(SOURCE_TOPIC)
    ]
    slow = sum(value["repeat"] >= WAS_SLOW for value in values)
    assert 0.5 * len(values) * int(percent) / 100 <= slow <= 2 * len(values) * int(percent) / 100
    failures = 'drakkar_executor_failures_total{[^}]*kind="timeout"[^}]*}'
    assert sum(demo.metric(worker, failures) for worker in MAIN.ports) >= 1


def speed(demo: Demo, factor: str) -> None:
    """Durations are divided by it, unless a recipe sets them (see the thresholds)."""
    limit, _ = demo.setting("executor.task_timeout_seconds")
    assert float(limit) == TASK_TIMEOUT_SECONDS / float(factor)


def one_worker(demo: Demo, given: str) -> None:
    """It has its slots, the others of its cluster keep theirs; /config says that it differs."""
    worker, _, pair = given.partition(":")
    slots = int(pair.partition("=")[2])
    others = int(demo.setting("executor.max_executors")[0])
    assert slots != others
    for name in cluster_of(worker).ports:
        wanted = slots if name == worker else others
        assert demo.metric(name, "drakkar_executor_slots") == wanted
        row = re.search(rf">{name}</a></th>.*?</tr>", read(demo.page("/config?cluster=main")))
        assert row is not None
        assert ("differs" in row[0]) == (name == worker)


def session(demo: Demo, milliseconds: str) -> None:
    """In force for the workers, and for the group itself."""
    value, source = demo.setting("kafka.session_timeout_ms")
    assert (value, source) == (milliseconds, f"{MAIN.prefix}KAFKA__SESSION_TIMEOUT_MS")
    if kafka_apache.missing() is not None:
        (mock,) = [one for one in started_for(demo.run) if "--session-timeout-ms" in one.cmdline()]
        assert milliseconds in mock.cmdline()
        return
    resource = ConfigResource(ResourceType.GROUP, MAIN.group)
    client = AdminClient({"bootstrap.servers": demo.brokers})
    found = client.describe_configs([resource])[resource].result(30)
    assert found["consumer.session.timeout.ms"].value == milliseconds


def threshold(demo: Demo, value: str) -> None:
    """None is what --speed would make of it."""
    for name in THRESHOLDS:
        key = f"RECORDER__{name}_MIN_DURATION_MS"
        found, source = demo.setting(key.lower().replace("__", "."))
        assert (float(found), source) == (float(value), f"{MAIN.prefix}{key}")


def fast_tasks_are_seen(demo: Demo) -> None:
    """The fastest of all stands in its worker's log, on the live page, in the history with its
    output."""
    logs = [(demo.run / "logs" / f"{name}.log").read_text() for name in MAIN.ports]
    lines = [json.loads(line) for log in logs for line in log.splitlines() if line[0] == "{"]
    done = [line for line in lines if line["event"] == "task_completed" and line["stdout_size"]]
    fastest = min(done, key=lambda line: float(line["duration_ms"]))
    assert fastest["duration_ms"] < MAIN.thresholds_ms
    completed = sum(row["tasks_completed"] for row in demo.dashboard(MAIN.name)["workers"])
    assert sum(line["event"] == "task_completed" for line in lines) == completed
    is_stored = partial(has_output, demo, fastest["task_id"], fastest["stdout_size"])
    assert until(is_stored, FLUSH_SECONDS, poll_seconds=POLL_SECONDS), fastest
    shows_live(demo, fastest["task_id"])


def has_output(demo: Demo, task_id: str, size: int) -> bool:
    """Whether the history has an execution of the task with so many bytes of output."""
    told = json.loads(demo.page(f"/api/v1/tasks/{MAIN.name}/{task_id}"))
    return size in [len((one["stdout"] or "").encode()) for one in told["executions"]]


def token(demo: Demo, secret: str) -> None:
    """Both curl commands of the page work with it; nothing and another one do not."""
    curls = commands("curl ")
    assert len(curls) == 2
    for words in curls:
        assert any(secret in word for word in words)
        assert json.loads(curl(demo, words))["workers"]
        for wrong in (
            [word.replace(secret, "another") for word in words],
            [words[-1].split("?")[0]],
        ):
            with pytest.raises(urllib.error.HTTPError) as refused:
                curl(demo, wrong)
            refused.value.close()
            assert refused.value.code == 401


def curl(demo: Demo, words: list[str]) -> str:
    """What such a command would print. Raises HTTPError."""
    headers = [word for at, word in enumerate(words) if at and words[at - 1] == "-H"]
    return demo.fetch(words[-1], **dict(header.split(": ", 1) for header in headers))


def topics_are_there(demo: Demo) -> None:
    """The command for topics outside the demo finds the demo's."""
    (words,) = commands("manage.py create_topics")
    count = words[words.index("--partitions") + 1]
    done = subprocess.run(
        [sys.executable, *words],
        cwd=CHECKOUT,
        env={**os.environ, f"{MAIN.prefix}KAFKA__BROKERS": demo.brokers},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said = [f"{topic}: there, {count} partitions" for topic in TOPICS if topic != "symbol-counts"]
    assert (done.returncode, sorted(done.stdout.splitlines())) == (0, sorted(said)), done.stderr


def full(demo: Demo, _: str) -> None:
    """Every address of the table is there for people who log in, and not open without."""
    known = requests.Session()
    rows = demo.table()
    for url, what in rows:
        bare = requests.get(url, timeout=ASK_SECONDS)
        assert bare.status_code == (401 if re.search("Authorization|browser", what) else 200), url
        answer = known.get(url, auth=basic(what), timeout=ASK_SECONDS)
        assert (answer.status_code, "/login" in answer.url) == (200, False), url
    status = demo.status()
    found = re.search(r" port ([\d,]+) ", status.get("browsers", ""))
    assert found is not None, status
    shown = {f"http://127.0.0.1:{port}/" for port in found[1].split(",")}
    assert shown == {
        url for url, what in rows if re.search("browser|topics|leads to its page", what)
    }
    assert [what for _, what in rows if NO_KAFKA_UI in what]
    if shutil.which("prometheus"):
        scraped(demo)


def basic(what: str) -> tuple[str, str] | None:
    """The login that a row of the table names, where a browser would ask for it itself."""
    found = re.search(r"browser.*; (\S+) / (\S+)$", what)
    return (found[1], found[2]) if found else None


def scraped(demo: Demo) -> None:
    """Prometheus reaches every process of ours that has metrics."""
    names = ("web", "controller", *WORKER_PORTS)
    wanted = {f"127.0.0.1:{demo.port(name)}": "up" for name in names}
    are_up = until(lambda: targets(demo) == wanted, SCRAPE_SECONDS, poll_seconds=POLL_SECONDS)
    assert are_up, targets(demo)


def targets(demo: Demo) -> dict[str, str]:
    """Prometheus' targets: the state of each, or what is wrong with it."""
    url = f"http://127.0.0.1:{demo.port('prometheus')}/api/v1/targets"
    found = requests.get(url, timeout=ASK_SECONDS).json()["data"]["activeTargets"]
    return {urlsplit(one["scrapeUrl"]).netloc: one["lastError"] or one["health"] for one in found}


def shows_live(demo: Demo, task_id: str) -> None:
    """The live socket has the success among the latest events. Raises TimeoutError."""
    query = urlencode({"token": demo.token, "cluster": MAIN.name, "recent": 1})
    with connect(f"ws://127.0.0.1:{demo.port('web')}/ws/live?{query}", max_size=None) as socket:
        shown: set[tuple[str, str | None]] = set()
        while ("task_completed", task_id) not in shown:
            frame = json.loads(socket.recv(timeout=ASK_SECONDS))
            assert frame["type"] != "state", f"the latest events are without {task_id}"
            shown |= {(event["kind"], event["task_id"]) for event in frame["events"]}
            socket.send(json.dumps({"ack": frame["n"]}))


def owners(demo: Demo) -> dict[int, str]:
    """Who owns the partitions of ``main``, as the page says; a lost worker has none."""
    rows = demo.dashboard(MAIN.name)["partitions"]
    return {row["partition"]: row["owner"] for row in rows if row["topic"] == SOURCE_TOPIC}


def the_dead_keep_their_partitions(demo: Demo) -> None:
    """Past every session timeout but the recipe's, nobody has taken over from a killed worker."""
    found = re.search(r" pid (\d+)", demo.status()[FAULTY_WORKER])
    assert found is not None
    held = {number for number, owner in owners(demo).items() if owner == FAULTY_WORKER}
    assert held
    os.kill(int(found[1]), signal.SIGKILL)
    is_taken = partial(have_an_heir, demo, held)
    assert not until(is_taken, 1.2 * SESSION_TIMEOUT_MS / 1000, poll_seconds=POLL_SECONDS)


def have_an_heir(demo: Demo, held: set[int]) -> bool:
    """Whether somebody else owns one of the partitions that the killed worker held."""
    found = owners(demo)
    return any(found.get(number, FAULTY_WORKER) != FAULTY_WORKER for number in held)


CHECKS: dict[str, Callable[[Demo, str], None]] = {
    "TOTAL_MESSAGES": all_fates,
    "--partitions": partitions,
    "--slow-percent": slow_messages,
    "--speed": speed,
    "--env": one_worker,
    "--full": full,
    f"{MAIN.prefix}KAFKA__SESSION_TIMEOUT_MS": session,
    **{f"{MAIN.prefix}RECORDER__{name}_MIN_DURATION_MS": threshold for name in THRESHOLDS},
    "DRAKKAR_SITE__AUTH_TOKEN": token,
}
"""By the option or variable of a recipe: its effect. What needs all fates comes after the first."""


@contextmanager
def demo_of(recipes: Asked, folder: Path) -> Iterator[Demo]:
    """All of them in one ``make demo``; nothing of it stays."""
    with run_folder(folder) as run:
        demo = Demo(run, recipes, folder / "up.log")
        demo.wait_until_up()
        yield demo
        demo.stop()


@pytest.mark.slow
@pytest.mark.timeout(START_SECONDS + FATES_SECONDS + 2 * STOP_SECONDS)
def test_the_recipes_of_the_page_have_their_effects(tmp_path: Path) -> None:
    require("postgres")
    recipes = asked()
    given = {**recipes.environment, **recipes.options}
    assert given.keys() == CHECKS.keys()
    with demo_of(recipes, tmp_path) as demo:
        for name, check in CHECKS.items():
            check(demo, given[name])
        fast_tasks_are_seen(demo)
        topics_are_there(demo)
        the_dead_keep_their_partitions(demo)
    require("promtool")  # without it all but Prometheus was looked at


def test_thresholds_in_the_file_are_those_of_the_environment(tmp_path: Path) -> None:
    (block,) = [block for language, block in BLOCK.findall(TEXT) if language == "yaml"]
    config = yaml.safe_load((CHECKOUT / "drakkar.yaml").read_text())
    path = tmp_path / "drakkar.yaml"
    found = []
    for added in (dict[str, Any](), yaml.safe_load(block)):
        config["clusters"][MAIN.name] |= added
        path.write_text(yaml.safe_dump(config))
        loaded = load({"DRAKKAR_CONFIG": str(path)}).config
        assert loaded is not None
        recorder = loaded.clusters[MAIN.name].recorder
        found.append([getattr(recorder, f"{name.lower()}_min_duration_ms") for name in THRESHOLDS])
    assert found[1] == [0, 0, 0, 0] != found[0]


def test_compose_knows_the_variables_of_the_page() -> None:
    (words,) = commands("docker compose")
    names = {word.partition("=")[0] for word in words[: words.index("docker")]}
    text = (CHECKOUT / words[words.index("-f") + 1]).read_text()
    assert names == set(re.findall(r"\$\{(PARTITIONS|TOTAL_MESSAGES|SLOW_PERCENT):-", text))
