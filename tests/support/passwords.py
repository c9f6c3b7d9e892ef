"""Passwords that cost a test nothing; a site beside the test reads them all the same."""

from __future__ import annotations

from django.contrib.auth.hashers import PBKDF2PasswordHasher


class QuickHasher(PBKDF2PasswordHasher):
    """Django's own hasher with one round: its million cost half a second of CPU a password."""

    iterations = 1
