"""Seam of all sinks: synchronous, called by its lane's own thread only.

SinkError
+-- TransientError   the sink or the way to it is ill: wait, retry, count for the breaker
+-- ConfigError      credentials, missing table or topic: waits like a transient one, with an alarm
+-- PermanentError   the data is refused: the lane narrows the batch to the bad payload
+-- UnknownError     no table says whose fault it is: narrowed, and judged by what else is stored

Any other exception of ``encode`` is the payload's (permanent); of ``send`` it is an UnknownError.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Protocol, runtime_checkable

from domain.payload import Payload
from domain.value import value

SHOWN_ERRORS = 3
UNKNOWN_BYTES = 4096
"""Counted for a value that cannot be shown."""


class SinkError(Exception):
    """Base of what a sink may raise; the text says what happened and what to do.

    ``stored_indices`` names payloads of the batch that were stored before an error that is not
    permanent, where the driver knows: they are not sent again.
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
    """Raised for a batch with a payload that will never be stored.

    ``bad_indices``, when the driver tells, names the payloads of the batch that were refused; all
    others of that batch were stored. Without it, nothing of the batch was stored.
    """

    def __init__(self, detail: str, bad_indices: Sequence[int] = ()) -> None:
        super().__init__(detail)
        self.bad_indices = tuple(bad_indices)


class UnknownError(SinkError):
    """Nobody knows whether server or data caused it; told as a fault of ours or of the driver."""

    def __init__(self, detail: str, stored_indices: Sequence[int] = ()) -> None:
        super().__init__(detail)
        self.stored_indices = tuple(stored_indices)


def raise_failures(failures: Mapping[int, SinkError], stored_indices: Sequence[int]) -> None:
    """Raise what a batch's failed payloads amount to, by their place in it; nothing if none failed.

    What waits goes before what is unknown, and that before what is refused: the refused ones are
    refused again next time.
    ``stored_indices`` are those known to be stored.
    """
    errors = [failures[index] for index in sorted(failures)]
    if config := [error for error in errors if isinstance(error, ConfigError)]:
        raise ConfigError(_joined(config), stored_indices)
    if waiting := [error for error in errors if isinstance(error, TransientError)]:
        raise TransientError(_joined(waiting), stored_indices=stored_indices)
    if unknown := [error for error in errors if isinstance(error, UnknownError)]:
        raise UnknownError(_joined(unknown), stored_indices)
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


def repetition_id(delivery: Delivery, place: str = "") -> str:
    """Return the id by which others are to know a repetition: the delivery id.

    One ``delivery_key`` may go to several sinks, and to several places of one: with a key, the sink
    and the ``place`` follow.
    """
    payload = delivery.payload
    if payload.delivery_key is None:
        return delivery.delivery_id
    return f"{delivery.delivery_id}@{payload.sink}" + (f"/{place}" if place else "")


@runtime_checkable
class Sink(Protocol):
    """A place that stores payloads of one kind.

    All methods run on the lane's thread, never concurrently; every driver call has a timeout. What
    one sink encoded may be sent by another of the same lane.
    """

    kind: ClassVar[str]

    def open(self) -> None:
        """Connect. Raises TransientError or ConfigError."""

    def encode(self, delivery: Delivery) -> Any:
        """Return what ``send`` takes of one payload; touches nothing outside of it.

        Whatever it raises is the payload's own permanent fault; PermanentError names the field.
        """

    def send(self, batch: Sequence[Any]) -> None:
        """Store all of it. Raises TransientError, PermanentError, ConfigError or UnknownError."""

    def close(self) -> None:
        """Release everything; never raises."""


def refusal(field: str, error: BaseException) -> PermanentError:
    """Return the permanent fault of a payload whose ``field`` cannot be encoded."""
    if isinstance(error, PermanentError):
        return error
    return PermanentError(f"{field}: cannot be encoded: {type(error).__name__}: {error}")


def size_bytes(payload: Payload) -> int:
    """An estimate of a payload's size, for the lane's bounded queue; never raises."""
    total = 64
    for name in payload.__dataclass_fields__:
        value = getattr(payload, name)
        if isinstance(value, (bytes, str)):
            total += len(value)
        elif value is not None:
            total += _shown_length(value)
    return total


def _shown_length(value: Any) -> int:
    try:
        return len(repr(value))
    except Exception:  # noqa: BLE001 - too deep, or a handler's own object: encoding refuses it
        return UNKNOWN_BYTES
