"""Metrics of the handler's own on the worker's port, told apart from ours by ``source="user"``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from domain.text_bounds import MAX_REASON, MAX_VALUE, shortened
from recorder.rows import clean


def user_metrics(handler: type[Any]) -> list[MetricWrapperBase]:
    """prometheus_client metrics held by a handler's class or by a base of it, each once."""
    held: dict[str, Any] = {}
    for cls in reversed(handler.__mro__):
        held |= vars(cls)
    found = {id(value): value for value in held.values() if isinstance(value, MetricWrapperBase)}
    return list(found.values())


class UserMetrics(Collector):
    """Exports them with the labels of the worker and ``source="user"``; own labels win."""

    def __init__(self, handler: type[Any], labels: Mapping[str, str]) -> None:
        self._metrics = user_metrics(handler)
        self._labels = {**labels, "source": "user"}

    def collect(self) -> Iterator[Metric]:
        """Render them; runs on the metrics port's threads."""
        for metric in self._metrics:
            for family in metric.collect():
                family.documentation = shortened(clean(family.documentation), MAX_REASON)
                family.samples = [
                    sample._replace(labels={**self._labels, **_sound(sample.labels)})
                    for sample in family.samples
                ]
                yield family


def _sound(labels: Mapping[str, str]) -> Mapping[str, str]:
    """Labels that the port can write and Postgres can hold, within the bound of a task's."""
    return {name: shortened(clean(text), MAX_VALUE) for name, text in labels.items()}
