import os
import threading
import time

import measure as m
import psycopg

URL = os.environ["DATABASE_URL"]
m.django(URL)

from django.db import connection, migrations, models
from django.db.migrations.state import ProjectState


def backfill_channel(apps, schema_editor) -> None:
    schema_editor.execute("UPDATE shop_order SET channel = 'web'")
    time.sleep(1)  # a larger table


<<CELL>>


class Before(migrations.Migration):
    operations = [
        migrations.CreateModel(
            "Order", [("id", models.BigAutoField(primary_key=True)), ("source", models.CharField(max_length=20))]
        )
    ]


class Column(migrations.Migration):
    operations = [migrations.AddField("order", "channel", models.CharField(max_length=20, db_default="web"))]


def apply(migration, state):
    with connection.schema_editor(atomic=migration.atomic) as editor:
        return migration.apply(state, editor)


state = apply(Before("0040_order", "shop"), ProjectState())
if ("shop", "0041_order_channel") in Migration.dependencies:
    state = apply(Column("0041_order_channel", "shop"), state)
with psycopg.connect(URL, autocommit=True) as old_code:
    old_code.execute("INSERT INTO shop_order (source) SELECT 'app' FROM generate_series(1, 1000)")
failed: list[str] = []
over = threading.Event()


def old_pod() -> None:
    with psycopg.connect(URL, autocommit=True, options="-c statement_timeout=500") as old:
        while True:
            last = over.is_set()
            for statement in ("SELECT source FROM shop_order LIMIT 1", "INSERT INTO shop_order (source) VALUES ('app')"):
                try:
                    old.execute(statement)
                except psycopg.Error as error:
                    failed.append(type(error).__name__)
            if last:
                return
            time.sleep(0.02)


pod = threading.Thread(target=old_pod)
pod.start()
apply(Migration("0042", "shop"), state)
over.set()
pod.join()
with psycopg.connect(URL) as check:
    [valid] = check.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'order_channel_idx'::regclass").fetchone()
m.verdict(
    valid and not failed,
    f"index valid: {valid}; the old code's statements during and after the migration failed with {sorted(set(failed)) or 'nothing'}",
)
