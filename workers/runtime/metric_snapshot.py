"""Metrics of a process as JSON, for the row of its run; what it exports is what is kept."""

from __future__ import annotations

import logging
import math
from typing import Any

from prometheus_client import CollectorRegistry

MAX_SAMPLES = 5000
OF_THE_RUN = frozenset({"cluster", "worker"})

logger = logging.getLogger("drakkar.metrics")


def metric_snapshot(registry: CollectorRegistry) -> dict[str, Any] | None:
    """``{families: [{name, type, help, samples: [[name, labels, value]]}], left_out}``.

    ``cluster`` and ``worker`` are the run's and left out; values JSON cannot say are text. At most
    5,000 samples, ``left_out`` counts the others. None when a metric of the handler's raised.
    """
    families: list[dict[str, Any]] = []
    room, left_out = MAX_SAMPLES, 0
    try:
        for family in registry.collect():
            samples = [_sample(each) for each in family.samples if _is_kept(each)]
            left_out += max(0, len(samples) - room)
            samples = samples[:room]
            room -= len(samples)
            if samples:
                told = {"name": family.name, "type": family.type, "help": family.documentation}
                families.append({**told, "samples": samples})
    except Exception:  # a callback of the handler's own metrics may raise anything
        logger.warning("metrics: not recorded, one of them raised", exc_info=True)
        return None
    return {"families": families, "left_out": left_out}


def _is_kept(sample: Any) -> bool:
    return not sample.name.endswith("_created")


def _sample(sample: Any) -> list[Any]:
    labels = {name: text for name, text in sample.labels.items() if name not in OF_THE_RUN}
    value = float(sample.value)
    return [sample.name, labels, value if math.isfinite(value) else str(value)]
