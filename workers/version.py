"""The version of this code, recorded with each run."""

from __future__ import annotations

VERSION = "0.1.0"
