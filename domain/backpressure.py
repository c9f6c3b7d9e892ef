"""Budget of messages and bytes a worker holds between hand-over and fate."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import Generic, TypeVar

OwnerT = TypeVar("OwnerT")


@dataclass(frozen=True, slots=True, kw_only=True)
class BudgetLimits:
    """Messages and bytes that one worker may hold; one partition may hold ``share`` of them."""

    high_messages: int
    high_bytes: int
    share: float = 0.25
    resume: float = 0.5

    def __post_init__(self) -> None:
        if self.high_messages < 1 or self.high_bytes < 1:
            raise ValueError("high marks: expected 1 or more")


class Budget(Generic[OwnerT]):
    """Charged from hand-over to fate, per owner (a partition of an epoch).

    Law 3: bytes exceed the limit by at most one hand-over, because room is asked before each.
    """

    __slots__ = ("_bytes", "_limits", "_messages", "_over", "bytes", "messages")

    def __init__(self, limits: BudgetLimits) -> None:
        self._limits = limits
        self._messages: defaultdict[OwnerT, int] = defaultdict(int)
        self._bytes: defaultdict[OwnerT, int] = defaultdict(int)
        self._over: set[OwnerT] = set()
        self.messages = 0
        self.bytes = 0

    def charge(self, owner: OwnerT, messages: int, size_bytes: int) -> None:
        """Take messages and bytes on an owner's account."""
        self.messages += messages
        self.bytes += size_bytes
        self._messages[owner] += messages
        self._bytes[owner] += size_bytes

    def refund(self, owner: OwnerT, messages: int, size_bytes: int) -> None:
        """Give them back. Raises ValueError when the owner holds less than that."""
        if messages > self._messages[owner] or size_bytes > self._bytes[owner]:
            raise ValueError(f"{owner}: refund exceeds what is charged")
        self.charge(owner, -messages, -size_bytes)

    def close(self, owner: OwnerT) -> None:
        """Give back all that an owner holds: its epoch ended."""
        self.messages -= self._messages.pop(owner, 0)
        self.bytes -= self._bytes.pop(owner, 0)
        self._over.discard(owner)

    @property
    def room_messages(self) -> int:
        """Messages that may be asked for now; 0 when either limit is reached."""
        if self.bytes >= self._limits.high_bytes:
            return 0
        return max(0, self._limits.high_messages - self.messages)

    def is_over_share(self, owner: OwnerT) -> bool:
        """Whether an owner must pause: over its share, until it fell under half of it
        (hysteresis)."""
        limits = self._limits
        factor = limits.share * (limits.resume if owner in self._over else 1.0)
        over = (
            self._messages[owner] >= max(1.0, limits.high_messages * factor)
            or self._bytes[owner] >= limits.high_bytes * factor
        )
        (self._over.add if over else self._over.discard)(owner)
        return over

    def held(self, owner: OwnerT) -> tuple[int, int]:
        """``(messages, bytes)`` an owner holds."""
        return self._messages[owner], self._bytes[owner]
