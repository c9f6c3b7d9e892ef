import django.db.models.deletion
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sinks", "0005_letter_traceback"),
    ]

    operations = [
        migrations.AddField(
            model_name="replay",
            name="job",
            field=models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="replays",
                to="sinks.letterjob",
            ),
        ),
    ]
