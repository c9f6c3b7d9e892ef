"""``manage.py drakkar_config``: the effective configuration, masked, with each value's source."""

from __future__ import annotations

import json
import os
import sys
from argparse import ArgumentParser
from dataclasses import asdict
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError

from drakkar_site.config.report import effective


class Command(BaseCommand):
    help = "Print the effective configuration, secrets masked, with the source of each value."
    requires_system_checks = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.epilog = "Example: manage.py drakkar_config --cluster main --json"
        parser.add_argument("--cluster", help="only this cluster's keys")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        state = settings.DRAKKAR_STATE
        if state.config is None:
            raise CommandError("\n".join(each.report for each in state.problems), returncode=2)
        cluster = options["cluster"]
        if cluster is not None and cluster not in state.config.clusters:
            known = ", ".join(state.config.clusters) or "none"
            raise CommandError(f"--cluster: expected one of {known}, got {cluster}", returncode=2)
        prefix = f"clusters.{cluster}." if cluster else ""
        found = effective(state.config, state.origins, state.secrets)
        values = [value for value in found if value.key.startswith(prefix)]
        if options["json"]:
            lines = [json.dumps([asdict(value) for value in values], indent=2)]
        else:
            lines = [f"{v.key} = {json.dumps(v.value)}  # {v.source}" for v in values]
        self._print("\n".join(lines))

    def _print(self, text: str) -> None:
        try:
            self.stdout.write(text)
            self.stdout.flush()
        except BrokenPipeError:  # the reader has seen enough, as in ``| head``
            # What is still buffered would complain again when the interpreter ends.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
