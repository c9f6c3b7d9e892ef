"""A message whose hook kills every worker that takes it."""

from __future__ import annotations

import json
import signal
from pathlib import Path

import pytest

from integration.services import kafka_mock
from tests.process.conftest import MakeScene
from tests.support.worker_process import delivery_ids, headers_of, until

TOPIC = "poison"
MOST_DEATHS = 9
SESSION_MS = 1500


@pytest.mark.slow
def test_the_killer_becomes_a_letter_and_all_else_is_delivered(
    make_scene: MakeScene, tmp_path: Path
) -> None:
    topics = dict.fromkeys((TOPIC, f"{TOPIC}-out", f"{TOPIC}_dlq"), 1)
    with kafka_mock.running(tmp_path / "mock", topics) as mock:
        mock.session_timeout(SESSION_MS)
        handler = "tests.support.worker_process:KillingHandler"
        scene = make_scene(brokers=mock.brokers, topic=TOPIC, cluster={"handler": handler})
        # The killer sleeps, so that its owner has said whose the partition is before it dies.
        scene.produce("echo a", "sleep 1; echo die", "echo b", "echo c")
        deaths = 0
        worker = scene.worker()
        while scene.committed() < 4:
            if worker.process.poll() is not None:
                assert worker.process.returncode == -signal.SIGKILL, worker.log[-2000:]
                deaths += 1
                assert deaths <= MOST_DEATHS, "no end of the deaths"
                worker = scene.worker()
        # Two unmarked deaths bring the guard, three marked ones the verdict.
        assert deaths >= 5
        (letter,) = scene.results(1, "dlq")
        headers = headers_of(letter)
        assert headers["drakkar-failure-kind"] == b"poison"
        assert headers["drakkar-stage"] == b"crash"
        assert headers["drakkar-origin-offset"] == b"1"
        assert json.loads(letter.value() or b"") == {"script": "sleep 1; echo die"}
        found = scene.results(3)
        by_id = dict(zip(delivery_ids(found), (one.value() for one in found), strict=True))
        assert sorted(by_id.values(), key=str) == [b"a\n", b"b\n", b"c\n"]
        worker.signal(signal.SIGTERM)
        assert worker.exit_code() == 0
        assert until(lambda: scene.committed() == 4, "the commit")
