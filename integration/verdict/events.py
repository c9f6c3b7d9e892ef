"""Rows of the tables of the recorder and of the letters, by plain SQL."""

from __future__ import annotations

import time
from collections import defaultdict
from typing import Any

import psycopg

from integration.demo.clusters import LETTERS_TOPIC
from integration.told import TOLD
from integration.verdict.case import Fault, RunEvents
from integration.verdict.order import Source, Step
from integration.verdict.owners import Silence, Told

ROWS_SECONDS = 5.0
POLL_SECONDS = 0.2
PASSED_OVER = "has its fate from an earlier owner of the partition"
"""Reason of the fate of a message that ended above the commit of an earlier owner."""


def letter_rows(
    database: psycopg.Connection[Any], cluster: str, wanted: int, seconds: float = ROWS_SECONDS
) -> int:
    """Rows of letters; the controller may still be writing what a killed worker did not."""
    deadline = time.monotonic() + seconds
    query = "SELECT count(*) FROM sinks_deadletter WHERE cluster = %s AND letter_topic = %s"
    while True:
        ((found,),) = database.execute(query, [cluster, LETTERS_TOPIC]).fetchall()
        if found >= wanted or time.monotonic() >= deadline:
            return int(found)
        time.sleep(POLL_SECONDS)


class Events:
    """Plain SQL over the recorder's tables: the verdict does not use the product's own reading."""

    def __init__(self, database: psycopg.Connection[Any], topic: str, cluster: str) -> None:
        self._database = database
        self._cluster = cluster
        self._number = f"CASE e.topic WHEN '{topic}' THEN e.partition ELSE -1 - e.partition END"
        """Number of a partition of the source, or of the retry topic (``retry_number``)."""

    def _rows(self, columns: str, where: str, tail: str = "") -> list[tuple[Any, ...]]:
        query = (
            f"SELECT {columns} FROM {TOLD} e JOIN recorder_run r ON r.id = e.run "  # noqa: S608
            f"WHERE r.cluster = %s AND {where} {tail}"
        )
        return self._database.execute(query.encode(), [self._cluster]).fetchall()

    def times(self, kind: str, where: str = "true") -> dict[Source, list[float]]:
        """When events of a kind happened, by message."""
        found: defaultdict[Source, list[float]] = defaultdict(list)
        columns = f'{self._number}, e."offset", extract(epoch FROM e.ts)::float8'
        for partition, offset, at in self._rows(columns, f"e.kind = '{kind}' AND {where}"):
            found[(partition, offset)].append(at)
        return dict(found)

    def fates(self) -> dict[Source, list[float]]:
        """When each message got its fate; an owner that passes over it gives it none anew."""
        anew = f"e.data->>'reason' IS DISTINCT FROM '{PASSED_OVER}'"
        return self.times("message_completed", anew)

    def count(self, kind: str) -> int:
        """Return how many events of a kind there are."""
        return int(self._rows("count(*)", f"e.kind = '{kind}'")[0][0])

    def unclean_ends(self) -> list[Fault]:
        """Drains past their budget, of a worker or a partition: duplicates may follow."""
        where = "e.kind IN ('worker_stopped', 'revoked') AND NOT (e.data->>'clean')::bool"
        began = "extract(epoch FROM e.ts)::float8 - coalesce(e.duration_ms, 0) / 1000"
        return [
            Fault(at=at, kind="unclean", worker=worker, partition=partition)
            for at, worker, partition in self._rows(f"{began}, r.worker, {self._number}", where)
        ]

    def unclean_revokes(self) -> list[Silence]:
        """Loops that were slower than the budget of a revoke: their last acts come late."""
        where = "e.kind = 'revoked' AND NOT (e.data->>'clean')::bool"
        ended = "extract(epoch FROM e.ts)::float8"
        return [
            Silence(worker=worker, began=ended_at - seconds, until=ended_at)
            for ended_at, seconds, worker in self._rows(
                f"{ended}, e.duration_ms / 1000, r.worker", where
            )
        ]

    def told(self) -> list[Told]:
        """Every begin and end of an epoch, and what was delivered and ended between."""
        kinds = "('assigned', 'revoked', 'lost', 'delivered', 'message_completed')"
        columns = "extract(epoch FROM e.ts)::float8, e.run::text, r.worker, e.seq, e.kind"
        columns += f", {self._number}, (e.data->>'epoch')::int"
        where = f"e.kind IN {kinds} AND e.partition IS NOT NULL"
        return [
            Told(at=at, run=run, worker=worker, seq=seq, kind=kind, partition=number, epoch=epoch)
            for at, run, worker, seq, kind, number, epoch in self._rows(columns, where)
        ]

    def steps(self) -> list[Step]:
        """Each begin of an epoch, and each start and end of what was done for a message."""
        columns = (
            f'extract(epoch FROM e.ts)::float8, e.run::text, e.kind, {self._number}, e."offset"'
        )
        where = "e.kind IN ('assigned', 'task_started', 'message_completed')"
        return [
            Step(at=at, run=run, kind=kind, source=(partition, offset or 0))
            for at, run, kind, partition, offset in self._rows(columns, where)
        ]

    def is_ordered(self) -> bool:
        """Whether the handler gives its tasks the file they search as their key."""
        asked = "SELECT bool_or(config->'app'->>'order_by_file' = 'true') FROM recorder_run "
        asked += "WHERE cluster = %s"
        ((found,),) = self._database.execute(asked, [self._cluster]).fetchall()
        return bool(found)

    def runs(self) -> list[RunEvents]:
        """Rows, seqs and shed counts of each run."""
        of_run = "coalesce(nullif(e.data->>'of_run', ''), e.run::text)"
        shed = {
            str(run): sum(sum(data["shed"].values()) for data in found)
            for run, found in self._rows(
                f"{of_run}, jsonb_agg(e.data)", "e.kind = 'recorder_shed'", f"GROUP BY {of_run}"
            )
        }
        columns = "e.run::text, r.worker, bool_or(e.kind = 'worker_stopped')"
        columns += ", count(*), min(e.seq), max(e.seq)"
        return [
            RunEvents(
                run=run,
                worker=worker,
                has_stopped=has_stopped,
                rows=rows,
                first_seq=first,
                last_seq=last,
                shed=shed.get(run, 0),
            )
            for run, worker, has_stopped, rows, first, last in self._rows(
                columns, "true", "GROUP BY e.run, r.worker"
            )
        ]
