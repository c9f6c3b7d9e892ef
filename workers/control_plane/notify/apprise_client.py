"""Sends by apprise, which knows how Slack, Teams, mail, PagerDuty, webhooks and others are told."""

from __future__ import annotations

import logging
import re
from urllib.parse import unquote

from domain.finding import Severity
from domain.masking import MASK, mask_text
from workers.control_plane.notify.receivers import Message, NotSent, Receiver

LEAST_SECRET = 4
"""Characters from which on a part of an address is taken out of what is shown."""


def send(receiver: Receiver, message: Message) -> None:
    """Send one message. Raises NotSent, without any part of the address."""
    import apprise  # it loads a hundred services: only where somebody is told

    target = apprise.Apprise.instantiate(receiver.url, suppress_exceptions=True)
    if target is None:
        raise NotSent("apprise does not know such an address")
    kind = apprise.NotifyType.INFO
    if message.severity is Severity.PAGE:
        kind = apprise.NotifyType.FAILURE
    elif message.severity is Severity.WARN:
        kind = apprise.NotifyType.WARNING
    elif message.is_good:
        kind = apprise.NotifyType.SUCCESS
    with _Words() as words:
        is_sent = target.notify(title=message.title, body=message.body, notify_type=kind)
    if not is_sent:
        raise NotSent(
            without_address(receiver.url, words.text) or "it was not sent, without a word"
        )


def without_address(url: str, text: str) -> str:
    """Return the text without any part of the address that could be a secret."""
    parts = re.split(r"[/:@?&=,;#]+", url.partition("://")[2])
    for part in sorted({*parts, *map(unquote, parts)}, key=len, reverse=True):
        if len(part) >= LEAST_SECRET:
            text = text.replace(part, MASK)
    return mask_text(text)[:500]


class _Words(logging.Handler):
    """Keeps what apprise logs while it sends: it tells its errors in no other way."""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)
        self._kept: list[str] = []
        self._logger = logging.getLogger("apprise")

    @property
    def text(self) -> str:
        """Return the warnings and errors in one line."""
        return " ".join(" ".join(self._kept).split())

    def emit(self, record: logging.LogRecord) -> None:
        """Keep one line."""
        self._kept.append(record.getMessage())

    def __enter__(self) -> _Words:
        self._logger.propagate = False  # what it says may hold the address
        self._logger.addHandler(self)
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.removeHandler(self)
