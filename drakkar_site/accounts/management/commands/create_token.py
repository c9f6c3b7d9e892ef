"""``manage.py create_token``: make an API token and print its secret once."""

from __future__ import annotations

import json
from argparse import ArgumentParser
from datetime import timedelta
from typing import Any

from django.contrib.auth.models import User
from django.core.management.base import BaseCommand, CommandError
from django.utils import timezone

from drakkar_site.accounts.models import SCOPES
from drakkar_site.accounts.tokens import issue


class Command(BaseCommand):
    help = "Make an API token; its secret is shown once."

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.epilog = (
            "Example: manage.py create_token --user admin --scopes read,export --days 30"
        )
        parser.add_argument("--user", required=True, help="the user it acts as")
        parser.add_argument("--scopes", default="read", help=f"of {','.join(SCOPES)}")
        parser.add_argument("--days", type=int, default=90, help="days until it expires; 0: never")
        parser.add_argument("--json", action="store_true", help="print JSON")

    def handle(self, *args: Any, **options: Any) -> None:
        scopes = [scope.strip() for scope in options["scopes"].split(",") if scope.strip()]
        if not scopes or not set(scopes) <= set(SCOPES):
            got = options["scopes"]
            raise CommandError(f"--scopes: expected {','.join(SCOPES)}, got {got}", returncode=2)
        days = options["days"]
        if days < 0:
            raise CommandError(f"--days: expected 0 or more, got {days}", returncode=2)
        user = User.objects.filter(username=options["user"]).first()
        if user is None:
            raise CommandError(f"--user: no user {options['user']!r}", returncode=2)
        expires_at = timezone.now() + timedelta(days=days) if days else None
        token, secret = issue(user, scopes, expires_at)
        if not options["json"]:
            self.stdout.write(secret)
            return
        shown: dict[str, Any] = {
            "token": secret,
            "prefix": token.prefix,
            "user": user.username,
            "scopes": scopes,
        }
        shown["expires_at"] = expires_at.isoformat() if expires_at else None
        self.stdout.write(json.dumps(shown))
