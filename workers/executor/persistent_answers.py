"""Answers of persistent processes: what a line must hold. Standard library only: runs inside the
spawner process."""

from __future__ import annotations

import binascii
import json
from typing import Any

SHOWN_CHARACTERS = 80


def checked(found: dict[str, Any], number: str) -> tuple[int, bytes, bytes]:
    """Exit code, stdout and stderr of an answer to that request. Raises ValueError."""
    if found.get("id") != number:
        raise ValueError(f'an answer with id {_shown(found.get("id"))}, expected "{number}"')
    code = found.get("exit_code")
    if type(code) is not int or not 0 <= code <= 255:
        raise ValueError(f"exit_code: expected a whole number from 0 to 255, got {_shown(code)}")
    return code, _bytes(found, "stdout"), _bytes(found, "stderr")


def _bytes(found: dict[str, Any], name: str) -> bytes:
    text = found.get(name)
    encoded = found.get(f"{name}_base64")
    if encoded is not None:
        if text is not None:
            raise ValueError(f"{name}: expected it as text or as {name}_base64, got both")
        try:
            if type(encoded) is str:
                return binascii.a2b_base64(encoded, strict_mode=True)
        except ValueError:
            pass
        raise ValueError(f"{name}_base64: expected base64, got {_shown(encoded)}")
    if text is None:
        return b""
    if type(text) is not str:
        raise ValueError(f"{name}: expected text, got {_shown(text)}")
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise ValueError(f"{name}: expected text without lone surrogates") from None


def _shown(given: object) -> str:
    if isinstance(given, (dict, list)):
        return f"{type(given).__name__} of {len(given)}"
    if isinstance(given, str):
        given = given[: SHOWN_CHARACTERS + 1]
    text = json.dumps(given)
    return text if len(text) <= SHOWN_CHARACTERS else text[:SHOWN_CHARACTERS] + "..."
