"""Which cgroup is ours, and how limits are split: on texts and folders made by hand."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import pytest

from domain.task import MAX_CPUS, MIN_CPUS, Limits, Task, accepted
from domain.text_bounds import TextBounds
from workers.executor.base import Launch
from workers.executor.bounding import Bounding
from workers.executor.cgroups import (
    MAX_CHARACTERS,
    WORKER_LEAF,
    Cgroups,
    Hierarchy,
    Refused,
    Unfit,
    find_base,
    find_hierarchy,
    mounts_of,
    prepare,
)
from workers.executor.ending import exit_of_ended
from workers.executor.frames import ENDED, EXITED, TIMED_OUT
from workers.executor.task_cgroup import (
    NO_OOM,
    OOM_ABOVE,
    OOM_OF_TASK,
    Bounds,
    TaskCgroup,
    figures,
    oom_of,
)

CGROUP2 = "cgroup2 cgroup2 rw,nsdelegate"
MEMORY, PIDS, CPU = "memory", "pids", "cpu"


def proc(tmp_path: Path, own: str, *mounts: str) -> Path:
    tmp_path.mkdir(exist_ok=True)
    (tmp_path / "cgroup").write_text(f"4:memory:/v1\n0::{own}\n")
    (tmp_path / "mountinfo").write_text("".join(f"{line}\n" for line in mounts))
    return tmp_path


def mount(
    point: Path | str, root: str = "/", options: str = "rw,nosuid", kind: str = CGROUP2
) -> str:
    return f"35 24 0:29 {root} {point} {options} shared:9 - {kind}"


@pytest.mark.parametrize(
    ("own", "root", "below"),
    [
        ("/", "/", "."),
        ("/system.slice/w.service", "/", "system.slice/w.service"),
        ("/docker/1/inner", "/docker/1", "inner"),
        ("/docker/1", "/docker/1", "."),
    ],
)
def test_our_cgroup_is_found_below_its_mount(
    tmp_path: Path, own: str, root: str, below: str
) -> None:
    found = find_hierarchy(proc(tmp_path, own, mount("/sys/fs/cgroup", root)))
    assert found.own == Path("/sys/fs/cgroup") / below
    assert found.is_namespace_root == (root == "/")


@pytest.mark.parametrize(
    ("own", "lines", "reason"),
    [
        ("/a", (), "cgroup v2 is not mounted"),
        ("/a", (mount("/c", kind="cgroup cgroup rw,memory"),), "cgroup v2 is not mounted"),
        ("/a", (mount("/c", options="ro,nosuid"),), "cgroup v2 is mounted read-only at /c"),
        ("/a", (mount("/c", kind="cgroup2 cgroup2 ro"),), "cgroup v2 is mounted read-only at /c"),
        ("/a", (mount("/c", root="/ab"),), "mounted at /c, but our own cgroup is not in it"),
        ("/../a", (mount("/c"),), "mounted at /c, but our own cgroup is not in it"),
        ("/a", (mount("/c", root="/.."),), "mounted at /c, but our own cgroup is not in it"),
    ],
)
def test_without_a_mount_of_ours_the_reason_is_told(
    tmp_path: Path, own: str, lines: tuple[str, ...], reason: str
) -> None:
    found = prepare(proc=proc(tmp_path, own, *lines))
    assert isinstance(found, Refused)
    assert found.reason.endswith(reason)
    assert str(found) == f"none: {found.reason}"


def test_a_process_in_no_cgroup_v2_is_told_so(tmp_path: Path) -> None:
    (tmp_path / "cgroup").write_text("4:memory:/v1\n")
    assert prepare(proc=tmp_path) == Refused("this process is in no cgroup v2")
    assert "No such file" in str(prepare(proc=tmp_path / "absent"))
    assert len(str(Refused("x" * 999))) == MAX_CHARACTERS


def test_escapes_of_a_mount_point_are_undone() -> None:
    ((_, point, _),) = mounts_of(mount(r"/a\040b\134c") + "\n")
    assert point == Path("/a b\\c")


def cgroup(path: Path, *, attribute: str = "") -> Path:
    path.mkdir(parents=True)
    for name in ("cgroup.type", "cgroup.procs", "cgroup.subtree_control"):
        (path / name).write_text("domain\n" if name == "cgroup.type" else "")
    if attribute:
        os.setxattr(path, "user.delegate", attribute.encode())
    return path


def seen(top: Path, own: Path, *, is_root: bool = False) -> Hierarchy:
    return Hierarchy(mount=top, own=own, is_namespace_root=is_root)


def refusal(hierarchy: Hierarchy) -> str:
    with pytest.raises(Unfit) as caught:
        find_base(hierarchy)
    return str(caught.value)


@pytest.fixture
def top(tmp_path: Path) -> Path:
    """A mount: its root is the machine's, which has no type."""
    made = cgroup(tmp_path / "top")
    (made / "cgroup.type").unlink()
    try:
        os.setxattr(made, "user.probe", b"1")
    except OSError as exc:
        pytest.skip(f"{tmp_path}: keeps no attributes of users ({exc})")
    return made


