"""Where configuration comes from: one YAML file and the environment. The only reader of os.environ."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import yaml

from drakkar_site.config.tree import Config


def load() -> Config:
    """Read ``DRAKKAR_CONFIG`` (default ``drakkar.yaml``), environment over file."""
    path = Path(os.environ.get("DRAKKAR_CONFIG", "drakkar.yaml"))
    tree: dict[str, Any] = yaml.safe_load(path.read_text()) if path.exists() else {}
    for name, value in os.environ.items():
        if name.startswith("DRAKKAR_") and "__" in name:
            *parents, last = name.removeprefix("DRAKKAR_").lower().split("__")
            node = tree
            for parent in parents:
                node = node.setdefault(parent, {})
            node[last] = yaml.safe_load(value)
    return Config.model_validate(tree)
