"""Rollups beside the events that they were made of, by plain SQL."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

MINUTE, HOUR, DAY = 60, 3_600, 86_400
_DURATION_AT = '\'{"e": 5, "d": 5, "m": 2}\'::json'
"""Place of the duration among the values of a step (docs/events.md)."""
EVENTS = f"""
    SELECT run, floor(extract(epoch FROM ts) / 60)::bigint * 60 AS start,
        CASE kind WHEN 'skipped' THEN 'message_completed' ELSE kind END AS kind,
        CASE kind WHEN 'skipped' THEN (data->>'offsets')::bigint ELSE 1 END AS count,
        CASE WHEN kind IN ('task_retried', 'skipped') THEN NULL ELSE duration_ms END AS ms
    FROM recorder_event WHERE kind <> 'message'
    UNION ALL
    SELECT run,
        floor(extract(epoch FROM ts - make_interval(secs => (step->>0)::float8 / 1000000)) / 60
            )::bigint * 60,
        ('{{"c": "consumed", "e": "task_completed", "d": "delivered", "m": "message_completed"}}'
            ::json)->>code, 1, (step->>((({_DURATION_AT})->>code)::int))::float8
    FROM recorder_event
        CROSS JOIN LATERAL generate_series(1, length(data->>'kinds')) n
        CROSS JOIN LATERAL (
            SELECT (data->>'steps')::jsonb->n, substr(data->>'kinds', n, 1)) s (step, code)
    WHERE kind = 'message' AND code IN ('c', 'e', 'd', 'm')
"""  # noqa: S608 - own names
COUNTED = ("consumed", "message_completed", "task_completed", "task_failed", "task_cancelled",
           "task_retried", "delivered", "delivery_failed", "dead_lettered")  # fmt: skip
KIND_OF = """CASE subject WHEN 'input' THEN 'consumed' WHEN 'message' THEN 'message_completed'
    WHEN 'task' THEN 'task_' || outcome WHEN 'retry' THEN 'task_retried'
    WHEN 'letter' THEN 'dead_lettered'
    ELSE CASE outcome WHEN 'failed' THEN 'delivery_failed' ELSE outcome END END"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rolled:
    """Events of a run, minute and kind, as stored (``told``) and as rolled up, with the sums of
    their durations in microseconds; ``shed``: of the whole run, accounted for and not stored."""

    run: str
    start: int
    kind: str
    told: int
    rolled: int
    told_us: int
    rolled_us: int
    shed: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spans:
    """Count of a subject by minutes, hours and days."""

    subject: str
    minutes: int
    hours: int
    days: int


def rolled(database: psycopg.Connection[Any], cluster: str) -> list[Rolled]:
    """Return both sides of each run, minute and kind of the cluster."""
    query = f"""
        WITH told AS (
            SELECT run, start, kind, sum(count)::bigint AS n,
                coalesce(sum(round((ms * 1000)::numeric)), 0)::bigint AS us
            FROM ({EVENTS}) e WHERE kind = ANY(%(kinds)s) GROUP BY 1, 2, 3
        ), rolled AS (
            SELECT run, start, {KIND_OF} AS kind, sum(count)::bigint AS n,
                sum(duration_us)::bigint AS us
            FROM recorder_rollup WHERE step = 60 AND subject <> 'label' GROUP BY 1, 2, 3
        ), shed AS (
            SELECT coalesce(nullif(data->>'of_run', ''), run::text) AS run, key AS kind,
                sum(value::bigint)::bigint AS n
            FROM recorder_event, jsonb_each_text(data->'shed')
            WHERE recorder_event.kind = 'recorder_shed' GROUP BY 1, 2
        )
        SELECT r.id::text, start, coalesce(told.kind, rolled.kind),
            coalesce(told.n, 0), coalesce(rolled.n, 0),
            coalesce(told.us, 0), coalesce(rolled.us, 0), coalesce(shed.n, 0)
        FROM told FULL JOIN rolled USING (run, start, kind)
        JOIN recorder_run r ON r.id = coalesce(told.run, rolled.run)
        LEFT JOIN shed ON shed.run = r.id::text AND shed.kind = coalesce(told.kind, rolled.kind)
        WHERE r.cluster = %(cluster)s ORDER BY 1, 2, 3
    """  # noqa: S608 - own names
    found = database.execute(query, {"kinds": list(COUNTED), "cluster": cluster}).fetchall()
    names = ("run", "start", "kind", "told", "rolled", "told_us", "rolled_us", "shed")
    return [Rolled(**dict(zip(names, row, strict=True))) for row in found]


def spans(database: psycopg.Connection[Any], cluster: str) -> list[Spans]:
    """Return the counts of each subject by each span of time."""
    sums = (f"coalesce(sum(count) FILTER (WHERE step = {step}), 0)::bigint"
            for step in (MINUTE, HOUR, DAY))  # fmt: skip
    query = f"""
        SELECT subject, {", ".join(sums)} FROM recorder_rollup u
        JOIN recorder_rollupsource s ON s.id = u.source WHERE s.cluster = %s GROUP BY 1
    """  # noqa: S608 - own names
    return [
        Spans(subject=subject, minutes=minutes, hours=hours, days=days)
        for subject, minutes, hours, days in database.execute(query, [cluster]).fetchall()
    ]


def unequal(found: Sequence[Rolled], by_span: Sequence[Spans]) -> Iterator[str]:
    """Yield where rollups are not the events. What was shed is known by run and kind only, and
    its durations are not known."""
    shed_of: dict[tuple[str, str], list[Rolled]] = {}
    for each in found:
        if each.shed:
            shed_of.setdefault((each.run, each.kind), []).append(each)
            continue
        where = f"run {each.run}, minute {each.start}, {each.kind}"
        if each.told != each.rolled:
            yield f"{where}: {each.told} events, {each.rolled} in the rollup"
        elif abs(each.told_us - each.rolled_us) > each.told:
            yield f"{where}: {each.told_us} us of events, {each.rolled_us} us in the rollup"
    for (run, kind), parts in shed_of.items():
        told, rolled_up = sum(each.told for each in parts), sum(each.rolled for each in parts)
        if told + parts[0].shed != rolled_up:
            yield (f"run {run}, {kind}: {told} events and {parts[0].shed} shed, {rolled_up} in "
                   "the rollups")  # fmt: skip
    for each_span in by_span:
        counts = (each_span.minutes, each_span.hours, each_span.days)
        if len(set(counts)) > 1:
            yield f"{each_span.subject}: by minutes, hours and days {counts}"
