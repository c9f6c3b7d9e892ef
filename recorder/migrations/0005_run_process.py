from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("recorder", "0004_state_since"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="process",
            field=models.CharField(default="", max_length=128),
        ),
    ]