@pytest.mark.skipif(os.geteuid() != 0, reason="of an ordinary user's folder the owner delegates")
def test_only_what_was_delegated_is_taken(top: Path) -> None:
    service = cgroup(top / "system.slice" / "w.service", attribute="1")
    assert find_base(seen(top, service)) == service
    inner = cgroup(service / "inner")
    assert find_base(seen(top, inner)) == service, "DelegateSubgroup="
    deeper = cgroup(inner / "deeper")
    assert "not delegated" in refusal(seen(top, deeper))
    leaf = cgroup(service / WORKER_LEAF)
    assert find_base(seen(top, leaf)) == service, "another worker moved us there"
    for text in ("0", "yes", ""):
        other = cgroup(top / f"of-{text}.service", attribute=text)
        assert "not delegated" in refusal(seen(top, other))
    assert "root cgroup" in refusal(seen(top, top, is_root=True)), "whoever mounts it"


def test_the_root_of_our_own_namespace_is_ours(tmp_path: Path) -> None:
    container = cgroup(tmp_path / "container")
    assert find_base(seen(container, container, is_root=True)) == container
    leaf = cgroup(container / WORKER_LEAF)
    assert find_base(seen(container, leaf, is_root=True)) == container


@pytest.mark.parametrize(
    ("events", "expected"),
    [
        ("low 0\nmax 12\noom 1\noom_kill 3\noom_group_kill 1\n", OOM_OF_TASK),
        ("max 0\noom 0\noom_kill 1\n", OOM_ABOVE),
        ("max 99\noom 2\noom_kill 0\n", NO_OOM),
        ("", NO_OOM),
        ("oom_kill many\nsome words here\n", NO_OOM),
    ],
)
def test_a_kill_for_want_of_memory_is_told_with_its_limit(events: str, expected: int) -> None:
    assert oom_of(figures(events.encode())) == expected


def test_bounds_are_written_as_the_kernel_reads_them(tmp_path: Path) -> None:
    names = ("memory.oom.group", "memory.max", "pids.max", "cpu.max")
    for name in names:
        (tmp_path / name).write_text("")
    fd = os.open(tmp_path, os.O_RDONLY)
    try:
        TaskCgroup("x", fd).bound(Bounds(1 << 20, 0, 0.001))
    finally:
        os.close(fd)
    found = [(tmp_path / name).read_text() for name in names]
    assert found == ["1", str(1 << 20), "1", "1000 100000"], "the program itself, and a millisecond"


def cgroups(tmp_path: Path, *controllers: str) -> Cgroups:
    return Cgroups(tmp_path, tmp_path, frozenset(controllers), frozenset(controllers), -1, 0)


ALL = Limits(cpu_seconds=1, memory_bytes=2, open_files=3, file_bytes=4, processes=5, cpu_quota=0.5)


