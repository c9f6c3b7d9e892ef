"""How rows of the history are written on a page."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from typing import Any

from recorder.models import Event

NOTE_CHARACTERS = 300


def note_of(event: Event) -> str:
    """A row's details in one line."""
    told = (event.data or {}).items()
    parts = [f"{name} {_said(value)}" for name, value in told if value is not None]
    if event.sink:
        parts.insert(0, f"sink {event.sink}")
    return ", ".join(parts)[:NOTE_CHARACTERS]


def _said(value: Any) -> str:
    """Values of a list one after the other; anything else as it is."""
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def text_of(output: bytes | None) -> str | None:
    """Output as text: undecodable bytes are replaced; None stays unknown."""
    return None if output is None else output.decode("utf-8", "replace")


def command_of(program: str, args: Sequence[str]) -> str:
    """A command line as a shell would take it."""
    return shlex.join([*([program] if program else []), *args])
