"""``manage.py drakkar_config``: the effective configuration, masked, with each value's source."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from drakkar_site.config.report import effective


class Command(BaseCommand):
    help = (
        "Print the effective configuration, secrets masked, with the source of each value. "
        "Example: manage.py drakkar_config --cluster main --json"
    )
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--cluster", help="only this cluster's keys")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        state = settings.DRAKKAR_STATE
        if state.config is None:
            raise CommandError("\n".join(map(str, state.problems)), returncode=2)
        cluster = options["cluster"]
        if cluster is not None and cluster not in state.config.clusters:
            known = ", ".join(state.config.clusters) or "none"
            raise CommandError(f"--cluster: expected one of {known}, got {cluster}", returncode=2)
        prefix = f"clusters.{cluster}." if cluster else ""
        values = [v for v in effective(state.config, state.origins) if v.key.startswith(prefix)]
        if options["json"]:
            self.stdout.write(json.dumps([asdict(value) for value in values], indent=2))
            return
        for value in values:
            self.stdout.write(f"{value.key} = {json.dumps(value.value)}  # {value.source}")
