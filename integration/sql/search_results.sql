-- The table of cluster main's Postgres sink.
CREATE TABLE IF NOT EXISTS search_results (
    request_id text PRIMARY KEY,
    pattern text,
    match_count int,
    duration_seconds real,
    created_at timestamptz DEFAULT now()
);
