"""A message as people read and write it in a form: text, or base64 where it is not text."""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from django.http import QueryDict

from domain.message import MAX_CONTENT_BYTES, Header
from sinks.letter_rows import headers_of
from sinks.models import DeadLetter

ENCODINGS = ("text", "base64")
_UNTYPED = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]")
"""Characters that a text field shows as something else, or gives back as something else."""


class BadMessage(ValueError):
    """A message that cannot be; the text names the field and what was expected."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Form:
    """A message as it stands in the form; contents are text or base64, as ``encoding`` says."""

    encoding: str = "text"
    partition: str = "0"
    offset: str = "0"
    timestamp: str = "0"
    has_key: bool = False
    key: str = ""
    value: str = ""
    headers: str = ""

    @classmethod
    def of(
        cls, place: tuple[int, int, int], key: bytes | None, value: bytes | None,
        headers: Sequence[Header],
    ) -> Form:  # fmt: skip
        """Return the form of a message; base64 where a part of it is not text."""
        parts = [key or b"", value or b"", *(content or b"" for _, content in headers)]
        is_text = all(_is_line(part) for part in (parts[0], *parts[2:])) and _is_text(parts[1])
        write = bytes.decode if is_text else _base64
        return cls(
            encoding=ENCODINGS[not is_text],
            partition=str(place[0]),
            offset=str(place[1]),
            timestamp=str(place[2]),
            has_key=key is not None,
            key=write(key or b""),
            value=write(value or b""),
            headers="\n".join(f"{name}={write(content or b'')}" for name, content in headers),
        )

    def arguments(self) -> dict[str, Any]:
        """As the action takes them. Raises BadMessage."""
        return {
            "partition": self.partition,
            "offset": self.offset,
            "timestamp": self.timestamp,
            **self.contents(),
            "headers": [self.header(line) for line in self.header_lines],
        }

    def contents(self) -> dict[str, str | None]:
        """Key and value as base64; no key is None. Raises BadMessage."""
        return {
            "key": self._read("key", self.key) if self.has_key or self.key else None,
            "value": self._read("value", self.value),
        }

    @property
    def header_lines(self) -> list[str]:
        """A line a header."""
        return [line for line in self.headers.splitlines() if line.strip()]

    def header(self, line: str) -> tuple[str, str]:
        """A header's name and its content as base64. Raises BadMessage."""
        name, equals, content = line.partition("=")
        if not name.strip() or not equals or "\0" in name:
            raise BadMessage(f"headers: expected NAME=VALUE in each line, got {line[:60]}")
        return name.strip(), self._read("headers", content)

    def _read(self, name: str, text: str) -> str:
        """Return the content as base64. Raises BadMessage."""
        # A form sends line ends as CRLF; what holds a CR itself is shown as base64.
        plain = text.replace("\r\n", "\n")
        if self.encoding == "text" and _UNTYPED.search(plain):
            raise BadMessage(f"{name}: expected text without control characters, or base64")
        content = plain.encode("utf-8", "surrogatepass")
        if self.encoding == "base64":
            try:
                content = base64.b64decode(text, validate=True)
            except (binascii.Error, ValueError):
                raise BadMessage(f"{name}: expected base64, got {text[:40]}") from None
        if len(content) > MAX_CONTENT_BYTES:
            raise BadMessage(
                f"{name}: expected {MAX_CONTENT_BYTES} bytes or less, got {len(content)}"
            )
        return _base64(content)


def form_of(asked: QueryDict) -> Form:
    """Return the form as it was sent. Raises BadMessage."""
    encoding = asked.get("encoding", "text")
    if encoding not in ENCODINGS:
        raise BadMessage(f"encoding: expected text or base64, got {encoding[:40]}")
    names = ("partition", "offset", "timestamp")
    places = {name: asked.get(name, "").strip() or "0" for name in names}
    contents = {name: asked.get(name, "") for name in ("key", "value", "headers")}
    return Form(encoding=encoding, has_key="has_key" in asked, **places, **contents)


def form_of_letter(letter: DeadLetter) -> Form:
    """Return the form of a letter's message. Raises BadMessage where only its start is kept."""
    if not letter.is_whole:
        raise BadMessage(
            f"letter: only the first 64 KiB of its {letter.size_bytes} bytes are kept here; "
            "manage.py probe_message takes a file"
        )
    stamp = letter.origin.rpartition("/")[2]
    is_stamp = stamp.isascii() and stamp.isdigit() and len(stamp) < 20  # a header may claim it
    place = (letter.partition, letter.offset, int(stamp) if is_stamp else 0)
    key, value = (None if each is None else bytes(each) for each in (letter.key, letter.value))
    return Form.of(place, key, value, headers_of(letter))


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _is_text(content: bytes) -> bool:
    """Whether a text field gives back the same bytes."""
    try:
        text = content.decode()
    except UnicodeDecodeError:
        return False
    return _UNTYPED.search(text) is None and not text.startswith("\n")


def _is_line(content: bytes) -> bool:
    return _is_text(content) and len(content.decode().splitlines()) <= 1
