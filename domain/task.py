"""Tasks that a handler asks to be run, and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from operator import index
from typing import Any

from domain.text_bounds import TextBounds, finite, number, plain_text, shown

MAX_TEXT_BYTES = 128 * 1024 - 1
MAX_SECONDS = 10 * 366 * 24 * 3600
"""Longest time limit of a task, its CPU time and wait before a retry, about ten years."""
MAX_LIMIT = 2**63 - 1
"""Largest of the other limits: the kernel takes no larger number."""
MAX_NAME_BYTES = 255
"""Bytes of the longest key or group of a task, as UTF-8."""
MIN_CPUS, MAX_CPUS = 0.01, 10_000.0
"""Bounds of ``Limits.cpu_quota``: the kernel gives no less than a millisecond of each tenth of a
second."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Resource limits of a task; None leaves a resource unlimited.

    Of each process: ``cpu_seconds``, ``open_files``, ``file_bytes``. Of all processes of the task
    together where it has a cgroup: ``memory_bytes``, ``processes``, ``cpu_quota`` (CPUs at a time).
    Elsewhere the first of these is each process's address space, the second counts all processes
    of the worker's user, and the third is not in force.
    """

    cpu_seconds: int | None = None
    memory_bytes: int | None = None
    open_files: int | None = None
    file_bytes: int | None = None
    processes: int | None = None
    cpu_quota: float | None = None


_WHOLE_LIMITS = tuple(x.name for x in fields(Limits) if x.name != "cpu_quota")


@dataclass(frozen=True, slots=True, kw_only=True)
class Precomputed:
    """A result that needs no process: the task takes no slot and starts nothing."""

    stdout: bytes = b""
    stderr: bytes = b""
    exit_code: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """One run of the program.

    ``id`` and ``parent_id`` are the framework's (``partition:offset:n``); what a handler puts there
    is overwritten. ``source_offsets`` names the messages of the same ``arrange`` call that the task
    serves; it may be left out when the call had one message. ``args`` are passed without a shell.
    Tasks of one ``key`` run one after another in the order of their messages; None: in no order.
    ``group`` names whom the task is for (a tenant), among whom slots are shared; None: nobody.
    """

    args: Sequence[str] = ()
    stdin: bytes = b""
    env: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    metadata: Any = None
    binary: str | None = None
    timeout_seconds: float | None = None
    limits: Limits | None = None
    priority: float | None = None
    key: str | None = None
    group: str | None = None
    source_offsets: Sequence[int] = ()
    precomputed: Precomputed | None = None
    id: str = ""
    parent_id: str = ""


def claimed_sources(task: Any) -> tuple[int, ...]:
    """Return the source offsets that a handler's task names. Raises TypeError."""
    if not isinstance(task, Task):
        raise TypeError(f"expected tasks, got {type(task).__name__}")
    try:
        return tuple(map(index, task.source_offsets))
    except TypeError:
        got = shown(task.source_offsets)
        raise TypeError(f"source_offsets: expected whole numbers, got {got}") from None


def accepted(
    task: Any,
    bounds: TextBounds,
    *,
    task_id: str = "",
    parent_id: str = "",
    source_offsets: Sequence[int] | None = None,
    in_place_of: Task | None = None,
) -> Task:
    """Return the task in the framework's own form, which every executor takes and nobody changes.

    One ``in_place_of`` another has its key, and its group unless it names one. Key and group stand
    among the labels, by these names unless the handler has others there.

    Raises TypeError or ValueError naming the field that no executor could take. Handlers are not
    type-checked at run time, and a task that breaks the executor would break it again in the next
    worker. ``str`` and ``bytes`` come out exact: whatever inherits from them is made plain.
    """
    sources = claimed_sources(task) if source_offsets is None else source_offsets
    key = None if task.key is None else _name("key", task.key)
    group = None if task.group is None else _name("group", task.group)
    if in_place_of is not None:
        # With another key it would wait for tasks that may wait for the one it replaces.
        key, group = in_place_of.key or key, group or in_place_of.group
    labels = bounds.labels(task.labels)
    if key is not None:
        labels.setdefault("key", key)
    if group is not None:
        labels.setdefault("group", group)
    return Task(
        args=_args(task.args),
        stdin=_bytes("stdin", task.stdin),
        env=_env(task.env),
        labels=labels,
        metadata=task.metadata,
        binary=None if task.binary is None else _text("binary", task.binary),
        timeout_seconds=_timeout(task.timeout_seconds),
        limits=None if task.limits is None else _limits(task.limits),
        priority=_priority(task.priority),
        key=key,
        group=group,
        source_offsets=sources,
        precomputed=None if task.precomputed is None else _precomputed(task.precomputed),
        id=task_id,
        parent_id=parent_id,
    )


def _args(given: Any) -> tuple[str, ...]:
    if type(given) is tuple and not given:
        return ()
    if isinstance(given, str | bytes | bytearray) or not isinstance(given, Sequence):
        raise TypeError(f"args: expected a list of texts, got {shown(given)}")
    return tuple(_text(f"args[{place}]", arg) for place, arg in enumerate(given))


def _env(given: Any) -> dict[str, str]:
    if type(given) is dict and not given:
        return {}
    if not isinstance(given, Mapping):
        raise TypeError(f"env: expected a mapping, got {shown(given)}")
    env = {}
    for name, value in given.items():
        sound = _text("env: a name", name)
        if not sound or "=" in sound:
            raise ValueError(f"env: expected names without '=', got {shown(sound)}")
        env[sound] = _text(f"env[{shown(sound)}]", value)
    return env


