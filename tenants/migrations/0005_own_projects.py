"""What a constraint of one row cannot say: the projects that a member sees are the tenant's own."""

from django.db import migrations

OWN_PROJECTS = """
ALTER TABLE tenants_memberproject
    ADD CONSTRAINT member_project_of_member FOREIGN KEY (tenant_id, membership_id)
        REFERENCES tenants_membership (tenant_id, id) DEFERRABLE INITIALLY DEFERRED,
    ADD CONSTRAINT member_project_of_tenant FOREIGN KEY (tenant_id, project_id)
        REFERENCES tenants_project (tenant_id, id) DEFERRABLE INITIALLY DEFERRED;
"""
OWN_PROJECTS_UNDONE = """
ALTER TABLE tenants_memberproject
    DROP CONSTRAINT member_project_of_member, DROP CONSTRAINT member_project_of_tenant;
"""


class Migration(migrations.Migration):
    dependencies = [("tenants", "0004_member_projects")]

    operations = [
        migrations.RunSQL(OWN_PROJECTS, OWN_PROJECTS_UNDONE),
    ]
