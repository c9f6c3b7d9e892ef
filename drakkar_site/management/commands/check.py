"""``manage.py check``: Django's, and each cluster's handler and program."""

from __future__ import annotations

from typing import Any

from django.core.checks import register
from django.core.management.base import CommandParser
from django.core.management.commands.check import Command as DjangoCheck

from drakkar_site.checks import check_programs


class Command(DjangoCheck):
    """Only this command imports handlers: others must run on machines without them."""

    def add_arguments(self, parser: CommandParser) -> None:
        super().add_arguments(parser)
        parser.epilog = "Example: manage.py check"

    def handle(self, *args: Any, **options: Any) -> None:
        register(check_programs, "drakkar")
        super().handle(*args, **options)
