"""Only with a second database: ``tests/process/test_history_apart.py`` runs these."""

from __future__ import annotations

import os

from tests.conftest import HISTORY_APART

collect_ignore_glob = [] if HISTORY_APART in os.environ else ["test_*.py"]