def _text(name: str, given: Any) -> str:
    """Return the text that a process can be given."""
    text = plain_text(given)
    if text is None:
        raise TypeError(
            f"{name}: expected text (str, StrEnum or Path), got {shown(given)}; write str(...)"
        )
    size = len(text)
    if not text.isascii():
        try:
            size = len(text.encode("utf-8", "surrogateescape"))
        except UnicodeEncodeError:
            raise ValueError(f"{name}: expected text without lone surrogates") from None
    if size > MAX_TEXT_BYTES:
        raise ValueError(
            f"{name}: expected at most {MAX_TEXT_BYTES:,} bytes, Linux's limit for one argument, "
            f"got {size:,}; stdin has none"
        )
    if "\0" in text:
        raise ValueError(f"{name}: expected text without NUL, got {shown(text)}")
    return text


def _name(field_name: str, given: Any) -> str:
    """Return the text that tells tasks apart: within the bounds of a beat, an event and a page."""
    text = plain_text(given)
    if text is None:
        raise TypeError(f"{field_name}: expected text or None, got {shown(given)}; write str(...)")
    try:
        size = len(text.encode())
    except UnicodeEncodeError:
        raise ValueError(f"{field_name}: expected text without lone surrogates") from None
    if not 0 < size <= MAX_NAME_BYTES:
        raise ValueError(
            f"{field_name}: expected 1 to {MAX_NAME_BYTES} bytes of UTF-8 or None, got {size:,}"
        )
    if "\0" in text:
        raise ValueError(f"{field_name}: expected text without NUL, got {shown(text)}")
    return text


def _bytes(name: str, given: Any) -> bytes:
    if type(given) is bytes:
        return given
    if isinstance(given, bytes | bytearray | memoryview):
        return bytes(given)
    hint = "; write text.encode()" if isinstance(given, str) else ""
    raise TypeError(f"{name}: expected bytes, got {type(given).__name__}{hint}")


def _timeout(given: Any) -> float | None:
    if given is None:
        return None
    seconds = finite(given)
    if seconds is None or not 0 < seconds <= MAX_SECONDS:
        raise ValueError(
            f"timeout_seconds: expected more than 0, at most {MAX_SECONDS:,}, or None, "
            f"got {shown(given)}"
        )
    return seconds


def _priority(given: Any) -> float | None:
    if given is None:
        return None
    found = number(given)
    if found is None:
        raise ValueError(f"priority: expected a number or None, got {shown(given)}")
    return found


def _limits(given: Any) -> Limits:
    if not isinstance(given, Limits):
        raise TypeError(f"limits: expected Limits, got {type(given).__name__}")
    whole = {name: _limit(name, getattr(given, name)) for name in _WHOLE_LIMITS}
    return Limits(**whole, cpu_quota=_cpu_quota(given.cpu_quota))


def _limit(name: str, given: Any) -> int | None:
    if given is None:
        return None
    # Of more CPU time the kernel makes nanoseconds that overflow, and ends the program at once.
    largest = MAX_SECONDS if name == "cpu_seconds" else MAX_LIMIT
    if not isinstance(given, int) or not 0 <= given <= largest:
        raise ValueError(
            f"limits.{name}: expected a whole number from 0 to {largest}, got {shown(given)}"
        )
    return int(given)


def _cpu_quota(given: Any) -> float | None:
    if given is None:
        return None
    cpus = finite(given)
    if cpus is None or not MIN_CPUS <= cpus <= MAX_CPUS:
        raise ValueError(
            f"limits.cpu_quota: expected a number of CPUs from {MIN_CPUS} to {MAX_CPUS:,.0f}, "
            f"got {shown(given)}"
        )
    return cpus


def _precomputed(given: Any) -> Precomputed:
    if not isinstance(given, Precomputed):
        raise TypeError(f"precomputed: expected Precomputed, got {type(given).__name__}")
    code: Any = given.exit_code
    if not isinstance(code, int) or not -(2**31) <= code < 2**31:
        raise ValueError(
            f"precomputed.exit_code: expected a whole number of 32 bits, got {shown(code)}"
        )
    return Precomputed(
        stdout=_bytes("precomputed.stdout", given.stdout),
        stderr=_bytes("precomputed.stderr", given.stderr),
        exit_code=int(code),
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Account by the kernel of one process and the children it waited for, ``max_rss_bytes`` being
    the largest of them; where the task had a cgroup, of all its processes together, with memory
    that is no process's own (page cache, kernel) in it."""

    user_cpu_seconds: float = 0.0
    system_cpu_seconds: float = 0.0
    max_rss_bytes: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """Output and end of one attempt of a task. ``started_at`` is UTC epoch seconds.

    ``truncated`` says that stderr had its middle cut out. ``pid`` is None for a precomputed task.
    Where the spawner died with the program (``lost``) output is empty and usage 0: unknown.
    """

    task: Task
    exit_code: int
    stdout: bytes
    stderr: bytes
    started_at: float
    duration_seconds: float
    pid: int | None
    usage: Usage
    truncated: bool
    attempt: int

    @property
    def stdout_text(self) -> str:
        """stdout as UTF-8, undecodable bytes replaced."""
        return self.stdout.decode("utf-8", "replace")

    @property
    def stderr_text(self) -> str:
        """stderr as UTF-8, undecodable bytes replaced."""
        return self.stderr.decode("utf-8", "replace")
