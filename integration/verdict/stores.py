"""Reads what cluster ``main`` stored by request: rows, documents and summaries."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import psycopg
from pymongo import MongoClient
from redis import Redis

from integration.demo.clusters import ARCHIVE_COLLECTION, DATABASE, SUMMARY_PREFIX

SUMMARIES = "summaries"
WAIT_SECONDS = 10

Store = Mapping[str, list[int]]
"""The counts stored for each request id: one, unless it was stored more than once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """Addresses of the stores."""

    database_url: str
    redis_url: str
    mongo_uri: str

    def read(self) -> dict[str, Store]:
        """By name of the sink. Raises the drivers' errors."""
        return {
            "metrics": _grouped(self._rows()),
            "archive": _grouped(self._documents()),
            SUMMARIES: _grouped(self._summaries()),
        }

    def _rows(self) -> Iterable[tuple[str, int]]:
        with psycopg.connect(self.database_url, connect_timeout=WAIT_SECONDS) as connection:
            return connection.execute(
                "SELECT request_id, match_count FROM search_results"
            ).fetchall()

    def _documents(self) -> Iterable[tuple[str, int]]:
        with MongoClient[dict[str, Any]](self.mongo_uri, timeoutMS=WAIT_SECONDS * 1000) as client:
            found = client[DATABASE][ARCHIVE_COLLECTION].find()
            return [(document["request_id"], document["match_count"]) for document in found]

    def _summaries(self) -> Iterable[tuple[str, int]]:
        with Redis.from_url(self.redis_url, socket_timeout=WAIT_SECONDS) as client:
            names = sorted(set(client.scan_iter(match=SUMMARY_PREFIX + "*", count=1000)))
            values = client.mget(names) if names else []
        pairs = zip(names, values, strict=True)
        return [
            (name.decode().removeprefix(SUMMARY_PREFIX), json.loads(value)["match_count"])
            for name, value in pairs
            if value is not None
        ]


def _grouped(pairs: Iterable[tuple[str, int]]) -> Store:
    store: defaultdict[str, list[int]] = defaultdict(list)
    for request_id, count in pairs:
        store[request_id].append(count)
    return store
