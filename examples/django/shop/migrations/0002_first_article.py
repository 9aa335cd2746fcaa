"""Something to order."""

from django.db import migrations


def stock(apps, schema_editor):
    apps.get_model("shop", "Article").objects.create(name="tea", left_over=3)


class Migration(migrations.Migration):
    dependencies = (("shop", "0001_initial"),)
    operations = (migrations.RunPython(stock, migrations.RunPython.noop),)
