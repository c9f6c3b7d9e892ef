"""What production asks for: a clean deploy check, TLS by the proxy, only known hosts."""

from __future__ import annotations

import json
import os
import secrets
import subprocess
import sys
from pathlib import Path

import pytest
from django.test import Client

CHECKOUT = Path(__file__).parents[2]
CHECK = [sys.executable, "manage.py", "check", "--deploy", "--fail-level", "WARNING"]
PRODUCTION = {
    "DRAKKAR_SITE__PUBLIC_URL": "https://drakkar.example",
    "DRAKKAR_SITE__ALLOWED_HOSTS": '["drakkar.example"]',
    "DRAKKAR_SITE__CSRF_TRUSTED_ORIGINS": '["https://drakkar.example"]',
    "DRAKKAR_SITE__SECRET_KEY": secrets.token_urlsafe(64),
}
FIRING = """
import json, django
django.setup()
from django.conf import settings
from django.core.checks import run_checks
found = sorted(each.id for each in run_checks(include_deployment_checks=True))
print(json.dumps([found, settings.SILENCED_SYSTEM_CHECKS]))
"""
SILENT = ["security.W005", "security.W008", "security.W021"]
"""Subdomains and preload lists are the domain's owner's to promise; the proxy redirects to TLS."""
ASK = """
import json, django
django.setup()
from django.conf import settings
from django.test import Client
headers = {"Host": "drakkar.example", "X-Forwarded-Proto": "https"}
answer = Client().get("/healthz", headers=headers)
cookies = [settings.SESSION_COOKIE_SECURE, settings.CSRF_COOKIE_SECURE]
print(json.dumps([answer.status_code, dict(answer.headers), cookies]))
"""


def run(argv: list[str], **more: str) -> subprocess.CompletedProcess[str]:
    """The command with production's environment, of which some is changed."""
    env = {**os.environ, **PRODUCTION, **more, "DJANGO_SETTINGS_MODULE": "drakkar_site.settings"}
    return subprocess.run(
        argv, cwd=CHECKOUT, env=env, capture_output=True, text=True, timeout=60, check=False
    )


def test_the_deploy_check_is_clean() -> None:
    done = run(CHECK)
    assert done.returncode == 0, done.stderr
    assert "no issues" in done.stdout


def test_nothing_is_silenced_but_what_is_others_to_promise() -> None:
    done = run([sys.executable, "-c", FIRING])
    found, silenced = json.loads(done.stdout.splitlines()[-1])
    assert (found, silenced) == (SILENT, SILENT)


def test_the_deploy_check_names_what_is_not_for_production() -> None:
    bad = {
        "DEBUG": "true",
        "PUBLIC_URL": "http://drakkar.example",
        "SECRET_KEY": "development-only-but-long-enough",
        "AUTH_TOKEN": "a-token-for-tests",
    }
    done = run(CHECK, **{f"DRAKKAR_SITE__{name}": value for name, value in bad.items()})
    assert done.returncode == 1
    for told in "security.W018 security.W012 security.W009 drakkar.W001 drakkar.W002".split():
        assert told in done.stderr
    assert "a-token-for-tests" not in done.stderr


def test_answers_behind_tls_have_secure_headers_and_cookies() -> None:
    done = run([sys.executable, "-c", ASK], DRAKKAR_SITE__HSTS_SECONDS="600")
    status, headers, secure = json.loads(done.stdout.splitlines()[-1])
    assert status == 200
    assert headers["Strict-Transport-Security"] == "max-age=600"
    assert headers["Referrer-Policy"] == "same-origin"
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert secure == [True, True]


@pytest.mark.django_db
def test_only_known_hosts_are_answered(client: Client) -> None:
    assert client.get("/login/", headers={"Host": "localhost"}).status_code == 200
    assert client.get("/login/", headers={"Host": "elsewhere.example"}).status_code == 400
