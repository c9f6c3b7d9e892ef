"""Whole configuration: the site and its clusters (docs/configuration.md)."""

from __future__ import annotations

import re
from datetime import time
from ipaddress import IPv6Address, ip_network
from typing import Annotated
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo

from pydantic import AfterValidator, Field, StringConstraints

from domain.finding import Severity
from workers.config import ClusterConfig, LinksConfig, Section

MIB = 1024 * 1024
ClusterName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


def _network(text: str) -> str:
    ip_network(text, strict=False)
    return text


def _bind(text: str) -> str:
    found = re.fullmatch(r"(?:\[(?P<address>[^\[\]\s]+)\]|[^:\s\[\]]+):(?P<port>\d{1,5})", text)
    if found is None or int(found["port"]) > 65_535:
        raise ValueError("expected host:port, or [address]:port for IPv6, as [::1]:8000")
    if found["address"]:
        IPv6Address(found["address"])
    return text


ANY_HOST = {"0.0.0.0": "127.0.0.1", "[::]": "[::1]"}
"""Address to open of what listens on every address."""
Bind = Annotated[str, AfterValidator(_bind)]
"""Address on which the web process listens."""
Network = Annotated[str, AfterValidator(_network)]
"""An address or a network, as `10.0.0.0/8`."""


class WebConfig(Section):
    """Bounds of one web process: what it does at once, and how long anybody waits in it."""

    max_requests: int = Field(16, ge=1, le=1000)
    max_waiting: int = Field(200, ge=0)
    max_wait_seconds: float = Field(5, gt=0, le=60)
    max_sockets: int = Field(500, ge=1)
    statement_timeout_seconds: float = Field(15, gt=0)
    lock_timeout_seconds: float = Field(3, gt=0)


def _zone(text: str) -> str:
    try:
        ZoneInfo(text)
    except (KeyError, ValueError, OSError) as exc:
        raise ValueError("expected a time zone, as Europe/Berlin") from exc
    return text


ReceiverName = Annotated[str, StringConstraints(pattern=r"^[a-z0-9][a-z0-9_-]{0,62}$")]


class QuietHoursConfig(Section):
    """Hours of each day in which a receiver is told nothing; over midnight where ``until`` is
    earlier than ``since``."""

    since: time
    until: time
    zone: Annotated[str, AfterValidator(_zone)] = "UTC"


class ReceiverConfig(Section):
    """One who is told of findings, by an address that apprise knows; it may hold secrets."""

    apprise_url: str = Field(
        min_length=5, max_length=2000, repr=False, pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://"
    )
    min_severity: Severity = Severity.WARN
    clusters: tuple[ClusterName, ...] = ()
    quiet_hours: QuietHoursConfig | None = None
    interval_seconds: float = Field(60, ge=0, le=86_400)


class NotifyConfig(Section):
    """Who is told of what is wrong, and how long it has to last."""

    receivers: dict[ReceiverName, ReceiverConfig] = Field(default_factory=dict, max_length=50)
    settle_seconds: float = Field(30, ge=0, le=3600)
    gone_seconds: float = Field(60, ge=0, le=3600)
    runbook_url: str = "docs/runbook.md"


class SiteConfig(Section):
    """Control plane: its database, its address, its accounts."""

    database_url: str = Field(pattern=r"^postgres(ql)?://")
    history_url: str = Field("", pattern=r"^(postgres(ql)?://.*)?$")
    secret_key: str = Field(min_length=32)
    allowed_hosts: tuple[str, ...] = ()
    csrf_trusted_origins: tuple[str, ...] = ()
    bind: Bind = "127.0.0.1:8000"
    public_url: str = ""
    hsts_seconds: int = Field(86_400, ge=0)
    debug: bool = False
    controller_metrics_port: int = Field(9096, ge=0, le=65_535)
    controller_metrics_host: str = Field("127.0.0.1", min_length=1)
    auth_token: str = Field("", pattern=r"^(.{12,})?$")
    admin_user: str = ""
    admin_password: str = ""
    history_retention_days: int = Field(7, ge=1)
    rollup_minute_days: int = Field(7, ge=2, le=90)
    rollup_retention_days: int = Field(400, ge=14)
    audit_retention_days: int = Field(400, ge=1)
    request_retention_days: int = Field(30, ge=1)
    history_max_bytes: int | None = Field(None, ge=MIB)
    export_dir: str = ".exports"
    export_accel: str = Field("", pattern=r"^(/[\w./-]*/)?$")
    export_ttl_hours: float = Field(24, gt=0)
    export_max_bytes: int = Field(10 * 1024 * MIB, ge=MIB)
    metrics_allow: tuple[Network, ...] = ()
    trusted_proxies: tuple[Network, ...] = ()
    web: WebConfig = WebConfig()
    links: LinksConfig = LinksConfig()
    notify: NotifyConfig = NotifyConfig()

    @property
    def url(self) -> str:
        """Address that people open."""
        host, _, port = self.bind.rpartition(":")
        return self.public_url or f"http://{ANY_HOST.get(host, host)}:{port}"

    @property
    def own_origins(self) -> tuple[str, ...]:
        """Origin of ``public_url``, whatever host and scheme a proxy names; none without."""
        parts = urlsplit(self.public_url)
        return (f"{parts.scheme}://{parts.netloc}",) if parts.netloc else ()


class Config(Section):
    """Root of ``drakkar.yaml``; ``sources.load`` says where its values come from."""

    site: SiteConfig
    clusters: dict[ClusterName, ClusterConfig] = Field(default_factory=dict)
