"""In every configuration that is shipped, a handler delivers to the cluster's sinks and to all."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from drakkar_site.config.sources import State, load
from integration.demo.clusters import FILE_OVER, WEBHOOK_OVER
from integration.handlers.fast import CountRequest, SymbolCountHandler
from integration.handlers.main import SearchHandler, SearchRequest
from tests.support.deployments import ROOT, compose_state, kubernetes_state
from tests.support.results import ended_well
from workers.handler import Handler, Payload
from workers.runtime.build import load_handler

PRINTED: dict[type[Handler[Any]], tuple[object, tuple[bytes, ...]]] = {
    SearchHandler: (
        SearchRequest(request_id="r1", pattern="def", file_path="a.py", repeat=1),
        tuple(b"line\n" * count for count in (0, WEBHOOK_OVER + 1, FILE_OVER + 1)),
    ),
    SymbolCountHandler: (
        CountRequest(request_id="r1", file_path="a.py"),
        (b'{"file_path": "a.py", "symbol_count": 12}\n',),
    ),
}
"""Of each handler a message and what its task may print, on either side of every threshold."""


def collected(handler: Handler[Any]) -> list[Payload]:
    message, outputs = PRINTED[type(handler)]
    return [
        payload
        for stdout in outputs
        for payload in asyncio.run(handler.collect(ended_well(message, stdout)))
    ]


def shipped(place: str, folder: Path) -> State:
    if place == "kubernetes":
        return kubernetes_state(folder)
    if place == "compose":
        return compose_state("web")
    return load({"DRAKKAR_CONFIG": str(ROOT / "drakkar.yaml")})


@pytest.mark.parametrize("place", ["file", "compose", "kubernetes"])
def test_a_handler_delivers_to_its_clusters_sinks_and_to_all_of_them(
    place: str, tmp_path: Path
) -> None:
    state = shipped(place, tmp_path)
    assert state.problems == ()
    assert state.config is not None
    assert state.config.clusters
    for cluster in state.config.clusters.values():
        delivered = {(one.sink, one.kind) for one in collected(load_handler(cluster))}
        assert delivered == {(name, own.kind) for name, own in cluster.sinks.items()}
