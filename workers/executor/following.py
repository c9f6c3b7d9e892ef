"""Those who follow the output of one launch, and how far each was told."""

from __future__ import annotations

from typing import Literal

from workers.executor.base import Chunk, OnChunk, Signs
from workers.executor.live_output import STDERR

STREAMS: tuple[Literal["stdout"], Literal["stderr"]] = ("stdout", "stderr")


class Followers:
    """Each is told first what was written before it came, then the same as the others."""

    def __init__(self) -> None:
        self._followers: dict[OnChunk, _Follower] = {}
        self._by_token: dict[int, _Follower] = {}

    def __len__(self) -> int:
        return len(self._followers)

    def add(self, on_chunk: OnChunk, token: int) -> bool:
        """Take one in, whose first pieces come with that token; False: it is in already."""
        if on_chunk in self._followers:
            return False
        self._followers[on_chunk] = self._by_token[token] = _Follower(on_chunk, token)
        return True

    def remove(self, on_chunk: OnChunk) -> None:
        """Tell it nothing more."""
        gone = self._followers.pop(on_chunk, None)
        if gone is not None:
            del self._by_token[gone.token]

    @property
    def tokens(self) -> list[int]:
        """The tokens of all."""
        return list(self._by_token)

    def take(self, token: int, stream: int, offset: int, data: bytes) -> None:
        """Pass a piece on: the first one to whom the token belongs, 0 to all."""
        if token:
            follower = self._by_token.get(token)
            if follower is not None:
                follower.begin(stream, offset, data)
            return
        for follower in list(self._followers.values()):
            follower.go_on(stream, offset, data)

    def tell(self, signs: Signs | None) -> None:
        """Pass signs of life on to all, or that the launch is over."""
        for on_chunk in list(self._followers):
            on_chunk(signs)


class _Follower:
    """One of them. ``_ends``: offset behind what it was told of each stream; None: nothing yet."""

    def __init__(self, on_chunk: OnChunk, token: int) -> None:
        self.token = token
        self._on_chunk = on_chunk
        self._ends: list[int | None] = [None] * (STDERR + 1)

    def begin(self, stream: int, offset: int, data: bytes) -> None:
        """Tell the end of what was written before; all before that is left out."""
        self._ends[stream] = offset + len(data)
        self._tell(stream, offset, data, skipped=offset)

    def go_on(self, stream: int, offset: int, data: bytes) -> None:
        """Tell what of a piece it was not told yet."""
        end = self._ends[stream]
        if end is None or offset + len(data) <= end:
            return
        known = max(0, end - offset)
        self._ends[stream] = offset + len(data)
        self._tell(stream, offset + known, data[known:], skipped=max(0, offset - end))

    def _tell(self, stream: int, offset: int, data: bytes, *, skipped: int) -> None:
        self._on_chunk(Chunk(stream=STREAMS[stream], offset=offset, data=data, skipped=skipped))
