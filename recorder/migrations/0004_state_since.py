from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("recorder", "0003_run_track"),
    ]

    operations = [
        migrations.AddField(
            model_name="runstate",
            name="state_since",
            field=models.DateTimeField(null=True),
        ),
    ]
