"""Headers of a record that the Kafka client read, whatever their names are."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from operator import methodcaller
from typing import Any

from domain.message import Header

logger = logging.getLogger("drakkar.broker")

_headers = methodcaller("headers")
"""The binding answers a strange name with a list that holds a null pointer and a raised error.

Only a call through C looks for the error: the interpreter's own fast path, taken once a call site
is warm, hands on the list, and whoever looks into it crashes the process.
"""


def record_headers(message: Any) -> Sequence[Header]:
    """A record's headers; none where a name is not UTF-8, which the binding cannot give.

    Else one such record would be read again and again, and nothing after it. To be asked once a
    message: the binding keeps the broken list, and gives it without an error the next time.
    """
    try:
        return _headers(message) or ()
    except (SystemError, UnicodeError) as exc:
        place = f"{message.topic()}/{message.partition()}@{message.offset()}"
        logger.warning("%s: its headers cannot be read and are left out: %r", place, exc)
        return ()
