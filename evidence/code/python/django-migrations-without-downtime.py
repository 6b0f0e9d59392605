from django.apps.registry import Apps
from django.db.backends.base.schema import BaseDatabaseSchemaEditor


def backfill_channel(apps: Apps, schema_editor: BaseDatabaseSchemaEditor) -> None:
    schema_editor.execute("UPDATE shop_order SET channel = 'web'")


<<CELL>>
