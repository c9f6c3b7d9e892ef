"""Hides secrets wherever configuration or command lines are shown, logged or stored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

MASK = "***"

_SECRET_KEY = re.compile(
    r"passw|secret|credential|api[_.-]?key|private[_.-]?key|ssl\.key\.pem|authorization|cookie"
    r"|oauthbearer\.config|(^|[_.-])(token|pwd)s?$",
    re.IGNORECASE,
)
_URL_PASSWORD = re.compile(r"(\w+://[^\s:/@]*):[^\s]*@")
_ASSIGNMENT = re.compile(
    r"((?:password|passwd|sslpassword|token|secret|api_?key)\s*=\s*)('[^']*'|[^\s&]+)",
    re.IGNORECASE,
)
_PEM = re.compile(r"-----BEGIN [A-Z ]*PRIVATE KEY-----.*", re.DOTALL)


def is_secret(key: str) -> bool:
    """Whether a key of that name holds a secret."""
    return _SECRET_KEY.search(key) is not None


def mask_text(text: str) -> str:
    """The text without passwords in URLs and DSNs, tokens in queries and private keys."""
    text = _URL_PASSWORD.sub(rf"\1:{MASK}@", text)
    return _PEM.sub(MASK, _ASSIGNMENT.sub(rf"\1{MASK}", text))


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
