"""Trace a message belongs to (W3C Trace Context), handed on to its tasks and deliveries."""

from __future__ import annotations

import re
from typing import Any

from domain.message import Message

TRACEPARENT = "traceparent"
"""Name of the header in Kafka and HTTP; in a child's environment it is in capitals."""

_SHAPE = re.compile(
    r"(?!ff)[0-9a-f]{2}-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}", re.ASCII
)


def traceparent_of(message: Message[Any]) -> str | None:
    """Return the message's ``traceparent``, or None for none.

    What has not the standard's shape is none: it must not reach an environment or HTTP headers.
    """
    found = message.header(TRACEPARENT) if message.headers else None
    return found if found is not None and _SHAPE.fullmatch(found) else None
