"""Events of the history by plain SQL: bench and verdict do not use the product's own reading."""

from __future__ import annotations

TOLD = """(
    SELECT run, ts, seq, kind, topic, partition, "offset", duration_ms, data
    FROM recorder_event WHERE kind <> 'message'
    UNION ALL
    SELECT run, ts - make_interval(secs => (step->>0)::float8 / 1000000),
        seq - length(data->>'kinds') + n,
        ('{"c": "consumed", "a": "arranged", "s": "task_started", "e": "task_completed",
           "p": "collected", "d": "delivered", "m": "message_completed"}'::json
        )->>substr(data->>'kinds', n, 1),
        topic, partition, "offset", NULL, NULL
    FROM recorder_event CROSS JOIN LATERAL generate_series(1, length(data->>'kinds')) n
        CROSS JOIN LATERAL (SELECT (data->>'steps')::jsonb->n) s (step)
    WHERE kind = 'message'
)"""
"""A row an event, as docs/events.md describes them; usual events of messages without columns of
their own."""
COUNT_FATES = f"SELECT count(*) FROM {TOLD} told WHERE kind = 'message_completed'"  # noqa: S608
