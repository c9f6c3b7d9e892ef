from typing import Any

import django.contrib.postgres.indexes
from django.db import migrations, models

# Built one partition after the other, beside whoever writes: a history may be large, and workers
# go on meanwhile. What is interrupted is taken up again by the next ``migrate``.
BUILT = {
    "event_by_kind_unfolded": "(kind, partition, ts, id) WHERE kind <> 'message'",
    "event_by_id": "USING brin (id) WITH (autosummarize = on)",
}
PARTITIONS = (
    "SELECT inhrelid::regclass::text FROM pg_inherits"
    " WHERE inhparent = 'recorder_event'::regclass ORDER BY 1"
)
IS_ATTACHED = (
    "SELECT 1 FROM pg_inherits JOIN pg_index ON indexrelid = inhrelid"
    " WHERE inhparent = %s::regclass AND indrelid = %s::regclass"
)


def build(_apps: Any, schema_editor: Any) -> None:
    with schema_editor.connection.cursor() as cursor:
        for name, definition in BUILT.items():
            cursor.execute(f"CREATE INDEX IF NOT EXISTS {name} ON ONLY recorder_event {definition}")
            cursor.execute(PARTITIONS)
            for (partition,) in cursor.fetchall():
                cursor.execute(IS_ATTACHED, [name, partition])
                if cursor.fetchone() is None:
                    part = partition.replace("recorder_event", name)
                    cursor.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {part}")
                    cursor.execute(f"CREATE INDEX CONCURRENTLY {part} ON {partition} {definition}")
                    cursor.execute(f"ALTER INDEX {name} ATTACH PARTITION {part}")


class Migration(migrations.Migration):
    atomic = False

    dependencies = [
        ("recorder", "0005_run_process"),
    ]

    operations = [
        migrations.SeparateDatabaseAndState(
            state_operations=[
                migrations.RemoveIndex(model_name="event", name="event_by_kind"),
                migrations.AddIndex(
                    model_name="event",
                    index=models.Index(
                        condition=models.Q(("kind", "message"), _negated=True),
                        fields=["kind", "partition", "ts", "id"],
                        name="event_by_kind_unfolded",
                    ),
                ),
                migrations.AddIndex(
                    model_name="event",
                    index=django.contrib.postgres.indexes.BrinIndex(
                        autosummarize=True, fields=["id"], name="event_by_id"
                    ),
                ),
            ],
            database_operations=[
                migrations.RunPython(
                    build,
                    lambda apps, schema_editor: schema_editor.execute(
                        f"DROP INDEX {', '.join(BUILT)}"
                    ),
                    hints={"model_name": "event"},
                ),
                migrations.RunSQL(
                    "DROP INDEX IF EXISTS event_by_kind",
                    "CREATE INDEX event_by_kind ON recorder_event (kind, partition, ts, id)",
                    hints={"model_name": "event"},
                ),
                migrations.RunSQL(
                    "ALTER TABLE recorder_event DROP CONSTRAINT IF EXISTS recorder_event_pkey",
                    "ALTER TABLE recorder_event ADD PRIMARY KEY (id, ts)",
                    hints={"model_name": "event"},
                ),
            ],
        ),
    ]
