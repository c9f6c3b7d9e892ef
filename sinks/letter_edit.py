"""A dead letter's message, changed by a person before it is sent again."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from domain.failure import Stage
from domain.message import Header
from domain.origin import EDITED_HEADER
from sinks.letter_rows import headers_of
from sinks.letter_transports import no_road
from sinks.message_form import BadMessage, Form, form_of_letter
from sinks.models import DeadLetter, LetterState
from sinks.replay import Original


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """Record to be sent in place of the original; ``parts`` are those that differ from it."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]
    parts: Sequence[str]

    @classmethod
    def read(cls, kept: Mapping[str, Any]) -> Edit:
        """Read what ``kept`` wrote."""
        return cls(
            key=_bytes(kept["key"]),
            value=_bytes(kept["value"]),
            headers=[(name, _bytes(content)) for name, content in kept["headers"]],
            parts=kept["parts"],
        )

    def kept(self) -> dict[str, Any]:
        """As JSON, for the row of its job."""
        return {
            "key": _text(self.key),
            "value": _text(self.value),
            "headers": [[name, _text(content)] for name, content in self.headers],
            "parts": list(self.parts),
        }

    def record(self, actor: str) -> Original:
        """Return the record, with the header that says who changed it."""
        headers = [header for header in self.headers if header[0] != EDITED_HEADER]
        headers.append((EDITED_HEADER, actor.encode()))
        return Original(key=self.key, value=self.value, headers=headers)


def why_not(letter: DeadLetter) -> str:
    """Why the letter cannot be edited; empty where it can."""
    if letter.state != LetterState.OPEN:
        return f"state: expected an open letter, this one is {letter.state}"
    if letter.stage == Stage.DELIVER:
        return "stage: a letter of stage deliver holds a payload for its sink: deliver or replay it"
    if not letter.is_whole:
        return f"size: only the first 64 KiB of its {letter.size_bytes} bytes are kept here"
    return no_road(letter.cluster)


def edit_of(letter: DeadLetter, form: Form) -> Edit:
    """Return the edit in a form; what its text did not change stays byte for byte. Raises
    BadMessage."""
    if reason := why_not(letter):
        raise BadMessage(reason)
    sent, before = form.contents(), form_of_letter(letter)
    was = headers_of(letter)
    same = dict(zip(before.header_lines, was, strict=False))
    is_alike = before.encoding == form.encoding
    headers = [
        same[line] if is_alike and line in same else _header(form, line)
        for line in form.header_lines
    ]
    old_key, old_value = (None if x is None else bytes(x) for x in (letter.key, letter.value))
    key, value = _bytes(sent["key"]), _bytes(sent["value"])
    if value == b"" and old_value is None:  # a form cannot say none
        value = None
    pairs = {"key": (old_key, key), "value": (old_value, value), "headers": (was, headers)}
    parts = [name for name, (old, new) in pairs.items() if old != new]
    if not parts:
        raise BadMessage("nothing was changed: replay the letter as it is")
    return Edit(key=key, value=value, headers=headers, parts=parts)


def _header(form: Form, line: str) -> Header:
    name, content = form.header(line)
    return name, _bytes(content)


def _bytes(content: str | None) -> bytes | None:
    return None if content is None else base64.b64decode(content)


def _text(content: bytes | None) -> str | None:
    return None if content is None else base64.b64encode(content).decode()
