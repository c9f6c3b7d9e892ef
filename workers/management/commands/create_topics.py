"""``manage.py create_topics``: have every topic that a cluster reads and writes."""

from __future__ import annotations

import json
import sys
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from workers.broker.named_topics import NamedTopic, named_topics
from workers.broker.topics import Ensured, TopicsRefused, ensure_topics
from workers.cluster_choice import known_cluster, refuse
from workers.config import ClusterConfig


class Command(BaseCommand):
    """Makes what is missing; what is there is left as it is."""

    help = (
        "Create the source, dead-letter and sink topics of a cluster where they are missing. "
        "Exit codes: 0 all are there, 1 a broker refused, 2 bad use."
    )
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        parser.epilog = "Example: manage.py create_topics --cluster main --partitions 50"
        parser.add_argument("--cluster", required=True, help="a name under `clusters`")
        parser.add_argument("--partitions", type=int, default=50, help="default 50")
        parser.add_argument("--replication", type=int, default=1, help="copies (default 1)")
        parser.add_argument("--json", action="store_true", help="print the result as JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        config = known_cluster(options["cluster"])
        for name, most in (("partitions", 100_000), ("replication", 100)):
            if not 1 <= options[name] <= most:
                refuse([f"--{name}: expected 1 to {most}, got {options[name]}"])
        ensured: list[Ensured] = []
        try:
            for place, topics in topics_of(config):
                ensured += ensure_topics(
                    place.brokers,
                    place.client,
                    topics,
                    partitions=options["partitions"],
                    replication=options["replication"],
                )
        except TopicsRefused as exc:
            sys.stderr.write(f"create_topics: {exc}\n")
            raise SystemExit(1) from exc
        self._print(ensured, options["json"])

    def _print(self, ensured: list[Ensured], as_json: bool) -> None:
        if as_json:
            rows = [
                {"topic": one.topic, "created": one.is_new, "partitions": one.partitions}
                for one in ensured
            ]
            self.stdout.write(json.dumps({"topics": rows}))
            return
        for one in ensured:
            state = "created" if one.is_new else "there"
            self.stdout.write(f"{one.topic}: {state}, {one.partitions} partitions")


def topics_of(config: ClusterConfig) -> list[tuple[NamedTopic, list[str]]]:
    """Every topic that the cluster reads or writes by the place it is in, each once; the first
    of a place stands for it."""
    places: dict[Any, tuple[NamedTopic, list[str]]] = {}
    for named in named_topics(config):
        topics = places.setdefault(named.place, (named, []))[1]
        if named.topic not in topics:
            topics.append(named.topic)
    return list(places.values())
