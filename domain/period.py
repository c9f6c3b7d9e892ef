"""Mark on a handler's method that makes it a periodic job. Pure: the worker runs it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

MOST_WAIT_SECONDS = 300.0
ATTRIBUTE = "drakkar_period"

HookT = TypeVar("HookT", bound=Callable[..., Any])


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """Interval of a periodic method, where it runs, and what its exception means."""

    seconds: float
    per: Literal["worker", "cluster"]
    on_error: Literal["continue", "stop"]

    def wait_seconds(self, failures: int) -> float:
        """Return the wait before the next run after so many failures in a row: it doubles, at most
        to 300 s."""
        return max(self.seconds, min(MOST_WAIT_SECONDS, self.seconds * 2.0 ** min(failures, 20)))


def periodic(
    *,
    seconds: float,
    per: Literal["worker", "cluster"] = "worker",
    on_error: Literal["continue", "stop"] = "continue",
) -> Callable[[HookT], HookT]:
    """Run a handler's method every so often; the first run is one period after the start.

    ``per="cluster"`` runs it on one worker of the cluster at a time, the holder of a Postgres
    advisory lock. Raises ValueError for bad arguments.
    """
    if seconds <= 0:
        raise ValueError(f"periodic: seconds: expected more than 0, got {seconds}")
    if per not in ("worker", "cluster"):
        raise ValueError(f"periodic: per: expected worker or cluster, got {per!r}")
    if on_error not in ("continue", "stop"):
        raise ValueError(f"periodic: on_error: expected continue or stop, got {on_error!r}")

    def mark(hook: HookT) -> HookT:
        setattr(hook, ATTRIBUTE, Period(seconds=seconds, per=per, on_error=on_error))
        return hook

    return mark


def periods(handler: object) -> dict[str, Period]:
    """Return the periodic methods of a handler, by name."""
    cls = type(handler)
    found = {name: getattr(getattr(cls, name, None), ATTRIBUTE, None) for name in dir(cls)}
    return {name: period for name, period in found.items() if isinstance(period, Period)}
