"""Hides secrets wherever configuration or command lines are shown, logged or stored."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

MASK = "***"
Key = tuple[str, ...]
"""Names that lead to a value in a tree; places of a list as text."""

_SECRET_KEY = re.compile(
    r"passw|secret|credential|api[_.-]?key|apprise[_.-]?url|private[_.-]?key|ssl\.key\.pem|authorization|cookie"
    r"|oauthbearer\.config|(^|[_.-])(token|pwd)s?$",
    re.IGNORECASE,
)
# Each of these goes over a text once: a command line may be one word of 130 kB, made for the worst.
_URL_USER = re.compile(r"://[^\s:/@]*:")
_SPACE = re.compile(r"\s|\Z")
_ASSIGNMENT = re.compile(
    r"((?:password|passwd|sslpassword|token|secret|api_?key)\s*=\s*)('[^']*'|[^\s&]+)",
    re.IGNORECASE,
)
_HEADER = re.compile(r"^((?:authorization|cookie|x-api-key)\s*:\s*).+", re.IGNORECASE | re.DOTALL)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL)


def is_secret(key: str) -> bool:
    """Whether a key of that name holds a secret."""
    return _SECRET_KEY.search(key) is not None


def mask_text(text: str) -> str:
    """Return the text without passwords in URLs and DSNs, tokens in queries and private keys."""
    if "@" in text and "://" in text:
        text = _without_passwords(text)
    return _PEM.sub(MASK, _ASSIGNMENT.sub(rf"\1{MASK}", text))


def _without_passwords(text: str) -> str:
    """Return the text with what stands between a URL's user and the last ``@`` of its word
    masked."""
    parts: list[str] = []
    done = end = at = 0  # How far the text is copied; the word's end, and its last "@" or -1.
    for user in _URL_USER.finditer(text):
        begin = user.end()
        if begin <= done:
            continue
        if begin > end:
            space = _SPACE.search(text, begin)
            end = space.start() if space is not None else len(text)
            at = text.rfind("@", begin, end)
        if at >= begin:
            parts += [text[done:begin], MASK]
            done = at
    return "".join((*parts, text[done:]))


def mask(value: Any, key: str = "") -> Any:
    """A copy of a plain tree with its secrets replaced; ``key`` is the name that holds it."""
    if value is not None and value != "" and is_secret(key):
        return MASK
    if isinstance(value, Mapping):
        if key == "headers":
            return dict.fromkeys(value, MASK)
        return {name: mask(item, str(name)) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [mask(item) for item in value]
    return mask_text(value) if isinstance(value, str) else value


def mask_args(args: Sequence[str]) -> list[str]:
    """A command line without secrets: those in texts, and what follows or fills a secret option.

    ``--token x``, ``--token=x`` and ``-H 'Authorization: x'`` keep the option and lose the value.
    """
    shown, is_next_secret = [], False
    for text in args:
        option, sign, _ = text.partition("=")
        if is_next_secret and not text.startswith("-"):
            shown.append(MASK)
        elif sign and text.startswith("-") and is_secret(option.lstrip("-")):
            shown.append(f"{option}={MASK}")
        else:
            shown.append(_HEADER.sub(rf"\1{MASK}", mask_text(text)))
        is_next_secret = text.startswith("-") and not sign and is_secret(text.lstrip("-"))
    return shown


def mask_at(value: Any, keys: Collection[Key], at: Key = ()) -> Any:
    """As ``mask``, and the values at ``keys`` are secret whatever their names; ``at`` is where
    ``value`` stands."""
    return mask(_hidden(value, keys, at), at[-1] if at else "")


def _hidden(value: Any, keys: Collection[Key], at: Key) -> Any:
    if at in keys:
        return MASK
    if isinstance(value, Mapping):
        return {name: _hidden(item, keys, (*at, str(name))) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_hidden(item, keys, (*at, str(place))) for place, item in enumerate(value)]
    return value
