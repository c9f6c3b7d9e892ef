"""What the faults need of the neighbours: scenes for real workers."""

from __future__ import annotations

from tests.process.conftest import make_scene, process_database, scene

__all__ = ["make_scene", "process_database", "scene"]
