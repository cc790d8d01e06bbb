"""The table of Django's database cache, which the sign-in's limits are counted in."""

from django.db import migrations

TABLE = """
CREATE TABLE tenants_cache (
    cache_key varchar(255) NOT NULL PRIMARY KEY,
    value text NOT NULL,
    expires timestamptz NOT NULL
);
CREATE INDEX tenants_cache_expires ON tenants_cache (expires);
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0007_addresses_of_users")]
    operations = [migrations.RunSQL(TABLE, "DROP TABLE tenants_cache;")]
