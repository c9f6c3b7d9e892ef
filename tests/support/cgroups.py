"""Delegated cgroups for tests: as systemd makes them, by hand."""

from __future__ import annotations

import functools
import os
import select
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ordinary_user import CHECKOUT
from workers.executor.cgroups import mounts_of

ENTER = 'echo $$ > "$0/cgroup.procs" && exec "$@"'


@functools.cache
def top() -> tuple[Path | None, str]:
    """The top of a writable mount of cgroup v2; None, and why there is none."""
    if os.geteuid() != 0:
        return None, "only root makes a cgroup for the test"
    for root, mount, options in mounts_of(Path("/proc/self/mountinfo").read_text()):
        if root != "/" or "ro" in options:
            continue
        try:
            with delegated(mount):
                return mount, ""
        except OSError as exc:
            return None, f"{mount}: {exc}"
    return None, "no cgroup v2 is mounted writable"


@contextmanager
def delegated(mount: Path, name: str = "drakkar-test") -> Iterator[Path]:
    """A cgroup that says it was delegated; removed with all in it at the end."""
    base = mount / f"{name}-{os.getpid()}"
    base.mkdir()
    try:
        os.setxattr(base, "user.delegate", b"1")
        yield base
    finally:
        (base / "cgroup.kill").write_text("1")
        for folder, _, _ in os.walk(base, topdown=False):
            _remove(Path(folder))


def _remove(cgroup: Path) -> None:
    # Its processes were killed: they are gone in a moment, and the kernel says when.
    events = (cgroup / "cgroup.events").open()
    with events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            poll.poll(5000)
            events.seek(0)
    cgroup.rmdir()


def missing() -> str | None:
    """Why no cgroup can be delegated here; None when it can."""
    return None if top()[0] is not None else top()[1]


def missing_controllers() -> str | None:
    """Why tasks cannot be bounded here; None when they can."""
    mount, reason = top()
    if mount is None:
        return reason
    offered = (mount / "cgroup.controllers").read_text().split()
    lacking = [name for name in ("memory", "pids", "cpu") if name not in offered]
    return (
        f"{mount} does not offer {', '.join(lacking)} (cgroup v1 holds them)" if lacking else None
    )


def started(base: Path, scenario: str, mode: str, tier: str) -> subprocess.Popen[str]:
    """Start a scenario of ``cgroup_probe`` in a cgroup."""
    mount = str(top()[0])
    argv = [sys.executable, "-B", "-m", "tests.support.cgroup_probe", scenario, mode, tier]
    path = "/" + str(base.relative_to(mount))
    return subprocess.Popen(
        ["sh", "-c", ENTER, str(base), *argv],
        cwd=CHECKOUT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PROBED_MOUNT": mount, "PROBED_BASE": path},
    )


def probe(base: Path, scenario: str, mode: str, tier: str) -> subprocess.CompletedProcess[str]:
    """Run one to its end."""
    with started(base, scenario, mode, tier) as process:
        out, errors = process.communicate(timeout=120)
    return subprocess.CompletedProcess(process.args, process.returncode, out, errors)
