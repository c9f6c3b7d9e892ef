"""The seam of all sinks: synchronous, called by its lane's own thread only.

SinkError
+-- TransientError   the sink or the way to it is ill: wait, retry, count for the breaker
+-- ConfigError      credentials, missing table or topic: waits like a transient one, with an alarm
+-- PermanentError   the data is refused: the lane narrows the batch to the bad payload
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar, Protocol, runtime_checkable

from domain.payload import Payload
from domain.value import value

SHOWN_ERRORS = 3


class SinkError(Exception):
    """Base of what ``open`` and ``deliver`` may raise; the text says what happened and what to do.

    ``stored_indices`` names payloads of the batch that were stored before a transient or config
    error, where the driver knows: they are not delivered again.
    """

    stored_indices: tuple[int, ...] = ()


class TransientError(SinkError):
    """Infrastructure: may work later. ``retry_after_seconds`` is the server's own wish, if any."""

    def __init__(
        self,
        detail: str,
        retry_after_seconds: float | None = None,
        stored_indices: Sequence[int] = (),
    ) -> None:
        super().__init__(detail)
        self.retry_after_seconds = retry_after_seconds
        self.stored_indices = tuple(stored_indices)


class ConfigError(SinkError):
    """Waits like a transient error until an operator mends it; never dead-lettered."""

    def __init__(self, detail: str, stored_indices: Sequence[int] = ()) -> None:
        super().__init__(detail)
        self.stored_indices = tuple(stored_indices)


class PermanentError(SinkError):
    """The batch holds a payload that will never be stored.

    ``bad_indices``, when the driver tells, names the payloads of the batch that were refused; all
    others of that batch were stored. Without it, nothing of the batch was stored.
    """

    def __init__(self, detail: str, bad_indices: Sequence[int] = ()) -> None:
        super().__init__(detail)
        self.bad_indices = tuple(bad_indices)


def raise_failures(failures: Mapping[int, SinkError], stored_indices: Sequence[int]) -> None:
    """Raise what a batch's failed payloads amount to, by their place in it; nothing if none failed.

    What waits goes before what is refused: the refused ones are refused again next time.
    ``stored_indices`` are those known to be stored.
    """
    errors = [failures[index] for index in sorted(failures)]
    waiting = [error for error in errors if not isinstance(error, PermanentError)]
    config = [error for error in waiting if isinstance(error, ConfigError)]
    if config:
        raise ConfigError(_joined(config), stored_indices)
    if waiting:
        raise TransientError(_joined(waiting), stored_indices=stored_indices)
    if failures:
        raise PermanentError(_joined(errors), bad_indices=sorted(failures))


def _joined(errors: Sequence[SinkError]) -> str:
    more = len(errors) - SHOWN_ERRORS
    text = "; ".join(str(error) for error in errors[:SHOWN_ERRORS])
    return f"{text}; and {more} more" if more > 0 else text


@value(frozen=True, slots=True, kw_only=True)
class Delivery:
    """One payload on its way: stamped with its identity by the router."""

    payload: Payload
    delivery_id: str
    topic: str
    partition: int
    offset: int
    task_id: str | None = None
    traceparent: str | None = None


@runtime_checkable
class Sink(Protocol):
    """A place that stores payloads of one kind.

    ``open`` connects and verifies; ``deliver`` stores the whole batch or raises a ``SinkError``;
    every driver call has a timeout. All three run on the lane's thread, never concurrently.
    """

    kind: ClassVar[str]

    def open(self) -> None:
        """Connect. Raises TransientError or ConfigError."""

    def deliver(self, batch: Sequence[Delivery]) -> None:
        """Store all of it. Raises TransientError, PermanentError or ConfigError."""

    def close(self) -> None:
        """Release everything; never raises."""


def size_bytes(payload: Payload) -> int:
    """An estimate of a payload's size, for the lane's bounded queue."""
    total = 64
    for name in payload.__dataclass_fields__:
        value = getattr(payload, name)
        if isinstance(value, (bytes, str)):
            total += len(value)
        elif value is not None:
            total += len(repr(value))
    return total
