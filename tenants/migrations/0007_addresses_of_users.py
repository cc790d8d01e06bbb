"""Whoever has an account already was let in by an operator or has used it: their address counts as confirmed."""

from django.db import migrations

ADDRESSES = """
INSERT INTO account_emailaddress (user_id, email, verified, "primary")
SELECT id, email, true, true FROM tenants_user
ON CONFLICT DO NOTHING
"""


class Migration(migrations.Migration):
    dependencies = [
        ("tenants", "0006_archived_projects_and_rotated_keys"),
        ("account", "0009_emailaddress_unique_primary_email"),
    ]
    operations = [migrations.RunSQL(ADDRESSES, migrations.RunSQL.noop)]
