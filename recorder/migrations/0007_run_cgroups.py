from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("recorder", "0006_fewer_indexes"),
    ]

    operations = [
        migrations.AddField(
            model_name="run",
            name="cgroups",
            field=models.CharField(default="", max_length=255),
        ),
    ]
