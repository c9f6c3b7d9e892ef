"""No token in any log: in messages, in arguments, in daphne's access log."""

from __future__ import annotations

import logging
import re
from typing import Any

from daphne.access import AccessLogGenerator

from domain.printable import printable_block

_NAME = "".join(f"(?:{each}|%{ord(each):x}|%{ord(each.upper()):x})" for each in "token")
"""Name of the parameter, letters of it written as a browser never does."""
_SECRET = re.compile(rf"(?i)({_NAME}(?:=|%3D)|\bbearer\s+)[^\s&\"'#;,]+")


def masked(text: str) -> str:
    """Return the text with every ``token=`` and ``Bearer`` value replaced by ``***``."""
    return _SECRET.sub(r"\1***", text)


class MaskTokens(logging.Filter):
    """Masks the finished message of each record, and takes the control characters out of it."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Always lets the record pass."""
        message = record.getMessage()
        safe = printable_block(masked(message))
        if safe != message:
            record.msg, record.args = safe, ()
        return True


class _MaskedAccessLog(AccessLogGenerator):  # type: ignore[misc]
    def write_entry(self, *args: Any, **fields: Any) -> None:
        safe = {name: masked(v) if isinstance(v, str) else v for name, v in fields.items()}
        super().write_entry(*[masked(a) if isinstance(a, str) else a for a in args], **safe)


def mask_access_log() -> None:
    """Daphne writes its access log past ``logging``: replace the writer it is about to make."""
    from daphne import cli

    cli.AccessLogGenerator = _MaskedAccessLog
