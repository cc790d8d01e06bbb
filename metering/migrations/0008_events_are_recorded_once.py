from django.db import migrations

# Kept for ever, so it is small: 128 bits of SHA-256 over source and id stand for both (metering/events/ingest.py).
TABLE = """
CREATE TABLE metering_event (
    tenant_id uuid NOT NULL,
    digest bytea NOT NULL CONSTRAINT event_digest_length CHECK (octet_length(digest) = 16),
    call_id uuid NOT NULL,
    CONSTRAINT event_once PRIMARY KEY (tenant_id, digest)
)
"""


class Migration(migrations.Migration):
    dependencies = [("metering", "0007_restriction")]
    operations = [migrations.RunSQL(TABLE, "DROP TABLE metering_event")]
