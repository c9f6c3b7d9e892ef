from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("sinks", "0004_edited_replay"),
    ]

    operations = [
        migrations.AddField(
            model_name="deadletter",
            name="traceback",
            field=models.TextField(blank=True, db_default="", default=""),
        ),
    ]
