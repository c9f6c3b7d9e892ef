"""Receivers of notices, from the configuration, and which of them wants to hear of what."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime, time
from typing import Any
from zoneinfo import ZoneInfo

from domain.episode import EpisodeRules
from domain.finding import Severity


@dataclass(frozen=True, slots=True, kw_only=True)
class QuietHours:
    """Hours of each day of a zone; over midnight where ``until`` is earlier than ``since``."""

    since: time
    until: time
    zone: str

    def hold(self, at: datetime) -> bool:
        """Whether that time lies in them."""
        local = at.astimezone(ZoneInfo(self.zone)).time()
        if self.since <= self.until:
            return self.since <= local < self.until
        return local >= self.since or local < self.until


@dataclass(frozen=True, slots=True, kw_only=True)
class Receiver:
    """One who is told of findings; no ``clusters``: of all. ``url`` may hold secrets."""

    name: str
    url: str = field(repr=False)
    min_severity: Severity = Severity.WARN
    clusters: Collection[str] = ()
    quiet_hours: QuietHours | None = None
    interval_seconds: float = 60.0

    @property
    def shown(self) -> str:
        """Kind of the address; all else of it may be secret."""
        return f"{self.url.partition('://')[0]}://***"

    def wants(self, severity: Severity, cluster: str) -> bool:
        """Whether it is told of a finding; one of no cluster concerns everybody."""
        is_of_mine = not self.clusters or not cluster or cluster in self.clusters
        return is_of_mine and severity.rank >= self.min_severity.rank

    def is_quiet(self, at: datetime) -> bool:
        """Whether nothing is to be sent to it now."""
        return self.quiet_hours is not None and self.quiet_hours.hold(at)


@dataclass(frozen=True, slots=True)
class Message:
    """Text of one message and how bad its worst line is."""

    title: str
    body: str
    severity: Severity
    is_good: bool


class NotSent(Exception):
    """A message did not arrive; the text says why, without secrets."""


Send = Callable[[Receiver, Message], None]
"""Sends a message. Raises NotSent."""


def _no_way(receiver: Receiver, message: Message) -> None:
    raise NotSent("this process has no way to send")


SLOWLY = EpisodeRules(settle_seconds=30.0, gone_seconds=60.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class Notifying:
    """Rules of notifications: who is told, by which way, from which address of the pages on."""

    receivers: Sequence[Receiver] = ()
    rules: EpisodeRules = SLOWLY
    site_url: str = ""
    runbook_url: str = "docs/runbook.md"
    send: Send = _no_way


def notifying_of(site: Any, send: Send = _no_way) -> Notifying:
    """Return the rules of ``site.notify`` of a configuration."""
    given = site.notify
    return Notifying(
        receivers=[
            Receiver(
                name=name,
                url=each.apprise_url,
                min_severity=each.min_severity,
                clusters=each.clusters,
                quiet_hours=each.quiet_hours
                and QuietHours(
                    since=each.quiet_hours.since,
                    until=each.quiet_hours.until,
                    zone=each.quiet_hours.zone,
                ),
                interval_seconds=each.interval_seconds,
            )
            for name, each in sorted(given.receivers.items())
        ],
        rules=EpisodeRules(settle_seconds=given.settle_seconds, gone_seconds=given.gone_seconds),
        site_url=site.url.rstrip("/"),
        runbook_url=given.runbook_url,
        send=send,
    )
