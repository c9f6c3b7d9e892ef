"""Every topic that a cluster's configuration names, and where it is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from workers.config import ClusterConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class NamedTopic:
    """A topic, what the cluster uses it for (``source``, ``dead letters``, ``sink NAME``,
    ``retries``), and how to talk to its brokers."""

    topic: str
    role: str
    brokers: str
    client: Mapping[str, Any] = field(default_factory=dict)

    @property
    def place(self) -> tuple[str, tuple[tuple[str, str], ...]]:
        """Equal for topics that one client reaches."""
        return self.brokers, tuple(sorted((name, str(v)) for name, v in self.client.items()))


def named_topics(config: ClusterConfig) -> list[NamedTopic]:
    """Return the source, the dead-letter topic, the topics of kafka sinks and the retry topic, in
    that order."""
    kafka, letters = config.kafka, config.dead_letters
    found = [
        NamedTopic(topic=kafka.topic, role="source", brokers=kafka.brokers, client=kafka.client),
        _reached(config, letters, config.dead_letter_topic, "dead letters"),
    ]
    sinks = [(name, section) for name, section in config.sinks.items() if section.kind == "kafka"]
    found += [_reached(config, own, _topic(own), f"sink {name}") for name, own in sinks]
    if config.retry.topic is not None:
        found.append(replace(found[0], topic=config.retry.topic, role="retries"))
    return found


def _topic(section: Any) -> str:
    return str(section.topic)


def _reached(config: ClusterConfig, section: Any, topic: str, role: str) -> NamedTopic:
    """Pass the source's client options on with the source's brokers only."""
    kafka = config.kafka
    inherited = kafka.client if section.brokers is None else {}
    return NamedTopic(
        topic=topic,
        role=role,
        brokers=section.brokers or kafka.brokers,
        client={**inherited, **section.client},
    )
