"""Chance for back-off: not Python's global generator, which a handler may seed or draw from."""

from __future__ import annotations

import random

chance = random.SystemRandom().random
"""Return a number from 0 to below 1."""
