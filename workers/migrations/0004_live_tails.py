"""Tables of live tails. Unlogged: what they hold lives for seconds, and a crash may empty them."""

import uuid

import django.db.models.functions.datetime
from django.db import migrations, models

UNLOGGED = [
    migrations.RunSQL(
        f"ALTER TABLE {table} SET UNLOGGED", reverse_sql=f"ALTER TABLE {table} SET LOGGED"
    )
    for table in ("workers_taillease", "workers_tailchunk")
]


class Migration(migrations.Migration):
    dependencies = [
        ("workers", "0003_reruns"),
    ]

    operations = [
        migrations.CreateModel(
            name="TailLease",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, primary_key=True, serialize=False)),
                ("run", models.UUIDField()),
                ("task_id", models.CharField(max_length=255)),
                (
                    "began_at",
                    models.DateTimeField(db_default=django.db.models.functions.datetime.Now()),
                ),
                ("expires_at", models.DateTimeField()),
            ],
            options={
                "indexes": [models.Index(fields=["run", "task_id"], name="tail_lease_of_task")],
            },
        ),
        migrations.CreateModel(
            name="TailChunk",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("run", models.UUIDField()),
                ("task_id", models.CharField(max_length=255)),
                ("seq", models.BigIntegerField()),
                ("attempt", models.IntegerField(null=True)),
                ("stream", models.CharField(default="", max_length=6)),
                ("offset", models.BigIntegerField(default=0)),
                ("data", models.BinaryField(null=True)),
                ("facts", models.JSONField(null=True)),
            ],
            options={
                "constraints": [
                    models.UniqueConstraint(
                        fields=("run", "task_id", "seq"), name="tail_chunk_in_order"
                    )
                ],
            },
        ),
        *UNLOGGED,
    ]