def test_each_limit_is_set_once_by_whoever_can(tmp_path: Path) -> None:
    full = Bounding("limited", cgroups(tmp_path, MEMORY, PIDS, CPU))
    assert full.of(ALL) == ((1, None, 3, 4, None), (2, 5, 0.5))
    assert full.of(Limits(memory_bytes=2)) == (None, (2, None, None))
    assert full.of(Limits(open_files=3)) == ((None, None, 3, None, None), None)
    assert full.of(None) == full.of(Limits()) == (None, None)
    partly = Bounding("limited", cgroups(tmp_path, PIDS))
    assert partly.of(ALL) == ((1, 2, 3, 4, None), (None, 5, None))
    assert partly.of(Limits(memory_bytes=2)) == ((None, 2, None, None, None), None)
    none = Bounding("limited", None)
    assert none.of(ALL) == ((1, 2, 3, 4, 5), None)
    every = Bounding("all", cgroups(tmp_path, MEMORY))
    assert every.of(None) == every.of(Limits()) == (None, (None, None, None))
    assert Bounding("off", cgroups(tmp_path, MEMORY)).of(ALL) == ((1, 2, 3, 4, 5), None)


def test_a_quota_that_nothing_bounds_is_warned_of_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    bounding = Bounding("limited", cgroups(tmp_path, MEMORY))
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            bounding.of(Limits(cpu_quota=0.5))
            bounding.of(None)
    assert [line.getMessage().split(":")[0] for line in caplog.records] == [
        "cpu_quota is not in force"
    ]


@pytest.mark.parametrize("given", [0, -1, MIN_CPUS / 2, MAX_CPUS * 2, float("nan"), "1", []])
def test_a_quota_out_of_range_is_named(given: object) -> None:
    task = Task(limits=Limits(cpu_quota=given))  # type: ignore[arg-type]
    with pytest.raises(
        ValueError, match=r"limits\.cpu_quota: expected a number of CPUs from 0\.01"
    ):
        accepted(task, TextBounds())


def test_a_quota_is_kept_as_a_number() -> None:
    limits = accepted(Task(limits=Limits(cpu_quota=2)), TextBounds()).limits
    assert limits is not None
    assert limits.cpu_quota == 2.0


@pytest.mark.parametrize(
    ("reason", "code", "oom", "failure", "words"),
    [
        (EXITED, -9, OOM_OF_TASK, "oom", "its memory_bytes, 1,000 bytes"),
        (EXITED, -9, OOM_ABOVE, "oom", "a cgroup above the task's"),
        (EXITED, -9, NO_OOM, "signal", "SIGKILL"),
        (EXITED, -9, None, "signal", "SIGKILL"),
        (EXITED, 1, OOM_OF_TASK, "exit", "exit code 1"),
        (TIMED_OUT, -9, OOM_OF_TASK, "timeout", "no end within"),
    ],
)
def test_an_end_is_judged_by_what_its_cgroup_told(
    reason: int, code: int, oom: int | None, failure: str, words: str
) -> None:
    launch = Launch(
        task_id="", argv=("x",), env={}, stdin=b"", cwd=None, timeout_seconds=1.0,
        kill_grace_seconds=0.0, max_stdout_bytes=1, max_stderr_bytes=1,
        limits=Limits(memory_bytes=1000),
    )  # fmt: skip
    output = (b"", b"", 0, 0, False)
    used = (1.0, 2.0, 3, oom)
    ended = exit_of_ended(
        launch, (ENDED, 1, 0, 0.0, reason, code, 77, *output, 0.0, 5.0, None, *used, "")
    )
    assert ended.failure == failure
    assert words in ended.detail


def test_a_cgroup_that_a_task_made_among_ours_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / "x-y").mkdir()
    Cgroups(tmp_path, tmp_path, frozenset(), frozenset(), -1, 0).bury(3)
    assert (tmp_path / "x-y").is_dir()
