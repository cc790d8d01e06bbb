from django.db import migrations

# How far each shard of the stream of events was read: it moves in the transaction that records what was read (metering/events/stream.py).
TABLE = """
CREATE TABLE metering_stream (
    shard text PRIMARY KEY,
    position text NOT NULL DEFAULT '0-0'
)
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0009_alerts")]
    operations = [migrations.RunSQL(TABLE, "DROP TABLE metering_stream")]
