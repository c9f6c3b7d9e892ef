"""Output of a process, as far as it is kept. Standard library only: the spawner imports this
too."""

from __future__ import annotations

READ_BYTES = 65_536
"""Capacity of a pipe: a read that returns less emptied it."""


class HeadCapture:
    """Keeps the first ``cap`` bytes and counts all. Small pieces take no more room than one."""

    __slots__ = ("_cap", "_first", "_more", "size")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._first = b""
        self._more = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take in what was written."""
        room = self._cap - self.size
        part = data if len(data) <= room else data[: max(0, room)]
        if self.size:
            self._more += part
        else:
            self._first = part  # Most programs write once.
        self.size += len(data)

    @property
    def is_over(self) -> bool:
        """Whether more was written than is kept."""
        return self.size > self._cap

    def kept(self) -> bytes:
        """Return what is kept."""
        return self._first + self._more if self._more else self._first

    def tail(self, size: int) -> bytes:
        """Return the last bytes of what is kept, at most so many."""
        if size <= 0:
            return b""
        if len(self._more) >= size:
            return bytes(self._more[-size:])
        return self._first[-(size - len(self._more)) :] + self._more

    @property
    def tail_end(self) -> int:
        """Offset in the stream behind the last byte that is kept."""
        return min(self.size, self._cap)


class EndsCapture:
    """Keeps the first and the last half of ``cap`` bytes, with a mark where the middle was cut."""

    __slots__ = ("_cap", "_head", "_head_cap", "_tail", "size")

    def __init__(self, cap: int) -> None:
        self._cap = cap
        self._head_cap = (cap + 1) // 2
        self._head = bytearray()
        self._tail = bytearray()
        self.size = 0

    def add(self, data: bytes) -> None:
        """Take in what was written."""
        self.size += len(data)
        room = self._head_cap - len(self._head)
        self._head += data[:room]
        self._tail += data[room:]
        if len(self._tail) > self._cap + READ_BYTES:
            del self._tail[: len(self._tail) - self._cap // 2]

    @property
    def is_over(self) -> bool:
        """Whether the middle was cut out."""
        return self.size > self._cap

    def kept(self) -> bytes:
        """Both ends; up to the length of the mark more than ``cap``."""
        if not self.is_over:
            return bytes(self._head + self._tail)
        tail_bytes = self._cap // 2
        tail = self._tail[len(self._tail) - tail_bytes :]
        return b"%b\n[... %d bytes cut out ...]\n%b" % (
            bytes(self._head),
            self.size - self._cap,
            bytes(tail),
        )

    def tail(self, size: int) -> bytes:
        """Return the last bytes written, at most so many, fewer where fewer are kept."""
        if size <= 0:
            return b""
        if len(self._tail) >= size or self.is_over:
            return bytes(self._tail[-size:])
        return bytes(self._head[-(size - len(self._tail)) :] + self._tail)

    @property
    def tail_end(self) -> int:
        """Offset in the stream behind the last byte that is kept."""
        return self.size
