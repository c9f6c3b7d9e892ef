"""The seam between the contract suite and one kind of sink on its real server.

A kind is a file beside this one with ``CASES``; the suite finds it by itself.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules
from typing import Any, Protocol
from uuid import uuid4

import psutil

from domain.payload import Payload
from sinks.base import Delivery, Sink, SinkError
from tests.support.proxy import Proxy

SINK = "under-test"
TIMEOUT_SECONDS = 3.0
IMPATIENT_SECONDS = 1.0
"""Where the timeout is sure to pass: nothing but the wait for it is shorter."""
FREEZE_SECONDS = 5.0


class Subject(Protocol):
    """A place that stores, and how to speak of it. Delivery ids are unique in the whole session."""

    def build(self, proxy: Proxy | None = None) -> Sink:
        """A new unopened sink with ``TIMEOUT_SECONDS``, directly or by way of ``proxy``."""

    def good(self, delivery_id: str) -> Payload:
        """A payload that is stored so that ``stored`` finds it under this id."""

    def bad(self, delivery_id: str) -> Payload:
        """A payload that is refused for its data, for ever."""

    def unencodable(self, delivery_id: str, value: Any) -> Payload:
        """A payload that holds ``value``, which raises whatever it likes when it is encoded."""

    def stored(self) -> Counter[str]:
        """How often each delivery id is stored."""


class ServedSubject(Subject, Protocol):
    """A subject whose place is a server that the suite may torment."""

    def build(self, proxy: Proxy | None = None, **keys: Any) -> Sink:
        """As ``Subject.build``, with some keys of the sink's section otherwise."""

    reply_mark: bytes
    """Bytes of the answer that acknowledges a stored batch, and of no earlier answer once a batch
    was delivered over the same connection."""

    def proxy(self) -> Proxy:
        """A new proxy before the server, for the caller to close."""

    def freeze(self) -> None:
        """The server hangs (SIGSTOP)."""

    def thaw(self) -> None:
        """Take back ``freeze``."""

    def stop(self) -> None:
        """The server is gone; connections to it are refused."""

    def start(self) -> None:
        """The server is back at the same address."""


@dataclass(frozen=True, slots=True)
class Row:
    """A row of a kind's error table: what provokes it on a subject, and the class it must have."""

    name: str
    expected: type[SinkError]
    provoke: Callable[[Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One way to run the suite. ``service`` is what ``tests.support.services`` must find.

    ``has_server`` says that ``start`` gives a ``ServedSubject``; ``refuses`` that it knows bad
    payloads; ``repeats`` that a redelivery may be stored again, under the equal delivery id.
    """

    name: str
    start: Callable[[Path], AbstractContextManager[Any]]
    service: str | None = None
    has_server: bool = True
    refuses: bool = True
    repeats: bool = False
    rows: tuple[Row, ...] = ()


class Raising(Mapping[str, Any]):
    """A handler's own object that raises when somebody looks into it."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    def __getitem__(self, name: str) -> Any:
        raise self._error

    def __iter__(self) -> Iterator[str]:
        raise self._error

    def __len__(self) -> int:
        return 1


ENCODING_ERRORS = (
    TypeError("on purpose"),
    ValueError("on purpose"),
    OverflowError("on purpose"),
    RecursionError("on purpose"),
    UnicodeEncodeError("utf-8", "\ud800", 0, 1, "on purpose"),
    AttributeError("on purpose"),
)


def cases() -> list[Case]:
    """Of all modules beside this one."""
    package = import_module(__package__ or "")
    modules = [
        import_module(f"{package.__name__}.{m.name}") for m in iter_modules(package.__path__)
    ]
    return [case for module in modules for case in getattr(module, "CASES", ())]


def freeze(processes: Sequence[psutil.Process]) -> None:
    """SIGSTOP to each; returns when the kernel has stopped them all.

    One that was about to end may have ended meanwhile: its stopped parent does not reap it.
    """
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.suspend()
    deadline = time.monotonic() + FREEZE_SECONDS
    while not all(map(_is_still, processes)):
        if time.monotonic() > deadline:
            thaw(processes)
            raise AssertionError(f"not stopped: {processes}")
        time.sleep(0.001)


def _is_still(process: psutil.Process) -> bool:
    try:
        return process.status() in (psutil.STATUS_STOPPED, psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
    except psutil.NoSuchProcess:
        return True


def thaw(processes: Sequence[psutil.Process]) -> None:
    """Take back ``freeze``."""
    for process in processes:
        with suppress(psutil.NoSuchProcess):
            process.resume()


def delivery(payload: Payload, delivery_id: str) -> Delivery:
    """A payload on its way from an origin that does not matter."""
    return Delivery(payload=payload, delivery_id=delivery_id, topic="source", partition=0, offset=0)


def new_ids(count: int) -> list[str]:
    """Delivery ids nobody used before."""
    run = uuid4().hex[:12]
    return [f"{run}:{number}" for number in range(count)]


def good_batch(subject: Subject, count: int) -> list[Delivery]:
    """Deliveries of good payloads with new ids."""
    return [delivery(subject.good(one), one) for one in new_ids(count)]
